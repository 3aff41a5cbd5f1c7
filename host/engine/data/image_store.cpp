#include "host/engine/data/image_store.hpp"

#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace {

using Table = std::array<std::array<float, 256>, 3>;

Table lookup_table(const Normalization& normalization) {
  Table table{};
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t v = 0; v < 256; ++v) {
      const double x =
          (static_cast<double>(v) / 255 - normalization.mean[c]) / normalization.deviation[c];
      table[c][v] = static_cast<float>(x);
    }
  }
  return table;
}

const std::int64_t* data_or_null(const at::Tensor& t) {
  return t.defined() ? t.data_ptr<std::int64_t>() : nullptr;
}

/// One pass over the pixels of a set on the CPU: find the image, shift, flip, normalize by table,
/// and store in channels-last.
template <typename Out>
void gather(const at::Tensor& images, const at::Tensor& changed, const at::Tensor& rows,
            const Draws& draws, const Normalization& normalization, Out* out) {
  const std::int64_t channels = images.size(1), height = images.size(2), width = images.size(3);
  const std::int64_t stored = images.size(0), bytes = channels * height * width;
  const auto* pixels = images.data_ptr<std::uint8_t>();
  const auto* others = changed.defined() ? changed.data_ptr<std::uint8_t>() : nullptr;
  const auto* row = rows.data_ptr<std::int64_t>();
  const auto* dy = data_or_null(draws.dy);
  const auto* dx = data_or_null(draws.dx);
  const auto* flip = draws.flip.defined() ? draws.flip.data_ptr<bool>() : nullptr;
  const Table values = lookup_table(normalization);
  std::array<std::array<Out, 256>, 3> table;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t v = 0; v < 256; ++v) table[c][v] = static_cast<Out>(values[c][v]);

  at::parallel_for(0, rows.numel(), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint8_t* image =
          row[i] < stored ? pixels + row[i] * bytes : others + (row[i] - stored) * bytes;
      Out* to = out + i * height * width * channels;
      const std::int64_t shift_y = dy ? dy[i] : 0, shift_x = dx ? dx[i] : 0;
      const bool mirrored = flip && flip[i];
      for (std::int64_t y = 0; y < height; ++y) {
        const std::int64_t from_y = y + shift_y;
        for (std::int64_t x = 0; x < width; ++x) {
          const std::int64_t from_x = (mirrored ? width - 1 - x : x) + shift_x;
          const bool inside = from_y >= 0 && from_y < height && from_x >= 0 && from_x < width;
          for (std::int64_t c = 0; c < channels; ++c) {
            const std::uint8_t v = inside ? image[(c * height + from_y) * width + from_x] : 0;
            *to++ = table[static_cast<std::size_t>(c)][v];
          }
        }
      }
    }
  });
}

}  // namespace

Draws draw_augmentation(const Augmentation& augmentation, std::int64_t n,
                        at::Generator& generator) {
  Draws draws;
  if (augmentation.crop_padding > 0) {
    const auto padding = augmentation.crop_padding;
    draws.dy = at::randint(-padding, padding + 1, {n}, generator, at::kLong);
    draws.dx = at::randint(-padding, padding + 1, {n}, generator, at::kLong);
  }
  if (augmentation.horizontal_flip) draws.flip = at::rand({n}, generator, at::kFloat).lt(0.5);
  return draws;
}

ImageStore::ImageStore(at::Tensor images, at::Tensor labels, std::int64_t classes,
                       c10::Device device, at::Tensor indices)
    : images_(images.to(device).contiguous()),
      labels_(labels.to(device).contiguous()),
      indices_(std::move(indices)),
      classes_(classes) {
  if (!indices_.defined()) indices_ = at::arange(labels_.size(0), at::kLong);
}

at::Tensor ImageStore::rows(const at::Tensor& positions) const {
  const at::Tensor p = send(positions, images_.device()).contiguous();
  return rows_.defined() ? rows_.index_select(0, p) : p;
}

at::Tensor ImageStore::pixels(const at::Tensor& positions) const {
  const at::Tensor which = rows(positions);
  if (!changed_.defined()) return images_.index_select(0, which);
  const std::int64_t stored = images_.size(0);
  // Both are looked up for every image, because asking which is needed would wait for a GPU.
  return at::where(which.ge(stored).view({-1, 1, 1, 1}),
                   changed_.index_select(0, which.sub(stored).clamp_min_(0)),
                   images_.index_select(0, which.clamp_max(stored - 1)));
}

at::Tensor ImageStore::images(const at::Tensor& positions) const {
  return pixels(positions).to(at::kFloat).div_(255);
}

ImageStore ImageStore::subset(const at::Tensor& positions) const {
  ImageStore part;
  const at::Tensor p = positions.to(at::kCPU).contiguous();
  part.images_ = images_;
  part.changed_ = changed_;
  part.rows_ = rows(p);
  part.labels_ = labels_.index_select(0, send(p, labels_.device()));
  part.indices_ = indices_.index_select(0, p);
  part.classes_ = classes_;
  return part;
}

ImageStore ImageStore::changed(const at::Tensor& positions, const at::Tensor& images,
                               const at::Tensor& labels) const {
  ImageStore result = *this;
  const at::Tensor others = send(images, images_.device());
  if (others.size(0) > 0)
    result.changed_ = changed_.defined() ? at::cat({changed_, others}) : others.contiguous();
  const std::int64_t end =
      images_.size(0) + (result.changed_.defined() ? result.changed_.size(0) : 0);
  result.rows_ = rows(at::arange(size(), at::kLong)).clone();
  const at::Tensor where = send(positions, images_.device());
  result.rows_.index_copy_(0, where, at::arange(end - images.size(0), end, where.options()));
  result.labels_ = labels_.index_copy(0, where, send(labels, labels_.device()));
  return result;
}

at::Tensor ImageStore::batch(const at::Tensor& positions, const Normalization& normalization,
                             const Draws& draws, bool bfloat16) const {
  const auto type = bfloat16 ? at::kBFloat16 : at::kFloat;
  const at::Tensor chosen = rows(positions);
  at::Tensor out = at::empty({chosen.numel(), channels(), height(), width()},
                             at::TensorOptions(type).memory_format(at::MemoryFormat::ChannelsLast));
  if (bfloat16) {
    gather(images_, changed_, chosen, draws, normalization, out.data_ptr<at::BFloat16>());
  } else {
    gather(images_, changed_, chosen, draws, normalization, out.data_ptr<float>());
  }
  return out;
}

at::Tensor apply_augmentation(const at::Tensor& images, const Draws& draws) {
  if (!draws.dx.defined() && !draws.dy.defined() && !draws.flip.defined()) return images;
  const std::int64_t n = images.size(0), height = images.size(2), width = images.size(3);
  const auto device = images.device();
  const auto indices = at::TensorOptions(at::kLong).device(device);
  at::Tensor y = at::arange(height, indices).expand({n, height});
  at::Tensor x = at::arange(width, indices).expand({n, width});
  if (draws.flip.defined()) x = at::where(send(draws.flip, device).unsqueeze(1), width - 1 - x, x);
  if (draws.dy.defined()) y = y + send(draws.dy, device).unsqueeze(1);
  if (draws.dx.defined()) x = x + send(draws.dx, device).unsqueeze(1);
  const at::Tensor inside =
      (y.ge(0) & y.lt(height)).unsqueeze(2) & (x.ge(0) & x.lt(width)).unsqueeze(1);
  const at::Tensor moved =
      images.permute({0, 2, 3, 1})
          .index({at::arange(n, indices).view({n, 1, 1}), y.clamp(0, height - 1).unsqueeze(2),
                  x.clamp(0, width - 1).unsqueeze(1)});
  return (moved * inside.unsqueeze(3)).permute({0, 3, 1, 2}).contiguous();
}

at::Tensor to_8_bits(const at::Tensor& images) {
  return images.detach().mul(255).round().clamp_(0, 255).to(at::kByte);
}

}  // namespace backstop::engine
