// LibTorch's names of the types of numbers in model files.
#pragma once

#include <iterator>
#include <optional>
#include <utility>

#include <c10/core/ScalarType.h>

#include "host/engine/formats/element_type.hpp"

namespace backstop::engine {

inline constexpr std::pair<ElementType, at::ScalarType> kScalarTypes[] = {
    {ElementType::float64, at::kDouble},
    {ElementType::float32, at::kFloat},
    {ElementType::float16, at::kHalf},
    {ElementType::bfloat16, at::kBFloat16},
    {ElementType::int64, at::kLong},
    {ElementType::int32, at::kInt},
    {ElementType::int16, at::kShort},
    {ElementType::int8, at::kChar},
    {ElementType::uint8, at::kByte},
    {ElementType::boolean, at::kBool},
    {ElementType::complex64, at::kComplexFloat},
    {ElementType::complex128, at::kComplexDouble},
};

constexpr at::ScalarType scalar_type(ElementType type) {
  for (const auto& entry : kScalarTypes)
    if (entry.first == type) return entry.second;
  return at::ScalarType::Undefined;
}

constexpr std::optional<ElementType> element_type(at::ScalarType type) {
  for (const auto& entry : kScalarTypes)
    if (entry.second == type) return entry.first;
  return std::nullopt;
}

}  // namespace backstop::engine
