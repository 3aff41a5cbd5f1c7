#include "host/engine/kernels/batch_norm_kernels.hpp"

#include "host/engine/kernels/vectors.hpp"

namespace backstop::engine::batch_norm {

namespace {

using namespace vectors;

/// `value` where `decides` is positive or NaN, 0 elsewhere.
BACKSTOP_INLINE Floats where_positive(const Floats& decides, const Floats& value) {
  const Words no = reinterpret_cast<Words>(decides <= Floats{});
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(value) & ~no);
}

/// How many numbers are added up directly. Their sums are then added in turn, because every
/// addition to a long sum loses precision.
constexpr std::size_t kFew = 32;

/// Sums columns [column, column + N * 16) of all periods in registers.
template <std::size_t N, typename T>
BACKSTOP_INLINE void sum_columns(const T* x, std::size_t count, std::size_t period,
                                 std::size_t column, const float* shift, float* sum,
                                 float* square) {
  Floats of[N], s[N] = {}, q[N] = {};
  for (std::size_t k = 0; k < N; ++k) load(shift + column + k * kLanes, of[k]);
  for (std::size_t at = column; at < count;) {
    Floats few[N] = {}, squares[N] = {};
    for (std::size_t i = 0; i < kFew && at < count; ++i, at += period) {
      for (std::size_t k = 0; k < N; ++k) {
        Floats v;
        load(x + at + k * kLanes, v);
        v -= of[k];
        few[k] += v;
        squares[k] += v * v;
      }
    }
    for (std::size_t k = 0; k < N; ++k) {
      s[k] += few[k];
      q[k] += squares[k];
    }
  }
  for (std::size_t k = 0; k < N; ++k) {
    store(s[k], sum + column + k * kLanes);
    store(q[k], square + column + k * kLanes);
  }
}

template <std::size_t N, typename T>
BACKSTOP_INLINE void sum_gradients(const T* x, const T* dy, std::size_t count, std::size_t period,
                                   std::size_t column, const float* scale, const float* offset,
                                   const float* mean, float* sum, float* product) {
  Floats a[N], b[N], m[N], s[N] = {}, q[N] = {};
  for (std::size_t k = 0; k < N; ++k) {
    load(scale + column + k * kLanes, a[k]);
    load(offset + column + k * kLanes, b[k]);
    load(mean + column + k * kLanes, m[k]);
  }
  for (std::size_t at = column; at < count;) {
    Floats few[N] = {}, products[N] = {};
    for (std::size_t i = 0; i < kFew && at < count; ++i, at += period) {
      for (std::size_t k = 0; k < N; ++k) {
        Floats v, g;
        load(x + at + k * kLanes, v);
        load(dy + at + k * kLanes, g);
        g = where_positive(v * a[k] + b[k], g);
        few[k] += g;
        products[k] += g * (v - m[k]);
      }
    }
    for (std::size_t k = 0; k < N; ++k) {
      s[k] += few[k];
      q[k] += products[k];
    }
  }
  for (std::size_t k = 0; k < N; ++k) {
    store(s[k], sum + column + k * kLanes);
    store(q[k], product + column + k * kLanes);
  }
}

template <typename T>
BACKSTOP_INLINE void write_forward(const T* x, T* y, std::size_t count, std::size_t period,
                                   const float* scale, const float* offset) {
  for (std::size_t first = 0; first < count; first += period) {
    for (std::size_t c = 0; c < period; c += kLanes) {
      Floats v, a, b;
      load(x + first + c, v);
      load(scale + c, a);
      load(offset + c, b);
      v = v * a + b;
      store(where_positive(v, v), y + first + c);
    }
  }
}

template <typename T>
BACKSTOP_INLINE void write_backward(const T* x, const T* dy, T* dx, std::size_t count,
                                    std::size_t period, const float* scale, const float* offset,
                                    const float* slope, const float* level) {
  for (std::size_t first = 0; first < count; first += period) {
    for (std::size_t c = 0; c < period; c += kLanes) {
      Floats v, g, a, b, p, q;
      load(x + first + c, v);
      load(dy + first + c, g);
      load(scale + c, a);
      load(offset + c, b);
      load(slope + c, p);
      load(level + c, q);
      store(where_positive(v * a + b, g) * a + v * p + q, dx + first + c);
    }
  }
}

/// Takes four vectors side by side where they fit, because independent sums do not wait for each
/// other.
template <typename T>
BACKSTOP_INLINE void all_sums(const T* x, std::size_t count, std::size_t period, const float* shift,
                              float* sum, float* square) {
  constexpr std::size_t kWide = 4;
  std::size_t c = 0;
  for (; c + kWide * kLanes <= period; c += kWide * kLanes)
    sum_columns<kWide>(x, count, period, c, shift, sum, square);
  for (; c < period; c += kLanes) sum_columns<1>(x, count, period, c, shift, sum, square);
}

template <typename T>
BACKSTOP_INLINE void all_gradient_sums(const T* x, const T* dy, std::size_t count,
                                       std::size_t period, const float* scale, const float* offset,
                                       const float* mean, float* sum, float* product) {
  constexpr std::size_t kWide = 4;
  std::size_t c = 0;
  for (; c + kWide * kLanes <= period; c += kWide * kLanes)
    sum_gradients<kWide>(x, dy, count, period, c, scale, offset, mean, sum, product);
  for (; c < period; c += kLanes)
    sum_gradients<1>(x, dy, count, period, c, scale, offset, mean, sum, product);
}

// -- the same, compiled for AVX-512 --

template <typename T>
BACKSTOP_AVX512 void sums_512(const T* x, std::size_t count, std::size_t period, const float* shift,
                              float* sum, float* square) {
  all_sums(x, count, period, shift, sum, square);
}

template <typename T>
BACKSTOP_AVX512 void forward_512(const T* x, T* y, std::size_t count, std::size_t period,
                                 const float* scale, const float* offset) {
  write_forward(x, y, count, period, scale, offset);
}

template <typename T>
BACKSTOP_AVX512 void backward_sums_512(const T* x, const T* dy, std::size_t count,
                                       std::size_t period, const float* scale, const float* offset,
                                       const float* mean, float* sum, float* product) {
  all_gradient_sums(x, dy, count, period, scale, offset, mean, sum, product);
}

template <typename T>
BACKSTOP_AVX512 void backward_512(const T* x, const T* dy, T* dx, std::size_t count,
                                  std::size_t period, const float* scale, const float* offset,
                                  const float* slope, const float* level) {
  write_backward(x, dy, dx, count, period, scale, offset, slope, level);
}

}  // namespace

template <typename T>
void sums(const T* x, std::size_t count, std::size_t period, const float* shift, float* sum,
          float* square) {
  if (has_avx512()) return sums_512(x, count, period, shift, sum, square);
  all_sums(x, count, period, shift, sum, square);
}

template <typename T>
void forward(const T* x, T* y, std::size_t count, std::size_t period, const float* scale,
             const float* offset) {
  if (has_avx512()) return forward_512(x, y, count, period, scale, offset);
  write_forward(x, y, count, period, scale, offset);
}

template <typename T>
void backward_sums(const T* x, const T* dy, std::size_t count, std::size_t period,
                   const float* scale, const float* offset, const float* mean, float* sum,
                   float* product) {
  if (has_avx512())
    return backward_sums_512(x, dy, count, period, scale, offset, mean, sum, product);
  all_gradient_sums(x, dy, count, period, scale, offset, mean, sum, product);
}

template <typename T>
void backward(const T* x, const T* dy, T* dx, std::size_t count, std::size_t period,
              const float* scale, const float* offset, const float* slope, const float* level) {
  if (has_avx512()) return backward_512(x, dy, dx, count, period, scale, offset, slope, level);
  write_backward(x, dy, dx, count, period, scale, offset, slope, level);
}

#define BACKSTOP_INSTANTIATE(T)                                                              \
  template void sums(const T*, std::size_t, std::size_t, const float*, float*, float*);      \
  template void forward(const T*, T*, std::size_t, std::size_t, const float*, const float*); \
  template void backward_sums(const T*, const T*, std::size_t, std::size_t, const float*,    \
                              const float*, const float*, float*, float*);                   \
  template void backward(const T*, const T*, T*, std::size_t, std::size_t, const float*,     \
                         const float*, const float*, const float*);
BACKSTOP_INSTANTIATE(float)
BACKSTOP_INSTANTIATE(c10::BFloat16)

}  // namespace backstop::engine::batch_norm
