#include "host/engine/data.hpp"

#include <ATen/ATen.h>

#include "backstop/dataset.hpp"
#include "host/engine/libtorch.hpp"

namespace backstop::host {

namespace {

[[noreturn]] void bad_dataset(const PluginObject& plugin, const std::string& problem) {
  throw HostError(ExitCode::plugin, "dataset `" + plugin.entry().manifest.name + "` " + problem,
                  "the plugin is " + plugin.entry().path.string());
}

Samples load_split(const PluginObject& plugin, StageContext& ctx, Split split,
                   std::int64_t classes) {
  const Samples samples =
      call(plugin, "load", ctx, [&] { return plugin.as<Dataset>().load(ctx, split); });
  const at::Tensor& images = samples.images;
  const at::Tensor& labels = samples.labels;
  if (!images.defined() || images.scalar_type() != at::kByte || images.dim() != 4 ||
      (images.size(1) != 1 && images.size(1) != 3))
    bad_dataset(plugin, "returned images that are not uint8 [N, 1 or 3, H, W]");
  if (!labels.defined() || labels.scalar_type() != at::kLong || labels.dim() != 1 ||
      labels.size(0) != images.size(0) || labels.numel() == 0)
    bad_dataset(plugin, "returned labels that are not int64, one an image");
  if (labels.min().item<std::int64_t>() < 0 || labels.max().item<std::int64_t>() >= classes)
    bad_dataset(plugin, "returned a label outside 0 .. " + std::to_string(classes - 1));
  return samples;
}

ImageStore choose(const Samples& samples, std::int64_t classes, std::int64_t limit,
                  std::uint64_t seed, c10::Device device) {
  ImageStore all(samples.images, samples.labels, classes, device);
  if (limit == 0 || limit >= all.size()) return all;
  at::Generator generator = host::make_generator(seed);
  return all.subset(at::randperm(all.size(), generator, at::kLong).narrow(0, 0, limit));
}

std::string_view bytes_of(const at::Tensor& tensor) {
  return {static_cast<const char*>(tensor.data_ptr()), tensor.nbytes()};
}

}  // namespace

Data load_data(const PluginObject& plugin, const toml::table& table, std::int64_t seed,
               StageContext& ctx, c10::Device device) {
  const auto& dataset = plugin.as<Dataset>();
  std::vector<std::string> names;
  ChannelStatistics statistics;
  call(plugin, "describe", ctx, [&] {
    for (std::int64_t i = 0; i < dataset.classes(); ++i) names.emplace_back(dataset.class_name(i));
    statistics = dataset.statistics();
  });
  const auto classes = static_cast<std::int64_t>(names.size());
  const Samples train = load_split(plugin, ctx, Split::train, classes);
  const Samples test = load_split(plugin, ctx, Split::test, classes);
  if (train.images.sizes().slice(1) != test.images.sizes().slice(1))
    bad_dataset(plugin, "has training and test images of different sizes");

  std::string digests;
  for (const at::Tensor& part : {train.images, train.labels, test.images, test.labels})
    digests += sha256_of_text(bytes_of(part.contiguous()));
  Normalisation normalisation;
  for (std::size_t c = 0; c < 3; ++c) {
    normalisation.mean[c] = statistics.mean[c];
    normalisation.deviation[c] = statistics.deviation[c];
  }
  return {choose(train, classes, table["limit"].ref<std::int64_t>(), seed_for(seed, "data/train"),
                 device),
          choose(test, classes, table["test_limit"].ref<std::int64_t>(),
                 seed_for(seed, "data/test"), device),
          normalisation, std::move(names), sha256_of_text(digests)};
}

std::uint64_t seed_for(std::int64_t seed, const std::string& purpose) {
  return std::stoull(sha256_of_text(std::to_string(seed) + "/" + purpose).substr(0, 16), nullptr,
                     16);
}

}  // namespace backstop::host
