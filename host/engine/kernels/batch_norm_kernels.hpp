// The loops of batch_norm_relu.cpp, over memory alone. x is a run of pixels, `period` numbers each
// (a multiple of 16: the channels, or several pixels' channels), `count` numbers in all; what is
// given by channel repeats with the period. T is float or c10::BFloat16. All sums are float32.
// AVX-512 where the processor has it.
#pragma once

#include <cstddef>

#include <c10/util/BFloat16.h>

namespace backstop::engine::batch_norm {

/// sum: of x - shift; square: of (x - shift)^2. [period]
template <typename T>
void sums(const T* x, std::size_t count, std::size_t period, const float* shift, float* sum,
          float* square);

/// y = max(0, x * scale + offset); not a number stays so.
template <typename T>
void forward(const T* x, T* y, std::size_t count, std::size_t period, const float* scale,
             const float* offset);

/// With g = dy where x * scale + offset > 0, else 0: sum of g, and of g * (x - mean). [period]
template <typename T>
void backward_sums(const T* x, const T* dy, std::size_t count, std::size_t period,
                   const float* scale, const float* offset, const float* mean, float* sum,
                   float* product);

/// dx = g * scale + x * slope + level, g as above.
template <typename T>
void backward(const T* x, const T* dy, T* dx, std::size_t count, std::size_t period,
              const float* scale, const float* offset, const float* slope, const float* level);

}  // namespace backstop::engine::batch_norm
