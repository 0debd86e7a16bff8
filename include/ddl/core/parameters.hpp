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
  const ParameterPath* parent = nullptr;
  std::string_view name = {};
  std::ptrdiff_t index = -1;
  int rank = 2;

  bool is_vector() const noexcept { return rank == 1; }
  std::string str() const {
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

template <class Owner, class Member>
struct Parameter {
  static_assert(Part<Member> || std::is_base_of_v<Eigen::EigenBase<Member>, Member> ||
                    detail::is_std_vector<Member> || detail::is_std_optional<Member> ||
                    detail::is_std_variant<Member>,
                "ddl: a parameter is an Eigen matrix, a part, or a vector, optional or variant of parts; "
                "a single number is an Eigen::Matrix<Scalar, 1, 1>");
  std::string_view name;
  Member Owner::*member;
  int rank;
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

/// The same part, or the same parameter's scalars, of a few models. How many there are is a number and not a
/// type, so that the walk over a type of model is compiled once.
template <class T>
struct Counterparts {
  std::array<T*, most_models> at{};
  std::size_t count = 0;

  /// The addresses that f gives for each.
  template <class F>
  auto map(const F& f) const {
    Counterparts<std::remove_pointer_t<decltype(f(*at[0]))>> mapped;
    mapped.count = count;
    for (std::size_t i = 0; i < count; ++i) mapped.at[i] = f(*at[i]);
    return mapped;
  }
};

template <class Scalar>
using ParameterVisitor = void (*)(void* context, const ParameterPath&, const Counterparts<Scalar>&,
                                  Index rows, Index cols);

/// The models have the same shapes: for_each_parameter has seen to that.
template <class Scalar, class T>
void walk(const ParameterPath& path, const Counterparts<T>& models, void* context,
          ParameterVisitor<Scalar> visit) {
  T& first = *models.at[0];
  if constexpr (Part<T>) {
    const auto walk_field = [&](const auto& field) {
      walk<Scalar>(ParameterPath{&path, field.name, -1, field.rank},
                   models.map([&](T& model) { return &(model.*(field.member)); }), context, visit);
    };
    std::apply([&](const auto&... fields) { (walk_field(fields), ...); }, T::parameters());
  } else if constexpr (is_std_vector<T>) {
    for (std::size_t i = 0; i < first.size(); ++i)
      walk<Scalar>(ParameterPath{&path, {}, static_cast<std::ptrdiff_t>(i), path.rank},
                   models.map([&](T& model) { return &model[i]; }), context, visit);
  } else if constexpr (is_std_optional<T>) {
    if (first) walk<Scalar>(path, models.map([](T& model) { return &*model; }), context, visit);
  } else if constexpr (is_std_variant<T>) {
    std::visit(
        [&]<class Chosen>(Chosen&) {
          walk<Scalar>(path, models.map([](T& model) { return &std::get<Chosen>(model); }), context, visit);
        },
        first);
  } else {
    static_assert(!T::IsRowMajor || int(T::MaxRowsAtCompileTime) == 1, "ddl: parameters are column-major");
    if (first.size() > 0)
      visit(context, path, models.map([](T& model) { return model.data(); }), first.rows(), first.cols());
  }
}

}  // namespace detail

/// @throws std::invalid_argument naming the first parameter of `given` whose shape differs from that in `model`, or
/// the first part that only one of them has, as "where: what's layers.0.norm.weight is 8 x 1, expected 16 x 1".
template <class T>
void check_same_shapes(const char* where, const char* what, const T& model, const T& given,
                       const ParameterPath& path = {}) {
  const auto differ = [&](const std::string& is, const std::string& expected) {
    fail(where, std::string(what) + "'s " + path.str(), is, expected);
  };
  if constexpr (Part<T>) {
    const auto check_field = [&](const auto& field) {
      check_same_shapes(where, what, model.*(field.member), given.*(field.member),
                        ParameterPath{&path, field.name, -1, field.rank});
    };
    std::apply([&](const auto&... fields) { (check_field(fields), ...); }, T::parameters());
  } else if constexpr (detail::is_std_vector<T>) {
    if (given.size() != model.size())
      differ("a list of " + std::to_string(given.size()), "a list of " + std::to_string(model.size()));
    for (std::size_t i = 0; i < model.size(); ++i)
      check_same_shapes(where, what, model[i], given[i],
                        ParameterPath{&path, {}, static_cast<std::ptrdiff_t>(i), path.rank});
  } else if constexpr (detail::is_std_optional<T>) {
    if (given.has_value() != model.has_value())
      differ(given ? "present" : "absent", model ? "present" : "absent");
    if (model) check_same_shapes(where, what, *model, *given, path);
  } else if constexpr (detail::is_std_variant<T>) {
    if (given.index() != model.index())
      differ("alternative " + std::to_string(given.index()), "alternative " + std::to_string(model.index()));
    std::visit(
        [&]<class Chosen>(const Chosen& chosen) {
          check_same_shapes(where, what, chosen, std::get<Chosen>(given), path);
        },
        model);
  } else if (given.rows() != model.rows() || given.cols() != model.cols()) {
    differ(shape_text(given.rows(), given.cols()), shape_text(model.rows(), model.cols()));
  }
}

/// A number that is the same for models of the same shapes (check_same_shapes), and in practice for no others.
template <class T>
std::uint64_t shape_hash(const T& part, std::uint64_t hash = 0) {
  const auto mix = [&](auto value) {
    hash = (hash ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  };
  if constexpr (Part<T>) {
    std::apply([&](const auto&... fields) { ((hash = shape_hash(part.*(fields.member), hash)), ...); },
               T::parameters());
  } else if constexpr (detail::is_std_vector<T>) {
    mix(part.size());
    for (const auto& each : part) hash = shape_hash(each, hash);
  } else if constexpr (detail::is_std_optional<T>) {
    mix(part.has_value());
    if (part) hash = shape_hash(*part, hash);
  } else if constexpr (detail::is_std_variant<T>) {
    mix(part.index());
    std::visit([&](const auto& chosen) { hash = shape_hash(chosen, hash); }, part);
  } else {
    mix(part.rows());
    mix(part.cols());
  }
  return hash;
}

/// Calls f(path, parameter, rest's parameters...) for every non-empty parameter of `model`, in the order in
/// which the parts list them. Parameters arrive as maps of rows x cols, column-major, const where their model
/// is const.
/// @throws std::invalid_argument if the models differ in a shape (check_same_shapes); f is not called then.
template <class F, class Model, class... Rest>
void for_each_parameter(F&& f, Model& model, Rest&... rest) {
  using Plain = std::remove_const_t<Model>;
  using Scalar = typename Plain::Scalar;
  using Visitor = std::remove_reference_t<F>;
  static_assert((std::is_same_v<Plain, std::remove_const_t<Rest>> && ...),
                "ddl: a walk takes models of one type");
  static_assert(1 + sizeof...(Rest) <= detail::most_models, "ddl: a walk takes at most 8 models");
  (check_same_shapes<Plain>("ddl::for_each_parameter", "a model", model, rest), ...);
  const auto visit = [](void* context, const ParameterPath& path, const detail::Counterparts<Scalar>& scalars,
                        Index rows, Index cols) {
    std::size_t i = 0;
    const auto map = [&]<class M>(std::type_identity<M>) {
      using Mapped = std::conditional_t<std::is_const_v<M>, const Matrix<Scalar>, Matrix<Scalar>>;
      return Eigen::Map<Mapped>(scalars.at[i++], rows, cols);
    };
    // Braces: maps are made in order.
    std::tuple maps{map(std::type_identity<Model>{}), map(std::type_identity<Rest>{})...};
    std::apply([&](auto&... parameters) { (*static_cast<Visitor*>(context))(path, parameters...); }, maps);
  };
  const detail::Counterparts<Plain> models{{const_cast<Plain*>(&model), const_cast<Plain*>(&rest)...},
                                           1 + sizeof...(Rest)};
  detail::walk<Scalar>(ParameterPath{}, models, const_cast<std::remove_const_t<Visitor>*>(&f), +visit);
}

/// A value of the model's type and shapes with every parameter zero: a gradient, a moment.
template <class Model>
Model zeros_like(const Model& model) {
  Model zeros = model;
  for_each_parameter([](const ParameterPath&, auto& p) { p.setZero(); }, zeros);
  return zeros;
}

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
