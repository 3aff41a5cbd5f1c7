// As much of LibTorch as the SDK needs, for the reason that stub/string_view gives.
#pragma once

#include <cstdint>

namespace at {

class Tensor {
 public:
  Tensor();
  Tensor(const Tensor& other);
  Tensor& operator=(const Tensor& other);
  ~Tensor();
  [[nodiscard]] Tensor add(std::int64_t other) const;
  [[nodiscard]] Tensor remainder(std::int64_t other) const;
  [[nodiscard]] Tensor narrow(std::int64_t dimension, std::int64_t start,
                              std::int64_t length) const;
  [[nodiscard]] Tensor index_select(std::int64_t dimension, const Tensor& index) const;

 private:
  void* implementation_;
};

}  // namespace at
