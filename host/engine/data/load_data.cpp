#include "host/engine/data/load_data.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "backstop/resize.hpp"
#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace {

std::string name_of(const PluginObject& plugin) {
  return "dataset `" + plugin.entry().manifest.name + "`";
}

[[noreturn]] void bad_dataset(const PluginObject& plugin, const std::string& problem) {
  throw base::HostError(base::ExitCode::plugin, name_of(plugin) + " " + problem,
                        "the plugin is " + plugin.entry().path.string());
}

/// What a recipe selects from a dataset.
struct Choice {
  std::int64_t image_size = 0;
  std::vector<std::int64_t> classes;  ///< the dataset's labels; empty: all
  std::int64_t per_class = 0, limit = 0, test_limit = 0;
  std::int64_t channels = 0;  ///< that images are converted to; 0: none
};

/// The label of a class that the recipe selects by its label.
std::int64_t label_of(const PluginObject& plugin, std::int64_t label,
                      const std::vector<std::string>& names) {
  if (label >= 0 && label < std::ssize(names)) return label;
  throw base::HostError(base::ExitCode::usage,
                        fmt::format("dataset.classes contains {}, but {} has only {} classes",
                                    label, name_of(plugin), names.size()),
                        fmt::format("labels are numbered 0 to {}", std::ssize(names) - 1));
}

/// The label of a class that it selects by its name.
std::int64_t label_of(const PluginObject& plugin, const std::string& name,
                      const std::vector<std::string>& names) {
  const auto position = std::find(names.begin(), names.end(), name);
  if (position != names.end()) return position - names.begin();
  const auto meant = base::nearest(name, names);
  throw base::HostError(
      base::ExitCode::usage,
      fmt::format("dataset.classes contains \"{}\", but {} has no class of that name", name,
                  name_of(plugin)),
      meant ? fmt::format("did you mean \"{}\"?", *meant)
            : fmt::format("`backstop data {}` lists its classes", plugin.entry().manifest.name));
}

Choice choice_in(const PluginObject& plugin, const recipe::DatasetUse& use,
                 const std::vector<std::string>& names) {
  Choice choice{use.image_size, {}, use.per_class, use.limit, use.test_limit};
  for (const std::int64_t label : use.class_labels)
    choice.classes.push_back(label_of(plugin, label, names));
  for (const std::string& name : use.class_names)
    choice.classes.push_back(label_of(plugin, name, names));
  return choice;
}

/// `per_class` positions of every chosen class. The draw of one class does not depend on the
/// others, and a smaller selection is always a subset of a larger one.
at::Tensor draw_per_class(const PluginObject& plugin, const at::Tensor& labels,
                          const Choice& choice, const std::vector<std::string>& names,
                          std::int64_t seed) {
  std::vector<at::Tensor> parts;
  for (std::int64_t label = 0; label < std::ssize(names); ++label) {
    const auto& chosen = choice.classes;
    if (!chosen.empty() && std::find(chosen.begin(), chosen.end(), label) == chosen.end()) continue;
    const at::Tensor all = labels.eq(label).nonzero().flatten();
    if (all.numel() < choice.per_class)
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("dataset.per_class is {}, but class \"{}\" of {} has only {} training images",
                      choice.per_class, names[static_cast<std::size_t>(label)], name_of(plugin),
                      all.numel()),
          fmt::format("`backstop data {}` counts the images of every class",
                      plugin.entry().manifest.name));
    at::Generator generator =
        engine::make_generator(seed_for(seed, "data/class " + std::to_string(label)));
    const at::Tensor order = at::randperm(all.numel(), generator, at::kLong);
    parts.push_back(all.index_select(0, order.narrow(0, 0, choice.per_class)));
  }
  return std::get<0>(at::cat(parts).sort());
}

/// The positions of the images to use, int64; undefined: all.
at::Tensor choose(const PluginObject& plugin, Split split, const at::Tensor& labels,
                  const Choice& choice, const std::vector<std::string>& names, std::int64_t seed) {
  at::Tensor rows;
  if (!choice.classes.empty()) {
    at::Tensor wanted = at::zeros({std::ssize(names)}, at::kBool);
    for (const std::int64_t label : choice.classes) wanted[label] = true;
    rows = wanted.index_select(0, labels).nonzero().flatten();
    if (rows.numel() == 0)
      throw base::HostError(base::ExitCode::usage,
                            fmt::format("dataset.classes selects no image of split `{}` of {}",
                                        to_string(split), name_of(plugin)));
  }
  if (split == Split::train && choice.per_class > 0)
    rows = draw_per_class(plugin, labels, choice, names, seed);
  const std::int64_t limit = split == Split::train ? choice.limit : choice.test_limit;
  const std::int64_t count = rows.defined() ? rows.numel() : labels.numel();
  if (limit == 0 || limit >= count) return rows;
  at::Generator generator =
      engine::make_generator(seed_for(seed, "data/" + std::string(to_string(split))));
  const at::Tensor drawn = at::randperm(count, generator, at::kLong).narrow(0, 0, limit);
  return rows.defined() ? rows.index_select(0, drawn) : drawn;
}

/// Numbers the chosen classes 0 .. k-1 in the given order.
at::Tensor renumbered(const at::Tensor& labels, const Choice& choice, std::int64_t classes) {
  if (choice.classes.empty()) return labels;
  at::Tensor to = at::full({classes}, -1, at::kLong);
  for (std::size_t i = 0; i < choice.classes.size(); ++i)
    to[choice.classes[i]] = static_cast<std::int64_t>(i);
  return to.index_select(0, labels);
}

/// uint8 [n, 3, H, W] or [n, 1, H, W] with the other number of channels.
at::Tensor with_channels(const at::Tensor& images, std::int64_t channels) {
  if (channels == 3) return images.expand({-1, 3, -1, -1}).contiguous();
  // In integers, as in Pillow's conversion to "L".
  const at::Tensor sums = images.select(1, 0).to(at::kInt) * 19595 +
                          images.select(1, 1).to(at::kInt) * 38470 +
                          images.select(1, 2).to(at::kInt) * 7471 + 0x8000;
  return sums.bitwise_right_shift(16).to(at::kByte).unsqueeze(1).contiguous();
}

/// Mean and deviation of all pixels of gray images.
Normalization gray_statistics(const at::Tensor& images) {
  const at::Tensor counts = images.flatten().bincount({}, 256).to(at::kDouble);
  const at::Tensor values = at::arange(256, at::kDouble) / 255, total = counts.sum();
  const double mean = (counts * values).sum().div(total).item<double>();
  const double deviation =
      std::sqrt((counts * (values - mean).square()).sum().div(total).item<double>());
  Normalization normalization;
  normalization.mean.fill(mean);
  normalization.deviation.fill(std::max(deviation, 1.0 / 255));
  return normalization;
}

ImageStore store_of(const PluginObject& plugin, Split split, const Samples& samples,
                    const Choice& choice, const std::vector<std::string>& names, std::int64_t seed,
                    StageContext& ctx, c10::Device device) {
  const auto all = std::ssize(names);
  const std::int64_t classes = choice.classes.empty() ? all : std::ssize(choice.classes);
  const at::Tensor labels = renumbered(samples.labels, choice, all);
  const at::Tensor rows = choose(plugin, split, samples.labels, choice, names, seed);
  const bool resize = choice.image_size > 0 && (samples.images.size(2) != choice.image_size ||
                                                samples.images.size(3) != choice.image_size);
  const auto chosen = [&](const at::Tensor& tensor) {
    return rows.defined() ? tensor.index_select(0, rows) : tensor;
  };
  const bool convert = choice.channels != 0;
  if (resize || convert) {
    const at::Tensor which = rows.defined() ? rows : at::arange(labels.numel(), at::kLong);
    at::Tensor images = resize ? resized(samples.images, which, choice.image_size, ctx)
                               : samples.images.index_select(0, which);
    if (convert) images = with_channels(images, choice.channels);
    return {images, chosen(labels), classes, device, rows};
  }
  // On the CPU a selection is a list of positions; a GPU gets only the selected images.
  if (rows.defined() && device.is_cpu())
    return ImageStore(samples.images, labels, classes, device).subset(rows);
  return {chosen(samples.images), chosen(labels), classes, device, rows};
}

/// The SHA-256 of the digests of pieces of equal size, which are computed in parallel.
std::string digest_of(const at::Tensor& tensor, std::string_view what, StageContext& ctx) {
  constexpr std::int64_t kPiece = std::int64_t{4} << 20;
  constexpr std::int64_t kPiecesAtOnce = 16;  // an interrupt waits for these
  const at::Tensor flat = tensor.contiguous();
  const auto* bytes = static_cast<const char*>(flat.data_ptr());
  const auto size = static_cast<std::int64_t>(flat.nbytes());
  const std::int64_t pieces = (size + kPiece - 1) / kPiece;
  std::vector<std::string> digests(static_cast<std::size_t>(pieces));
  for (std::int64_t first = 0; first < pieces; first += kPiecesAtOnce) {
    ctx.stop_if_cancelled();
    at::parallel_for(
        first, std::min(first + kPiecesAtOnce, pieces), 1,
        [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t from = i * kPiece;
            digests[static_cast<std::size_t>(i)] = base::sha256_of_text(
                {bytes + from, static_cast<std::size_t>(std::min(kPiece, size - from))});
          }
        });
    if (first + kPiecesAtOnce < pieces)
      ctx.progress(((first + kPiecesAtOnce) * kPiece) >> 20, size >> 20, what);
  }
  std::string text;
  for (const std::int64_t side : tensor.sizes()) text += std::to_string(side) + " ";
  for (const auto& digest : digests) text += digest;
  return base::sha256_of_text(text);
}

/// The pieces that a dataset gives, joined.
class CollectedSamples final : public SampleSink {
 public:
  void add(const at::Tensor& images, const at::Tensor& labels) override {
    if (!images.defined() || images.scalar_type() != at::kByte || images.dim() != 4 ||
        (images.size(1) != 1 && images.size(1) != 3) || !images.is_contiguous() || !images.is_cpu())
      throw Error(
          "SampleSink::add got images that are not contiguous uint8 [N, 1 or 3, H, W] on the CPU");
    if (!labels.defined() || labels.scalar_type() != at::kLong || labels.dim() != 1 ||
        labels.size(0) != images.size(0) || !labels.is_cpu())
      throw Error("SampleSink::add got labels that are not int64 [N] on the CPU");
    if (!images_.empty() && images.sizes().slice(1) != images_[0].sizes().slice(1))
      throw Error("SampleSink::add got images of another size than before",
                  "all images of a split have the same channels, height and width");
    images_.push_back(images);
    labels_.push_back(labels);
  }
  /// Undefined tensors if nothing came.
  [[nodiscard]] Samples joined() const {
    if (images_.empty()) return {};
    if (images_.size() == 1) return {images_[0], labels_[0]};
    return {at::cat(images_), at::cat(labels_)};
  }

 private:
  std::vector<at::Tensor> images_, labels_;
};

}  // namespace

Normalization statistics_of(const PluginObject& plugin, std::int64_t channels, StageContext& ctx) {
  std::vector<double> means, deviations;
  call(plugin, "means and deviations", ctx, [&] {
    const auto& dataset = plugin.as<Dataset>();
    const auto own_means = dataset.means();
    means.assign(own_means.begin(), own_means.end());
    const auto own_deviations = dataset.deviations();
    deviations.assign(own_deviations.begin(), own_deviations.end());
  });
  if (std::ssize(means) != channels || std::ssize(deviations) != channels)
    bad_dataset(plugin,
                fmt::format("states {} means and {} deviations for images of {} channel{}",
                            means.size(), deviations.size(), channels, channels == 1 ? "" : "s"));
  Normalization normalization;
  for (std::size_t c = 0; c < 3; ++c) {
    const std::size_t from = std::min(c, means.size() - 1);
    if (!std::isfinite(means[from]) || !std::isfinite(deviations[from]) || deviations[from] <= 0)
      bad_dataset(plugin, fmt::format("states a mean of {} and a deviation of {}, but they must be "
                                      "finite, and a deviation positive",
                                      means[from], deviations[from]));
    normalization.mean[c] = means[from];
    normalization.deviation[c] = deviations[from];
  }
  return normalization;
}

Samples load_split(const PluginObject& plugin, Split split, StageContext& ctx) {
  std::int64_t classes = 0;
  Samples samples;
  call(plugin, "load", ctx, [&] {
    auto& dataset = plugin.as<Dataset>();
    CollectedSamples collected;
    dataset.load(ctx, split, collected);
    samples = collected.joined();
    classes = dataset.classes();  // may be unknown before
  });
  const at::Tensor& labels = samples.labels;
  if (!labels.defined() || labels.numel() == 0) bad_dataset(plugin, "gave no images");
  if (split == Split::unlabeled) {
    if (labels.ne(-1).any().item<bool>())
      bad_dataset(plugin, "gave a label other than -1 in the split `unlabeled`");
  } else if (labels.min().item<std::int64_t>() < 0 ||
             labels.max().item<std::int64_t>() >= classes) {
    bad_dataset(plugin, fmt::format("gave a label outside 0 .. {}", classes - 1));
  }
  return samples;
}

std::string fingerprint_of(const PluginObject& plugin, Split split, const Samples& samples,
                           StageContext& ctx) {
  std::string text = call(plugin, "fingerprint", ctx,
                          [&] { return std::string(plugin.as<Dataset>().fingerprint(split)); });
  if (base::valid_utf8(text) != text)
    bad_dataset(plugin, "returned a fingerprint that is not UTF-8");
  if (!text.empty()) return plugin.entry().manifest.name + " " + text;
  return digest_of(samples.images, "MiB hashed", ctx) +
         digest_of(samples.labels, "MiB hashed", ctx);
}

std::string joint_fingerprint(const std::string& train, const std::string& test) {
  return base::sha256_of_text("train " + train + "\ntest " + test);
}

at::Tensor resized(const at::Tensor& images, const at::Tensor& rows, std::int64_t size,
                   StageContext& ctx) {
  constexpr std::int64_t kBytesAtOnce = std::int64_t{64} << 20;  // an interrupt waits for these
  const std::int64_t channels = images.size(1), count = rows.numel();
  const std::int64_t from_bytes = channels * images.size(2) * images.size(3);
  const std::int64_t to_bytes = channels * size * size;
  const std::int64_t at_once = std::max<std::int64_t>(1, kBytesAtOnce / from_bytes);
  const Resizer resizer(images.size(2), images.size(3), size, size);
  at::Tensor result = at::empty({count, channels, size, size}, at::kByte);
  const auto* from = images.data_ptr<std::uint8_t>();
  auto* to = result.data_ptr<std::uint8_t>();
  const auto* row = rows.data_ptr<std::int64_t>();
  for (std::int64_t first = 0; first < count; first += at_once) {
    ctx.stop_if_cancelled();
    const std::int64_t last = std::min(first + at_once, count);
    at::parallel_for(first, last, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        resizer.planes(from + row[i] * from_bytes, channels, to + i * to_bytes);
    });
    if (last < count) ctx.progress(last, count, "images resized");
  }
  return result;
}

Data load_data(const PluginObject& plugin, const recipe::DatasetUse& use, std::int64_t seed,
               StageContext& ctx, c10::Device device, std::int64_t channels) {
  const Samples train = load_split(plugin, Split::train, ctx);
  const std::string train_print = fingerprint_of(plugin, Split::train, train, ctx);
  const Samples test = load_split(plugin, Split::test, ctx);
  const std::string test_print = fingerprint_of(plugin, Split::test, test, ctx);
  std::vector<std::string> names;
  call(plugin, "describe", ctx, [&] {
    const auto& dataset = plugin.as<Dataset>();
    for (std::int64_t i = 0; i < dataset.classes(); ++i) names.emplace_back(dataset.class_name(i));
  });
  if (train.images.sizes().slice(1) != test.images.sizes().slice(1))
    bad_dataset(plugin, "has training and test images of different sizes");

  Choice choice = choice_in(plugin, use, names);
  if (channels != 0 && channels != train.images.size(1)) {
    choice.channels = channels;
    ctx.log(LogLevel::info, channels == 1 ? "the model takes gray images: these are converted"
                                          : "the model takes colored images: these gray ones get "
                                            "three equal channels");
  }
  const auto store = [&](Split split, const Samples& samples) {
    return store_of(plugin, split, samples, choice, names, seed, ctx, device);
  };
  Normalization normalization = statistics_of(plugin, train.images.size(1), ctx);
  if (choice.channels == 1) normalization = gray_statistics(with_channels(train.images, 1));
  if (choice.channels == 3) {
    normalization.mean.fill(normalization.mean[0]);
    normalization.deviation.fill(normalization.deviation[0]);
  }
  std::vector<std::string> chosen_names;
  for (const std::int64_t label : choice.classes)
    chosen_names.push_back(names[static_cast<std::size_t>(label)]);
  return {store(Split::train, train),
          store(Split::test, test),
          normalization,
          chosen_names.empty() ? names : chosen_names,
          joint_fingerprint(train_print, test_print),
          {{"image_size", choice.image_size},
           {"classes", choice.classes},
           {"per_class", choice.per_class},
           {"limit", choice.limit},
           {"test_limit", choice.test_limit},
           {"channels", choice.channels}},
          base::sha256_of_text(train_print)};
}

std::uint64_t seed_for(std::int64_t seed, const std::string& purpose) {
  return std::stoull(base::sha256_of_text(std::to_string(seed) + "/" + purpose).substr(0, 16),
                     nullptr, 16);
}

}  // namespace backstop::engine
