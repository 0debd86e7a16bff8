// SPDX-License-Identifier: MIT
/// @file  The walk over a model's parameters.
///
/// A model is a value and its gradient is a value of the same type; so are an optimizer's moments. A part
/// names its members once,
///
///     static constexpr auto parameters() {
///       return std::tuple(field("weight", &Linear::weight), vector_field("bias", &Linear::bias));
///     }
///
/// and for_each_parameter walks any number of such values side by side. Members may be Eigen matrices, other
/// parts, std::vector, std::optional or std::variant of parts, to any depth; a name is dotted:
/// "blocks.3.gate.out.weight".
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "ddl/core/check.hpp"
#include "ddl/core/scalar.hpp"

namespace ddl {

template <class Part, class Member>
struct Field {
  std::string_view name;
  Member Part::*member;
  int rank;
};

/// A matrix parameter, or a part, or a container of parts.
template <class Part, class Member>
constexpr Field<Part, Member> field(std::string_view name, Member Part::*member) {
  return {name, member, 2};
}
/// A parameter that is one-dimensional by meaning (a bias, a norm's weight), which weight decay leaves alone.
template <class Part, class Member>
constexpr Field<Part, Member> vector_field(std::string_view name, Member Part::*member) {
  return {name, member, 1};
}

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

/// A part lists its parameters by a static member function `parameters()`.
template <class T>
concept Part = requires {
  std::remove_cvref_t<T>::parameters();
};

namespace detail {

template <class T>
inline constexpr bool is_vector_of_parts = false;
template <class T, class A>
inline constexpr bool is_vector_of_parts<std::vector<T, A>> = true;
template <class T>
inline constexpr bool is_optional_part = false;
template <class T>
inline constexpr bool is_optional_part<std::optional<T>> = true;
template <class T>
inline constexpr bool is_variant_of_parts = false;
template <class... T>
inline constexpr bool is_variant_of_parts<std::variant<T...>> = true;

template <class F, class First, class... Rest>
void walk(const ParameterPath& path, F& f, First& first, Rest&... rest) {
  using T = std::remove_const_t<First>;
  if constexpr (Part<T>) {
    const auto walk_field = [&](const auto& field) {
      walk(ParameterPath{&path, field.name, -1, field.rank}, f, first.*(field.member),
           rest.*(field.member)...);
    };
    std::apply([&](const auto&... fields) { (walk_field(fields), ...); }, T::parameters());
  } else if constexpr (is_vector_of_parts<T>) {
    if (!((rest.size() == first.size()) && ...))
      throw std::invalid_argument("ddl::for_each_parameter: models differ in depth at " + path.str());
    for (std::size_t i = 0; i < first.size(); ++i)
      walk(ParameterPath{&path, {}, static_cast<std::ptrdiff_t>(i), 2}, f, first[i], rest[i]...);
  } else if constexpr (is_optional_part<T>) {
    if (!((rest.has_value() == first.has_value()) && ...))
      throw std::invalid_argument("ddl::for_each_parameter: models differ in having " + path.str());
    if (first) walk(path, f, *first, *rest...);
  } else if constexpr (is_variant_of_parts<T>) {
    if (!((rest.index() == first.index()) && ...))
      throw std::invalid_argument("ddl::for_each_parameter: models differ in kind at " + path.str());
    std::visit(
        [&](auto& chosen) {
          using Chosen = std::remove_cvref_t<decltype(chosen)>;
          walk(path, f, chosen, std::get<Chosen>(rest)...);
        },
        first);
  } else {
    if (first.size() == 0 && ((rest.size() == 0) && ...)) return;
    if (!((rest.rows() == first.rows() && rest.cols() == first.cols()) && ...))
      throw std::invalid_argument("ddl::for_each_parameter: models differ in the shape of " + path.str());
    f(path, first, rest...);
  }
}

}  // namespace detail

/// Calls f(path, parameter, rest's parameters...) for every non-empty parameter of `model`, in the order in
/// which the parts list them. @throws std::invalid_argument if the models differ in depth or in a shape.
template <class F, class Model, class... Rest>
void for_each_parameter(F&& f, Model& model, Rest&... rest) {
  detail::walk(ParameterPath{}, f, model, rest...);
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
