// SPDX-License-Identifier: MIT
/// @file  The walk over a model's parameters.
///
/// A model is a value and its gradient is a value of the same type; so are an optimizer's moments. A part
/// names its members once,
///
///     static constexpr auto parameters() {
///       return std::tuple(parameter("weight", &Linear::weight), vector_parameter("bias", &Linear::bias));
///     }
///
/// and for_each_parameter walks any number of such values side by side. Members may be Eigen matrices, other
/// parts, std::vector, std::optional or std::variant of parts, to any depth; a name is dotted:
/// "layers.3.gate.out.weight".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"

namespace ddl {

/// Where the walk stands. The dotted name is put together only when asked for, so that a walk allocates
/// nothing.
struct ParameterPath {
  const ParameterPath* parent = nullptr;  ///< the path of the part around it, or null at the root
  std::string_view name = {};             ///< in the part around it; empty for an entry of a list
  std::ptrdiff_t index = -1;              ///< of an entry of a list; -1 for a named member
  int rank = 2;                           ///< 1 for a vector_parameter, otherwise 2

  bool is_vector() const noexcept { return rank == 1; }  ///< whether it is a vector by meaning, as a bias is
  /// The dotted name.
  EIGEN_DONT_INLINE std::string str() const {
    const std::string own = index >= 0 ? std::to_string(index) : std::string(name);
    const std::string before = parent ? parent->str() : std::string();
    return before.empty() ? own : own.empty() ? before : before + "." + own;
  }
};

/// A part has a Scalar and lists its parameters by a static member function `parameters()`.
template <class T>
concept Part = requires {
  typename std::remove_cvref_t<T>::Scalar;
  std::remove_cvref_t<T>::parameters();
};

namespace detail {

template <class T>
inline constexpr bool is_std_vector = false;
template <class T, class A>
inline constexpr bool is_std_vector<std::vector<T, A>> = true;
template <class T>
inline constexpr bool is_std_optional = false;
template <class T>
inline constexpr bool is_std_optional<std::optional<T>> = true;
template <class T>
inline constexpr bool is_std_variant = false;
template <class... T>
inline constexpr bool is_std_variant<std::variant<T...>> = true;

}  // namespace detail

/// A member of a part and its name: what parameter() and vector_parameter() make.
template <class Owner, class Member>
struct Parameter {
  static_assert(Part<Member> || std::is_base_of_v<Eigen::EigenBase<Member>, Member> ||
                    detail::is_std_vector<Member> || detail::is_std_optional<Member> ||
                    detail::is_std_variant<Member>,
                "ddl: a parameter is an Eigen matrix, a part, or a vector, optional or variant of parts; "
                "a single number is an Eigen::Matrix<Scalar, 1, 1>");
  std::string_view name;  ///< within the part
  Member Owner::*member;  ///< where it is in the part
  int rank;               ///< 1 if it is a vector by meaning, otherwise 2
};

/// A matrix parameter, or a part, or a container of parts.
template <class Owner, class Member>
constexpr Parameter<Owner, Member> parameter(std::string_view name, Member Owner::*member) {
  return {name, member, 2};
}
/// A parameter that is one-dimensional by meaning (a bias, a norm's weight), which weight decay leaves alone.
template <class Owner, class Member>
constexpr Parameter<Owner, Member> vector_parameter(std::string_view name, Member Owner::*member) {
  return {name, member, 1};
}

namespace detail {

inline constexpr std::size_t most_models = 8;

/// What a walk meets.
enum class Node { list, optional, variant, parameter };

/// What one of the models has at a node: the size of a list, whether there is an optional part, the index of
/// a variant's alternative, or the shape and the scalars of a parameter.
template <class Scalar>
struct Entry {
  Index rows = 0, cols = 0;
  Scalar* data = nullptr;
};

/// The same node of a few models. How many there are is a number and not a type, so that the walk over a type
/// of model is compiled once, for whatever is done on the way.
template <class T>
struct Counterparts {
  std::array<T, most_models> at{};
  std::size_t count = 0;

  /// What f gives for each.
  template <class F>
  auto map(const F& f) const {
    Counterparts<decltype(f(at[0]))> mapped;
    mapped.count = count;
    for (std::size_t i = 0; i < count; ++i) mapped.at[i] = f(at[i]);
    return mapped;
  }
};

/// What a walk calls at every node, before the parts within.
template <class Scalar>
struct Visitor {
  void* context;
  void (*call)(void* context, const ParameterPath&, Node, const Counterparts<Entry<Scalar>>&);
};

/// `visit` must throw where the lists, optional parts or variants of the models differ.
template <class Scalar, class T>
void walk(const ParameterPath& path, const Counterparts<T*>& models, const Visitor<Scalar>& visit) {
  T& first = *models.at[0];
  const auto enter = [&](Node node, const auto& entry_of) {
    Counterparts<Entry<Scalar>> entries{{}, models.count};
    for (std::size_t i = 0; i < models.count; ++i) entries.at[i] = entry_of(models.at[i]);
    visit.call(visit.context, path, node, entries);
  };
  if constexpr (Part<T>) {
    const auto walk_field = [&]<class Owner, class Member>(const Parameter<Owner, Member>& field) {
      Counterparts<Member*> members{{}, models.count};
      for (std::size_t i = 0; i < models.count; ++i) members.at[i] = &(models.at[i]->*field.member);
      walk(ParameterPath{&path, field.name, -1, field.rank}, members, visit);
    };
    std::apply([&](const auto&... fields) { (walk_field(fields), ...); }, T::parameters());
  } else if constexpr (is_std_vector<T>) {
    enter(Node::list, [](T* model) { return Entry<Scalar>{static_cast<Index>(model->size())}; });
    for (std::size_t i = 0; i < first.size(); ++i)
      walk(ParameterPath{&path, {}, static_cast<std::ptrdiff_t>(i), path.rank},
           models.map([&](T* model) { return &(*model)[i]; }), visit);
  } else if constexpr (is_std_optional<T>) {
    enter(Node::optional, [](T* model) { return Entry<Scalar>{model->has_value()}; });
    if (first) walk(path, models.map([](T* model) { return &**model; }), visit);
  } else if constexpr (is_std_variant<T>) {
    enter(Node::variant, [](T* model) { return Entry<Scalar>{static_cast<Index>(model->index())}; });
    std::visit(
        [&]<class Chosen>(Chosen&) {
          walk(path, models.map([](T* model) { return &std::get<Chosen>(*model); }), visit);
        },
        first);
  } else {
    static_assert(!T::IsRowMajor || int(T::MaxRowsAtCompileTime) == 1, "ddl: parameters are column-major");
    enter(Node::parameter, [](T* model) {
      return Entry<Scalar>{model->rows(), model->cols(), model->data()};
    });
  }
}

/// A parameter of a model, const where the model is.
template <class Model, class Scalar>
auto map_of(const Entry<Scalar>& entry) {
  using Mapped = std::conditional_t<std::is_const_v<Model>, const Matrix<Scalar>, Matrix<Scalar>>;
  return Eigen::Map<Mapped>(entry.data, entry.rows, entry.cols);
}

/// Calls visit(path, node, entries) at every node of models of one type, which may be const.
template <class F, class Model, class... Rest>
void visit_nodes(const F& visit, Model& model, Rest&... rest) {
  using Plain = std::remove_const_t<Model>;
  using Scalar = typename Plain::Scalar;
  static_assert(1 + sizeof...(Rest) <= most_models, "ddl: a walk takes at most 8 models");
  const Counterparts<Plain*> models{{const_cast<Plain*>(&model), const_cast<Plain*>(&rest)...},
                                    1 + sizeof...(Rest)};
  walk<Scalar>(ParameterPath{}, models,
               {const_cast<F*>(&visit), [](void* f, const ParameterPath& path, Node node,
                                           const Counterparts<Entry<Scalar>>& entries) {
                  (*static_cast<const F*>(f))(path, node, entries);
                }});
}

[[noreturn]] EIGEN_DONT_INLINE inline void fail_at(const char* where, const char* what,
                                                   const ParameterPath& path, Node node, Index rows,
                                                   Index cols, Index expected_rows, Index expected_cols) {
  const auto text = [&](Index r, Index c) {
    return node == Node::list       ? "a list of " + std::to_string(r)
           : node == Node::optional ? std::string(r ? "present" : "absent")
           : node == Node::variant  ? "alternative " + std::to_string(r)
                                    : shape_text(r, c);
  };
  fail(where, std::string(what) + "'s " + path.str(), text(rows, cols), text(expected_rows, expected_cols));
}

}  // namespace detail

/// Checks that models have the same parameters.
/// @throws std::invalid_argument naming the first parameter of one of `given` whose shape differs from that
/// in `model`, or the first part that only one of them has, as "where: what's layers.0.norm.weight is 8 x 1,
/// expected 16 x 1".
template <class T, class... Given>
void check_same_shapes(const char* where, const char* what, const T& model, const Given&... given) {
  detail::visit_nodes(
      [&](const ParameterPath& path, detail::Node node, const auto& entries) {
        const auto& expected = entries.at[0];
        for (std::size_t i = 1; i < entries.count; ++i)
          if (const auto& is = entries.at[i]; is.rows != expected.rows || is.cols != expected.cols)
            detail::fail_at(where, what, path, node, is.rows, is.cols, expected.rows, expected.cols);
      },
      model, given...);
}

/// A number that is the same for models of the same shapes (check_same_shapes), and in practice for no
/// others.
template <class T>
std::uint64_t shape_hash(const T& model) {
  std::uint64_t hash = 0;
  detail::visit_nodes(
      [&](const ParameterPath&, detail::Node, const auto& entries) {
        for (const Index number : {entries.at[0].rows, entries.at[0].cols}) {
          hash = (hash ^ static_cast<std::uint64_t>(number)) * 0x9e3779b97f4a7c15u;
          hash ^= hash >> 29;
        }
      },
      model);
  return hash;
}

/// Calls f(path, parameter, rest's parameters...) for every non-empty parameter of `model`, in the order in
/// which the parts list them. Parameters arrive as maps of rows x cols, column-major, const where their model
/// is const.
/// @throws std::invalid_argument if the models differ in a shape (check_same_shapes); f is not called then.
template <class F, class Model, class... Rest>
void for_each_parameter(F&& f, Model& model, Rest&... rest) {
  static_assert((std::is_same_v<std::remove_const_t<Model>, std::remove_const_t<Rest>> && ...),
                "ddl: a walk takes models of one type");
  if constexpr (sizeof...(Rest) > 0) check_same_shapes("ddl::for_each_parameter", "a model", model, rest...);
  detail::visit_nodes(
      [&](const ParameterPath& path, detail::Node node, const auto& entries) {
        if (node != detail::Node::parameter || entries.at[0].rows * entries.at[0].cols == 0) return;
        const auto call = [&](auto... parameters) { f(path, parameters...); };
        [&]<std::size_t... i>(std::index_sequence<i...>) {
          call(detail::map_of<Model>(entries.at[0]), detail::map_of<Rest>(entries.at[i + 1])...);
        }
        (std::index_sequence_for<Rest...>{});
      },
      model, rest...);
}

/// A value of the model's type and shapes with every parameter zero: a gradient, a moment.
template <class Model>
Model zeros_like(const Model& model) {
  Model zeros = model;
  for_each_parameter([](const ParameterPath&, auto& p) { p.setZero(); }, zeros);
  return zeros;
}

/// Sets every parameter to zero.
template <class Model>
void set_zero(Model& model) {
  for_each_parameter([](const ParameterPath&, auto& p) { p.setZero(); }, model);
}

/// The number of scalars among the model's parameters.
template <class Model>
Index parameter_count(const Model& model) {
  Index count = 0;
  for_each_parameter([&](const ParameterPath&, const auto& p) { count += p.size(); }, model);
  return count;
}

}  // namespace ddl
