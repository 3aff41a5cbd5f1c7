// The loops of batch_norm_relu.cpp, over plain memory. x is a run of `count` numbers in periods of
// `period` numbers (a multiple of 16: the channels of one pixel or of several); what is given for
// each channel repeats with the period. T is float or c10::BFloat16. All sums are float32. Uses
// AVX-512 where the processor has it.
#pragma once

#include <cstddef>

#include <c10/util/BFloat16.h>

namespace backstop::engine::batch_norm {

/// `sum` of x - shift and `square` of (x - shift)^2, [period] each.
template <typename T>
void sums(const T* x, std::size_t count, std::size_t period, const float* shift, float* sum,
          float* square);

/// y = max(0, x * scale + offset); a NaN stays a NaN.
template <typename T>
void forward(const T* x, T* y, std::size_t count, std::size_t period, const float* scale,
             const float* offset);

/// With g = dy where x * scale + offset > 0 and 0 elsewhere: `sum` of g and `product`, the sum of
/// g * (x - mean), [period] each.
template <typename T>
void backward_sums(const T* x, const T* dy, std::size_t count, std::size_t period,
                   const float* scale, const float* offset, const float* mean, float* sum,
                   float* product);

/// dx = g * scale + x * slope + level, with g as above.
template <typename T>
void backward(const T* x, const T* dy, T* dx, std::size_t count, std::size_t period,
              const float* scale, const float* offset, const float* slope, const float* level);

}  // namespace backstop::engine::batch_norm
