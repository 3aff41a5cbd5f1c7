// How it works. AMX multiplies tiles: 16 rows of 32 bfloat16 with 32 by 16. Images are copied into
// a `Field`, where all pixels of some images lie one after the other with zeros between the rows
// and the images. What a kernel's tap sees from pixel p then lies a fixed distance from p, whatever
// p is; so 16 pixels in a row are a tile as they lie there, for every tap, and nothing is unfolded.
// A stride of s looks at every s-th pixel: those are kept apart, in s * s fields ("phases").
#include "host/engine/kernels/convolution_kernels.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "host/engine/compute.hpp"
#include "host/engine/kernels/amx.hpp"
#include "host/engine/kernels/parallel.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#include <unistd.h>

#include <sys/syscall.h>
#endif

namespace backstop::engine::convolution_kernels {

#if defined(__x86_64__)

namespace {

#define BACKSTOP_AMX \
  __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

using c10::BFloat16;
using Index = std::int64_t;

constexpr Index kRows = 16;   ///< of a tile; also its columns of float32
constexpr Index kDepth = 32;  ///< bfloat16 in a row of a tile
constexpr Index kTile = kRows * kDepth;
constexpr Index kTogether = 4;  ///< tiles on the left, for each on the right
constexpr Index kBlock = kTogether * kRows;

Index round_up(Index n, Index to) {
  return (n + to - 1) / to * to;
}

/// Memory that begins where a cache line does.
template <typename T>
struct Buffer {
  struct Free {
    void operator()(T* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  explicit Buffer(Index count)
      : data(static_cast<T*>(
            ::operator new (static_cast<std::size_t>(count) * sizeof(T), std::align_val_t{64}))),
        size(count) {}
  void clear() {
    std::memset(static_cast<void*>(data.get()), 0, static_cast<std::size_t>(size) * sizeof(T));
  }
  [[nodiscard]] T* get() const { return data.get(); }
  std::unique_ptr<T, Free> data;
  Index size;
};

/// The tiles of a thread, configured.
class Tiles {
 public:
  BACKSTOP_AMX Tiles() {
    static constexpr TileConfiguration configuration;
    _tile_loadconfig(&configuration);
  }
  BACKSTOP_AMX ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

BACKSTOP_AMX __m512 widen(const BFloat16* from) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/// The sums of four tiles, 64 rows of 16, on their way to the rows of [pixels, channels] that they
/// belong to; -1: to none. Written a few at a time, while tiles are multiplied.
struct Rows {
  const float* sums = nullptr;
  const std::int32_t* targets = nullptr;
  BFloat16* to = nullptr;
  Index channels = 0;
  const float *scale = nullptr, *offset = nullptr;  ///< 16, or none
  const BFloat16* add = nullptr;                    ///< as `to`, or none
  bool relu = false;
  Index next = kBlock;  ///< all are written

  BACKSTOP_AMX void write(Index count) {
    const Index end = std::min(next + count, kBlock);
    for (; next < end; ++next) {
      if (targets[next] < 0) continue;
      __m512 row = _mm512_load_ps(sums + next * kRows);
      const Index at = targets[next] * channels;
      if (scale != nullptr)
        row = _mm512_fmadd_ps(row, _mm512_loadu_ps(scale), _mm512_loadu_ps(offset));
      if (add != nullptr) row = _mm512_add_ps(row, widen(add + at));
      // The second operand is what comes out where one is not a number.
      if (relu) row = _mm512_max_ps(_mm512_setzero_ps(), row);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at),
                          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(row)));
    }
  }
};

/// sums[j] (+)= sum over k of (the tile at left + 16 * j rows + steps[k]) * right[k], for four j
/// and `count` steps. `pitch`: numbers from row to row on the left. Meanwhile, `rows` are written.
BACKSTOP_AMX void multiply_pixels(const BFloat16* left, Index pitch, const Index* steps,
                                  Index count, const BFloat16* right, float* sums, bool add,
                                  Rows& given) {
  Rows rows = given;  // in registers
  const BFloat16 *a = left, *b = a + kRows * pitch, *c = b + kRows * pitch, *d = c + kRows * pitch;
  const Index bytes = pitch * Index{sizeof(BFloat16)};
  const Index share = kBlock / count + 1;
  if (add) {
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + kRows * kRows, 64);
    _tile_loadd(2, sums + 2 * kRows * kRows, 64);
    _tile_loadd(3, sums + 3 * kRows * kRows, 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (Index k = 0; k < count; ++k) {
    const Index step = steps[k];
    _tile_loadd(7, right, 64);
    _tile_loadd(4, a + step, bytes);
    _tile_dpbf16ps(0, 4, 7);
    _tile_loadd(5, b + step, bytes);
    _tile_dpbf16ps(1, 5, 7);
    _tile_loadd(6, c + step, bytes);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(4, d + step, bytes);
    _tile_dpbf16ps(3, 4, 7);
    right += kTile;
    rows.write(share);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kRows * kRows, 64);
  _tile_stored(2, sums + 2 * kRows * kRows, 64);
  _tile_stored(3, sums + 3 * kRows * kRows, 64);
  given = rows;
}

/// sums[j] += sum over k < steps of the tile at left + 32 * k * the tile k from right[j], for four
/// j.
BACKSTOP_AMX void multiply_weights(const BFloat16* left, Index pitch,
                                   const BFloat16* const right[kTogether], Index steps,
                                   float* const sums[kTogether]) {
  const BFloat16 *a = right[0], *b = right[1], *c = right[2], *d = right[3];
  const Index bytes = pitch * Index{sizeof(BFloat16)};
  _tile_loadd(0, sums[0], 64);
  _tile_loadd(1, sums[1], 64);
  _tile_loadd(2, sums[2], 64);
  _tile_loadd(3, sums[3], 64);
  for (Index k = 0; k < steps; ++k) {
    _tile_loadd(7, left + k * kDepth, bytes);
    _tile_loadd(4, a + k * kTile, 64);
    _tile_dpbf16ps(0, 7, 4);
    _tile_loadd(5, b + k * kTile, 64);
    _tile_dpbf16ps(1, 7, 5);
    _tile_loadd(6, c + k * kTile, 64);
    _tile_dpbf16ps(2, 7, 6);
    _tile_loadd(4, d + k * kTile, 64);
    _tile_dpbf16ps(3, 7, 4);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
}

/// Rows become columns, of 16 by 16 words of 32 bits.
BACKSTOP_AMX void transpose(__m512i rows[kRows]) {
  __m512i t[kRows];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

/// [a0, b0, a1, b1, ...] of 16 numbers each.
BACKSTOP_AMX __m512i interleave(__m256i a, __m256i b) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

BACKSTOP_AMX __m512i interleave(const BFloat16* a, const BFloat16* b) {
  return interleave(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)),
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
}

BACKSTOP_AMX __m512i interleave(__m512 a, __m512 b) {
  return interleave(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)),
                    reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(b)));
}

/// Where the pixels of some images lie, flattened: `side` rows of `side` pixels, `margin` zeros
/// behind each row and as many rows of zeros behind each image, and enough of them before and
/// behind all.
struct Grid {
  Index side, margin, row, image;
  Index images;  ///< at once
  Index lead;    ///< zeros before the first pixel
  Index length;  ///< of a field, in pixels

  Grid(Index of_side, Index of_margin, Index at_once)
      : side(of_side),
        margin(of_margin),
        row(side + margin),
        image(row * row),
        images(at_once),
        lead(round_up(margin * row + margin, kDepth)),
        length(lead + round_up(at_once * image, kBlock) + lead + kDepth) {}

  /// That must be computed for so many images.
  [[nodiscard]] Index positions(Index of_images) const {
    return of_images == 0 ? 0 : round_up(of_images * image - margin * row, kBlock);
  }
};

BACKSTOP_AMX __m512 activate(__m512 x, __m512 scale, __m512 offset) {
  return _mm512_max_ps(_mm512_setzero_ps(), _mm512_fmadd_ps(x, scale, offset));
}

/// max(0, x * scale + offset), of some pixels.
BACKSTOP_AMX void activate(BFloat16* at, Index pixels, const Affine& affine) {
  const auto channels = static_cast<Index>(affine.scale.size());
  for (Index x = 0; x < pixels; ++x) {
    for (Index c = 0; c < channels; c += kRows, at += kRows) {
      const __m512 value = activate(widen(at), _mm512_loadu_ps(affine.scale.data() + c),
                                    _mm512_loadu_ps(affine.offset.data() + c));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
    }
  }
}

/// Copies `count` images, `channels` of `all` each, from [count, from, from, all] into a field for
/// each phase of `stride`. `field`: [phases, length, channels], cleared once. `before`: see Around.
void fill(BFloat16* field, const Grid& grid, Index stride, Index phases, const BFloat16* images,
          Index count, Index from, Index all, Index channels, const Affine* before = nullptr) {
  for (Index phase = 0; phase < phases; ++phase) {
    const Index top = phase / stride, left = phase % stride;
    BFloat16* const origin = field + (phase * grid.length + grid.lead) * channels;
    const Index pixels = (from - left + stride - 1) / stride;
    for (Index n = 0; n < count; ++n) {
      for (Index y = top; y < from; y += stride) {
        const BFloat16* source = images + ((n * from + y) * from + left) * all;
        BFloat16* to = origin + (n * grid.image + y / stride * grid.row) * channels;
        const bool together = stride == 1 && channels == all;
        const Index pieces = together ? 1 : pixels,
                    of_piece = together ? pixels * channels : channels;
        for (Index x = 0; x < pieces; ++x)
          std::memcpy(to + x * channels, source + x * stride * all,
                      static_cast<std::size_t>(of_piece) * sizeof(BFloat16));
        if (before != nullptr) activate(to, pixels, *before);
      }
    }
  }
}

/// One place of the kernel: where it looks, from an output pixel, and its place in a filter.
struct Tap {
  Index phase, distance;  ///< in pixels
  Index place;            ///< ky * kernel + kx
};

Index floor_divide(Index a, Index b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

std::vector<Tap> forward_taps(const Shape& s, const Grid& grid) {
  std::vector<Tap> taps;
  for (Index ky = 0; ky < s.kernel; ++ky) {
    for (Index first = 0; first < std::min(s.stride, s.kernel); ++first) {
      for (Index kx = first; kx < s.kernel; kx += s.stride) {  // neighbors in their phase
        const Index y = floor_divide(ky - s.padding(), s.stride),
                    x = floor_divide(kx - s.padding(), s.stride);
        const Index top = ky - s.padding() - y * s.stride, left = kx - s.padding() - x * s.stride;
        taps.push_back({top * s.stride + left, y * grid.row + x, ky * s.kernel + kx});
      }
    }
  }
  return taps;
}

/// Of the input pixels (Y * stride + top, X * stride + left): what dy they get something from.
std::vector<Tap> backward_taps(const Shape& s, const Grid& grid, Index top, Index left) {
  std::vector<Tap> taps;
  for (Index ky = 0; ky < s.kernel; ++ky) {
    if ((top - ky + s.padding()) % s.stride != 0) continue;
    for (Index kx = s.kernel - 1; kx >= 0; --kx) {  // neighbors from left to right
      if ((left - kx + s.padding()) % s.stride != 0) continue;
      taps.push_back(
          {0, (top - ky + s.padding()) / s.stride * grid.row + (left - kx + s.padding()) / s.stride,
           ky * s.kernel + kx});
    }
  }
  return taps;
}

/// A product's depth. Taps that are neighbors, with all their channels, are one run of numbers,
/// cut into steps of 32; the last step of a run may look beyond it, where weights are zero. Where
/// channels are many, some of them are taken for all taps before the next, so that the pixels that
/// a block of tiles looks at stay in the nearest cache.
struct Depth {
  struct Half {
    Index tap, channel;  ///< of the first of 16 numbers; tap < 0: zeros
  };
  std::vector<Index> steps;      ///< from the pixel, in numbers
  std::vector<Half> halves;      ///< two of each step
  std::vector<Index> stretches;  ///< steps that belong together: where each begins, and the end

  Depth(const std::vector<Tap>& taps, const Grid& grid, Index channels) {
    constexpr Index kFew = 128;
    for (Index first = 0; first < channels; first += kFew) {
      stretches.push_back(count());
      const Index some = std::min(kFew, channels - first);
      for (std::size_t tap = 0; tap < taps.size();) {
        std::size_t end = tap + 1;
        while (some == channels && end < taps.size() && taps[end].phase == taps[tap].phase &&
               taps[end].distance == taps[end - 1].distance + 1)
          ++end;
        const Index origin =
            (taps[tap].phase * grid.length + taps[tap].distance) * channels + first;
        const Index length = static_cast<Index>(end - tap) * some;
        for (Index k = 0; k < length; k += kDepth) {
          steps.push_back(origin + k);
          for (Index i = k; i < k + kDepth; i += kRows) {
            if (i >= length)
              halves.push_back({-1, 0});
            else
              halves.push_back(
                  {taps[tap + static_cast<std::size_t>(i / some)].place, first + i % some});
          }
        }
        tap = end;
      }
    }
    stretches.push_back(count());
  }
  [[nodiscard]] Index count() const { return static_cast<Index>(steps.size()); }
};

/// The right tiles of 16 output channels: [steps, 16 pairs, 16 channels, 2].
BACKSTOP_AMX void pack_forward(const Shape& s, const Depth& depth, const float* weight,
                               Index first_out, BFloat16* to) {
  const Index taps = s.kernel * s.kernel;
  for (std::size_t step = 0; step < depth.halves.size(); step += 2) {
    __m512i rows[kRows];
    for (Index o = 0; o < kRows; ++o) {
      const auto load = [&](const Depth::Half& half) BACKSTOP_AMX {
        if (half.tap < 0) return _mm512_setzero_ps();
        return _mm512_loadu_ps(weight + ((first_out + o) * taps + half.tap) * s.in + half.channel);
      };
      rows[o] = reinterpret_cast<__m512i>(
          _mm512_cvtne2ps_pbh(load(depth.halves[step + 1]), load(depth.halves[step])));
    }
    transpose(rows);
    for (Index r = 0; r < kRows; ++r) _mm512_store_si512(to + r * kDepth, rows[r]);
    to += kTile;
  }
}

/// The same of 16 input channels, the depth being output channels.
BACKSTOP_AMX void pack_backward(const Shape& s, const Depth& depth, const float* weight,
                                Index first_in, BFloat16* to) {
  const Index taps = s.kernel * s.kernel;
  for (const Depth::Half& half : depth.halves) {
    for (Index i = 0; i < kRows; i += 2, to += kDepth) {
      if (half.tap < 0) {
        _mm512_store_si512(to, _mm512_setzero_si512());
        continue;
      }
      const float* at = weight + ((half.channel + i) * taps + half.tap) * s.in + first_in;
      _mm512_store_si512(to, interleave(_mm512_loadu_ps(at), _mm512_loadu_ps(at + taps * s.in)));
    }
  }
}

/// The pixel of [count, to, to] that each position of the grid is, -1 for none. Positions (Y, X)
/// are pixels (Y * stride + top, X * stride + left).
std::vector<std::int32_t> targets_of(const Grid& grid, Index count, Index to, Index stride,
                                     Index top, Index left) {
  std::vector<std::int32_t> targets(static_cast<std::size_t>(grid.positions(count)), -1);
  for (Index n = 0; n < count; ++n) {
    for (Index y = 0; y * stride + top < to; ++y) {
      for (Index x = 0; x * stride + left < to; ++x)
        targets[static_cast<std::size_t>(n * grid.image + y * grid.row + x)] =
            static_cast<std::int32_t>((n * to + y * stride + top) * to + x * stride + left);
    }
  }
  return targets;
}

/// targets_of() of whole chunks, and of the last one.
class Targets {
 public:
  Targets(const Grid& grid, Index chunk, Index images, Index to, Index stride, Index top,
          Index left)
      : chunk_(chunk),
        whole_(targets_of(grid, std::min(chunk, images), to, stride, top, left)),
        last_(targets_of(grid, images % chunk, to, stride, top, left)) {}

  [[nodiscard]] const std::vector<std::int32_t>& of(Index count) const {
    return count == chunk_ ? whole_ : last_;
  }

 private:
  Index chunk_;
  std::vector<std::int32_t> whole_, last_;
};

/// All right tiles of a product, and where its left ones are.
struct Factor {
  Depth depth;
  Index tiles;  ///< of 16 channels that go out
  Buffer<BFloat16> packed;

  template <typename Pack>
  Factor(Depth of, Index channels, const Pack& pack)
      : depth(std::move(of)), tiles(channels / kRows), packed(tiles * depth.count() * kTile) {
    share_out(tiles, [&](const auto& next) {
      for (Index t = next(); t < tiles; t = next())
        pack(depth, t * kRows, packed.get() + t * depth.count() * kTile);
    });
  }

  /// For all positions of a field with `channels`. Tiles are taken in groups that stay in the
  /// cache.
  void multiply_field(const BFloat16* origin, Index channels,
                      const std::vector<std::int32_t>& targets, BFloat16* to,
                      const Around& around = {}) const {
    const Index tile_size = depth.count() * kTile, all = tiles * kRows;
    const Index group =
        std::clamp<Index>(kGroupBytes / (tile_size * Index{sizeof(BFloat16)}), 1, kMostTiles);
    constexpr Index kSums = kBlock * kRows;
    // Sums of the tiles that are under way; what is done is written while the next is computed.
    const Index rooms = depth.stretches.size() > 2 ? group : 1;
    Buffer<float> room(2 * rooms * kSums);
    Index used = 0;
    Rows rows;
    const auto positions = static_cast<Index>(targets.size());
    for (Index first = 0; first < tiles; first += group) {
      const Index last = std::min(tiles, first + group);
      for (Index p = 0; p < positions; p += kBlock) {
        for (std::size_t stretch = 0; stretch + 1 < depth.stretches.size(); ++stretch) {
          const Index begin = depth.stretches[stretch], end = depth.stretches[stretch + 1];
          const bool done = end == depth.count();
          for (Index t = first; t < last; ++t) {
            if (done && p + kBlock < positions)
              claim(&targets[static_cast<std::size_t>(p + kBlock)], t - first, last - first,
                    to + first * kRows, all);
            float* const sums = room.get() + (used * rooms + (rooms > 1 ? t - first : 0)) * kSums;
            multiply_pixels(origin + p * channels, channels,
                            &depth.steps[static_cast<std::size_t>(begin)], end - begin,
                            packed.get() + t * tile_size + begin * kTile, sums, stretch > 0, rows);
            rows.write(kBlock);
            if (!done) continue;
            const auto channel = static_cast<std::size_t>(t * kRows);
            const Affine* after = around.after;
            rows = {sums,
                    &targets[static_cast<std::size_t>(p)],
                    to + t * kRows,
                    all,
                    after == nullptr ? nullptr : &after->scale[channel],
                    after == nullptr ? nullptr : &after->offset[channel],
                    around.add == nullptr ? nullptr : around.add + t * kRows,
                    around.relu,
                    0};
            if (rooms == 1 || t + 1 == last) used = 1 - used;
          }
        }
      }
    }
    rows.write(kBlock);
  }

 private:
  static constexpr Index kGroupBytes = 1 << 20, kMostTiles = 8;

  /// Asks for share `i` of `shares` of the cache lines that a block of rows will be written to.
  static void claim(const std::int32_t* targets, Index i, Index shares, BFloat16* to, Index all) {
    const Index share = (kBlock + shares - 1) / shares;
    for (Index row = i * share; row < std::min((i + 1) * share, kBlock); ++row) {
      if (targets[row] < 0) continue;
      for (Index c = 0; c < shares * kRows; c += kDepth)
        __builtin_prefetch(to + targets[row] * all + c, 1, 3);
    }
  }
};

/// Images that a thread takes at once: about as many as fill `bytes`, or fewer, so that all threads
/// have some; of these numbers, the one that leaves the least of the last block empty.
Index at_once(const Shape& s, Index margin, Index bytes_of_a_position, Index bytes, Index at_most) {
  const Grid one(s.out_side(), margin, 1);
  const Index most = std::clamp<Index>(bytes / (one.image * bytes_of_a_position), 1, at_most);
  const auto filled = [&](Index n) {
    return static_cast<double>(n * s.out_side() * s.out_side()) /
           static_cast<double>(one.positions(n));
  };
  Index best = most;
  for (Index n = most; n > most / 2; --n) {
    if (filled(n) > filled(best)) best = n;
  }
  return best;
}

/// The same for a product whose weights are `weights` bytes: where they do not stay in the cache,
/// they are read for every such chunk.
Index at_once(const Shape& s, Index margin, Index bytes_of_a_position, Index weights) {
  constexpr Index kCache = 2 << 20;
  return at_once(s, margin, bytes_of_a_position, weights < kCache / 2 ? kCache / 10 : kCache / 3,
                 std::max<Index>(1, s.images / (2 * at::get_num_threads())));
}

/// Fields that the taps look at.
Index phases_of(const Shape& s) {
  return s.kernel == 1 ? 1 : s.stride * s.stride;
}

/// Zeros that are needed beside every row, on the side where pixels are few.
Index margin_of(const Shape& s) {
  return (s.padding() + s.stride - 1) / s.stride;
}

/// [length, channels] to [channels, length], numbers of a channel side by side.
BACKSTOP_AMX void turn(const BFloat16* field, Index length, Index channels, BFloat16* to) {
  for (Index c = 0; c < channels; c += kRows) {
    for (Index p = 0; p < length; p += kDepth) {
      __m512i rows[kRows];
      for (Index i = 0; i < kRows; ++i) {
        const BFloat16* const at = field + (p + 2 * i) * channels + c;
        rows[i] = interleave(at, at + channels);
      }
      transpose(rows);
      for (Index i = 0; i < kRows; ++i) _mm512_storeu_si512(to + (c + i) * length + p, rows[i]);
    }
  }
}

/// 16 channels of two pixels, side by side, as they are or as `before` makes them.
struct PairLoader {
  const float *scale, *offset;  ///< 16, or none

  [[nodiscard]] BACKSTOP_AMX __m512i operator()(const BFloat16* a, const BFloat16* b) const {
    if (scale == nullptr) return interleave(a, b);
    return interleave(activated(a), activated(b));
  }
  [[nodiscard]] BACKSTOP_AMX __m512 activated(const BFloat16* p) const {
    return activate(widen(p), _mm512_loadu_ps(scale), _mm512_loadu_ps(offset));
  }
};

/// Writes `pixels` of 16 channels each, `pitch` numbers from one to the next, to their places among
/// pairs of pixels, [length / 2, 16, 2]: the first to place `at` of `length`. Where a pair's other
/// half is not among them, it stays as it is.
BACKSTOP_AMX void pair_up(const BFloat16* from, Index pitch, Index pixels, Index at,
                          const PairLoader& pair, BFloat16* to) {
  constexpr __mmask32 kFirst = 0x55555555, kSecond = 0xaaaaaaaa;
  to += at / 2 * kDepth;
  if (at % 2 != 0) {
    _mm512_mask_storeu_epi16(to, kSecond, pair(from, from));
    from += pitch;
    --pixels;
    to += kDepth;
  }
  for (; pixels > 1; pixels -= 2, from += 2 * pitch, to += kDepth)
    _mm512_store_si512(to, pair(from, from + pitch));
  if (pixels > 0) _mm512_mask_storeu_epi16(to, kFirst, pair(from, from));
}

/// What all tasks of weight_gradient() share.
struct Weights {
  const Shape& shape;
  Grid grid;
  std::vector<Tap> taps;
  Index phases;
  const Affine* before;

  /// Right tiles: every tap of every 16 input channels, those of the same channels side by side.
  [[nodiscard]] Index combinations() const {
    return shape.in / kRows * static_cast<Index>(taps.size());
  }
  [[nodiscard]] Index plane() const { return grid.length * shape.in; }  ///< numbers of a field
  /// Numbers of what pair_up() makes of as many images as the grid holds.
  [[nodiscard]] Index of_chunk() const { return 2 * phases * plane(); }
};

/// Some images, as fields in pairs of pixels that begin at even places, and at odd ones: a tap may
/// look at either. To [2 * phases, in / 16, length / 2, 16, 2], cleared but for pixels of as many
/// images before.
void pair_up(const Weights& w, const BFloat16* x, Index images, BFloat16* to) {
  const Shape& s = w.shape;
  const Grid& g = w.grid;
  for (Index phase = 0; phase < w.phases; ++phase) {
    const Index top = phase / s.stride, left = phase % s.stride;
    const Index pixels = (s.side - left + s.stride - 1) / s.stride;
    for (Index n = 0; n < images; ++n) {
      for (Index y = top; y < s.side; y += s.stride) {
        const BFloat16* const from = x + ((n * s.side + y) * s.side + left) * s.in;
        const Index at = g.lead + n * g.image + y / s.stride * g.row;
        for (Index c = 0; c < s.in; c += kRows) {
          const bool plain = w.before == nullptr;
          const PairLoader pair{plain ? nullptr : w.before->scale.data() + c,
                                plain ? nullptr : w.before->offset.data() + c};
          for (const Index odd : {0, 1})
            pair_up(from + c, s.stride * s.in, pixels, at - odd, pair,
                    to + (phase * 2 + odd) * w.plane() + c * (g.length - 2 * odd));
        }
      }
    }
  }
}

/// A task: adds the products of some images to `sums`, [outs / 16, combinations, 16 out, 16 in].
/// `shared`: all images in pairs, or null where nobody else needs them.
void add_weight_gradient(const Weights& w, const BFloat16* x, const BFloat16* shared,
                         const BFloat16* dy, Index images, Index first_out, Index outs,
                         float* sums) {
  constexpr Index kStretch = 512;
  const Shape& s = w.shape;
  const Grid& g = w.grid;
  const auto taps = static_cast<Index>(w.taps.size());
  const Index side = s.out_side(), of_x = s.side * s.side * s.in, of_dy = side * side * s.out;
  Buffer<BFloat16> gradient(g.length * outs), turned(g.length * outs);
  Buffer<BFloat16> own(shared == nullptr ? w.of_chunk() : 0);
  float unused[kRows * kRows] = {};
  own.clear();
  gradient.clear();
  const Tiles tiles;
  for (Index first = 0; first < images; first += g.images) {
    const Index count = std::min(g.images, images - first);
    if (count < g.images) {
      own.clear();
      gradient.clear();
    }
    if (shared == nullptr) pair_up(w, x + first * of_x, count, own.get());
    const BFloat16* const pairs =
        shared == nullptr ? own.get() : shared + first / g.images * w.of_chunk();
    fill(gradient.get(), g, 1, 1, dy + first * of_dy + first_out, count, side, s.out, outs);
    const Index length = g.positions(count);
    turn(gradient.get() + g.lead * outs, length, outs, turned.get());
    // Short stretches of pixels, so that tiles stay in the nearest cache.
    for (Index begin = 0; begin < length; begin += kStretch) {
      const Index steps = std::min(kStretch, length - begin) / kDepth;
      for (Index c = 0; c < w.combinations(); c += kTogether) {
        const BFloat16* right[kTogether];
        Index which[kTogether];
        for (Index j = 0; j < kTogether; ++j) {
          which[j] = std::min(c + j, w.combinations() - 1);
          const Tap& tap = w.taps[static_cast<std::size_t>(which[j] % taps)];
          const Index at = g.lead + tap.distance + begin, odd = at % 2;
          const Index of_tile = (g.length - odd * 2) * kRows;
          right[j] = pairs + (tap.phase * 2 + odd) * w.plane() + which[j] / taps * of_tile +
                     (at - odd) * kRows;
        }
        for (Index o = 0; o < outs / kRows; ++o) {
          float* to[kTogether];
          for (Index j = 0; j < kTogether; ++j)
            to[j] = which[j] == c + j ? sums + (o * w.combinations() + which[j]) * kRows * kRows
                                      : unused;
          multiply_weights(turned.get() + o * kRows * length + begin, length, right, steps, to);
        }
      }
    }
  }
}

/// Sums over the image ranges' tiles, as [out, kernel * kernel, in].
BACKSTOP_AMX void write_weights(const Weights& w, const std::vector<const float*>& parts, Index out,
                                float* dw) {
  const auto taps = static_cast<Index>(w.taps.size());
  for (Index which = 0; which < w.combinations(); ++which) {
    const Index place = w.taps[static_cast<std::size_t>(which % taps)].place;
    const Index at = (out / kRows * w.combinations() + which) * kRows * kRows;
    for (Index i = 0; i < kRows; ++i) {
      __m512 sum = _mm512_setzero_ps();
      for (const float* part : parts)
        sum = _mm512_add_ps(sum, _mm512_load_ps(part + at + i * kRows));
      _mm512_storeu_ps(dw + ((out + i) * taps + place) * w.shape.in + which / taps * kRows, sum);
    }
  }
}

}  // namespace

bool available() {
  // Linux gives a process the tiles' registers on request.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool is = native_bfloat16() == "AMX" && __builtin_cpu_supports("avx512bf16") &&
                         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                         __builtin_cpu_supports("avx512dq") &&
                         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return is;
}

void forward(const Shape& s, const BFloat16* x, const float* weight, BFloat16* y,
             const Around& around) {
  const Index side = s.out_side(), phases = phases_of(s);
  constexpr Index kBytes{sizeof(BFloat16)};
  const Index weights = s.out * s.in * s.kernel * s.kernel * kBytes;
  const Index chunk = at_once(s, margin_of(s), phases * s.in * kBytes, weights);
  const Grid grid(side, margin_of(s), chunk);
  Factor factor(Depth(forward_taps(s, grid), grid, s.in), s.out,
                [&](const Depth& depth, Index first, BFloat16* to) {
                  pack_forward(s, depth, weight, first, to);
                });
  const Index of_x = s.side * s.side * s.in, of_y = side * side * s.out;
  const Index chunks = (s.images + chunk - 1) / chunk;
  share_out(chunks, [&](const auto& next) {
    const Tiles tiles;
    Buffer<BFloat16> field(phases * grid.length * s.in);
    field.clear();
    const Targets targets(grid, chunk, s.images, side, 1, 0, 0);
    for (Index i = next(); i < chunks; i = next()) {
      const Index first = i * chunk, count = std::min(chunk, s.images - first);
      fill(field.get(), grid, s.stride, phases, x + first * of_x, count, s.side, s.in, s.in,
           around.before);
      Around here = around;
      if (here.add != nullptr) here.add += first * of_y;
      factor.multiply_field(field.get() + grid.lead * s.in, s.in, targets.of(count),
                            y + first * of_y, here);
    }
  });
}

void input_gradient(const Shape& s, const BFloat16* dy, const float* weight, BFloat16* dx) {
  const Index side = s.out_side();
  constexpr Index kBytes{sizeof(BFloat16)};
  const Index weights = s.out * s.in * s.kernel * s.kernel * kBytes;
  const Index chunk = at_once(s, margin_of(s), s.out * kBytes, weights);
  const Grid grid(side, margin_of(s), chunk);
  struct Phase {
    Index top, left;
    Factor factor;
  };
  std::vector<Phase> phases;
  for (Index top = 0; top < s.stride; ++top) {
    for (Index left = 0; left < s.stride; ++left) {
      const std::vector<Tap> taps = backward_taps(s, grid, top, left);
      if (taps.empty()) continue;  // pixels that no tap saw
      phases.push_back({top, left,
                        Factor(Depth(taps, grid, s.out), s.in,
                               [&](const Depth& depth, Index first, BFloat16* to) {
                                 pack_backward(s, depth, weight, first, to);
                               })});
    }
  }
  const Index of_x = s.side * s.side * s.in, of_y = side * side * s.out;
  const Index chunks = (s.images + chunk - 1) / chunk;
  const bool all_seen = phases.size() == static_cast<std::size_t>(s.stride * s.stride);
  share_out(chunks, [&](const auto& next) {
    const Tiles tiles;
    Buffer<BFloat16> field(grid.length * s.out);
    field.clear();
    std::vector<Targets> targets;
    for (const Phase& phase : phases)
      targets.emplace_back(grid, chunk, s.images, s.side, s.stride, phase.top, phase.left);
    for (Index i = next(); i < chunks; i = next()) {
      const Index first = i * chunk, count = std::min(chunk, s.images - first);
      if (!all_seen) std::fill_n(dx + first * of_x, count * of_x, BFloat16(0.0F));
      fill(field.get(), grid, 1, 1, dy + first * of_y, count, side, s.out, s.out);
      for (std::size_t phase = 0; phase < phases.size(); ++phase)
        phases[phase].factor.multiply_field(field.get() + grid.lead * s.out, s.out,
                                            targets[phase].of(count), dx + first * of_x);
    }
  });
}

void weight_gradient(const Shape& s, const BFloat16* x, const BFloat16* dy, float* dw,
                     const Affine* before) {
  constexpr Index kSumBytes = 768 << 10, kFewOuts = 64, kTasks = 8, kChunkBytes = 320 << 10;
  const Index phases = phases_of(s);
  // Output channels of a task: as many as have sums that stay in the cache.
  const Index of_out = s.kernel * s.kernel * s.in * Index{sizeof(float)};
  const Index of_task = std::min(s.out, std::max(kFewOuts, kSumBytes / of_out / kRows * kRows));
  const Index ranges = (s.out + of_task - 1) / of_task;
  const Index parts = std::clamp<Index>(kTasks / ranges, 1, s.images);
  const Index of_part = (s.images + parts - 1) / parts;
  const Index chunk =
      at_once(s, margin_of(s), phases * s.in * Index{sizeof(BFloat16)}, kChunkBytes, of_part);
  const Grid grid(s.out_side(), margin_of(s), chunk);
  const Weights weights{s, grid, forward_taps(s, grid), phases, before};
  const Index of_x = s.side * s.side * s.in, of_dy = s.out_side() * s.out_side() * s.out;
  const Index chunks = (of_part + chunk - 1) / chunk;  // of a part
  const bool share = ranges > 1;
  Buffer<BFloat16> pairs(share ? parts * chunks * weights.of_chunk() : 0);
  if (share) {
    share_out(parts * chunks, [&](const auto& next) {
      for (Index i = next(); i < parts * chunks; i = next()) {
        const Index first = std::min(i / chunks * of_part + i % chunks * chunk, s.images);
        const Index until = std::min((i / chunks + 1) * of_part, s.images);
        BFloat16* const to = pairs.get() + i * weights.of_chunk();
        std::fill_n(to, weights.of_chunk(), BFloat16(0.0F));
        pair_up(weights, x + first * of_x, std::clamp<Index>(until - first, 0, chunk), to);
      }
    });
  }
  const Index size = s.out * s.in * s.kernel * s.kernel;  // of a part's sums
  Buffer<float> sums(parts * size);
  const Index of_tile = weights.combinations() * kRows * kRows;
  share_out(ranges * parts, [&](const auto& next) {
    for (Index task = next(); task < ranges * parts; task = next()) {
      const Index first_out = task / parts * of_task, outs = std::min(of_task, s.out - first_out);
      const Index part = task % parts, first = std::min(part * of_part, s.images);
      const Index images = std::min(of_part, s.images - first);
      float* const to = sums.get() + part * size + first_out / kRows * of_tile;
      std::fill_n(to, outs / kRows * of_tile, 0.0F);
      add_weight_gradient(weights, x + first * of_x,
                          share ? pairs.get() + part * chunks * weights.of_chunk() : nullptr,
                          dy + first * of_dy, images, first_out, outs, to);
    }
  });
  std::vector<const float*> all;
  for (Index part = 0; part < parts; ++part) all.push_back(sums.get() + part * size);
  share_out(s.out / kRows, [&](const auto& next) {
    for (Index t = next(); t < s.out / kRows; t = next())
      write_weights(weights, all, t * kRows, dw);
  });
}

#else

bool available() {
  return false;
}
void forward(const Shape&, const c10::BFloat16*, const float*, c10::BFloat16*, const Around&) {}
void input_gradient(const Shape&, const c10::BFloat16*, const float*, c10::BFloat16*) {}
void weight_gradient(const Shape&, const c10::BFloat16*, const c10::BFloat16*, float*,
                     const Affine*) {}

#endif

}  // namespace backstop::engine::convolution_kernels
