// The types of numbers in model files.
#pragma once

#include <cstdint>
#include <string_view>

namespace backstop::engine {

enum class ElementType : std::uint8_t {
  float64,
  float32,
  float16,
  bfloat16,
  int64,
  int32,
  int16,
  int8,
  uint8,
  boolean,
  complex64,
  complex128,
};

constexpr std::uint64_t size_of(ElementType type) {
  switch (type) {
    case ElementType::complex128:
      return 16;
    case ElementType::float64:
    case ElementType::int64:
    case ElementType::complex64:
      return 8;
    case ElementType::float32:
    case ElementType::int32:
      return 4;
    case ElementType::float16:
    case ElementType::bfloat16:
    case ElementType::int16:
      return 2;
    case ElementType::int8:
    case ElementType::uint8:
    case ElementType::boolean:
      break;
  }
  return 1;
}

/// As PyTorch calls it.
constexpr std::string_view to_string(ElementType type) {
  switch (type) {
    case ElementType::float64:
      return "float64";
    case ElementType::float32:
      return "float32";
    case ElementType::float16:
      return "float16";
    case ElementType::bfloat16:
      return "bfloat16";
    case ElementType::int64:
      return "int64";
    case ElementType::int32:
      return "int32";
    case ElementType::int16:
      return "int16";
    case ElementType::int8:
      return "int8";
    case ElementType::uint8:
      return "uint8";
    case ElementType::boolean:
      return "bool";
    case ElementType::complex64:
      return "complex64";
    case ElementType::complex128:
      return "complex128";
  }
  return "unknown";
}

}  // namespace backstop::engine
