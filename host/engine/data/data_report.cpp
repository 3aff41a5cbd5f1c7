#include "host/engine/data/data_report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "host/base/hash.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/data/load_data.hpp"
#include "host/engine/data/picture.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;

constexpr std::int64_t kSheetClasses = 50, kSheetImages = 10, kSheetLargest = 128;

/// Sums of the pixels of each channel, as integers so that the order of addition does not matter.
struct ChannelSums {
  std::array<std::uint64_t, 3> values{}, squares{};
};

ChannelSums sums_of(const at::Tensor& images, std::int64_t first, std::int64_t last) {
  ChannelSums sums;
  const std::int64_t channels = images.size(1), area = images.size(2) * images.size(3);
  const auto* pixel = images.data_ptr<std::uint8_t>() + first * channels * area;
  for (std::int64_t i = first; i < last; ++i) {
    for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
      std::uint64_t value = 0, square = 0;
      for (std::int64_t p = 0; p < area; ++p, ++pixel) {
        value += *pixel;
        square += static_cast<std::uint64_t>(*pixel) * *pixel;
      }
      sums.values[c] += value;
      sums.squares[c] += square;
    }
  }
  return sums;
}

/// Mean and population standard deviation of each channel, for pixels in [0, 1].
json channel_statistics(const at::Tensor& images, StageContext& ctx) {
  constexpr std::int64_t kChunkBytes = std::int64_t{4} << 20;
  constexpr std::int64_t kChunksAtOnce = 16;  // an interrupt waits for these
  const std::int64_t count = images.size(0);
  const std::int64_t chunk = std::max<std::int64_t>(1, kChunkBytes / images[0].numel());
  const std::int64_t chunks = (count + chunk - 1) / chunk;
  std::vector<ChannelSums> parts(static_cast<std::size_t>(chunks));
  for (std::int64_t first = 0; first < chunks; first += kChunksAtOnce) {
    ctx.stop_if_cancelled();
    at::parallel_for(first, std::min(first + kChunksAtOnce, chunks), 1,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i)
                         parts[static_cast<std::size_t>(i)] =
                             sums_of(images, i * chunk, std::min((i + 1) * chunk, count));
                     });
    if (first + kChunksAtOnce < chunks)
      ctx.progress((first + kChunksAtOnce) * chunk, count, "images read");
  }
  const double pixels = static_cast<double>(count * images.size(2) * images.size(3));
  json mean = json::array(), deviation = json::array();
  for (std::size_t c = 0; c < static_cast<std::size_t>(images.size(1)); ++c) {
    std::uint64_t value = 0, square = 0;
    for (const ChannelSums& part : parts) {
      value += part.values[c];
      square += part.squares[c];
    }
    const double average = static_cast<double>(value) / pixels;
    const double variance = static_cast<double>(square) / pixels - average * average;
    mean.push_back(average / 255);
    deviation.push_back(std::sqrt(std::max(0.0, variance)) / 255);
  }
  return {{"mean", mean}, {"deviation", deviation}};
}

std::string md5_of_file(const std::filesystem::path& path, StageContext& ctx) {
  std::error_code unknown;
  const auto size = static_cast<std::int64_t>(std::filesystem::file_size(path, unknown));
  return base::md5_of_file(path, [&](std::int64_t done) {
    ctx.stop_if_cancelled();
    if (done < size)
      ctx.progress(done >> 20, size >> 20, "MiB of " + path.filename().string() + " hashed");
  });
}

/// Builds the report of one dataset.
class Report {
 public:
  explicit Report(const DataRequest& request)
      : request_(request),
        compute_(resolve_compute({"cpu", "float32", 0, true}, 1)),
        name_(request.dataset->name()),
        ctx_({"data", name_}, 0, compute_, {}, request.observer, request.interrupted),
        plugin_(*request.dataset, ctx_.warnings()) {}

  json make();

 private:
  json describe(Split split);
  void describe_images(json& about, Split split, const Samples& samples);
  json check_files(Split split);
  void draw_sheet_rows(const Samples& samples);
  void write_images(const Samples& samples);
  [[nodiscard]] bool required(Split split) const {
    return split == Split::train || split == Split::test;
  }
  void problem(const std::string& message, const std::string& hint = {}) {
    problems_.push_back(
        {{"message", fmt::format("dataset `{}`: {}", name_, message)}, {"hint", hint}});
  }
  [[nodiscard]] const Dataset& dataset() const { return plugin_.as<Dataset>(); }

  const DataRequest& request_;
  Compute compute_;
  std::string name_;
  StageContext ctx_;
  PluginObject plugin_;
  std::vector<std::string> class_names_;
  std::map<Split, std::string> fingerprints_;
  std::map<std::string, std::string> md5_;  ///< by path: splits may share a file
  std::vector<SheetRow> sheet_;
  json written_ = json::array();
  json problems_ = json::array();
};

json Report::check_files(Split split) {
  struct Named {
    std::string path, published;
  };
  std::vector<Named> files;
  class Collected final : public FileSink {
   public:
    explicit Collected(std::vector<Named>& list) : list_(list) {}
    void file(std::string_view path, std::string_view md5) override {
      list_.push_back({std::string(path), std::string(md5)});
    }

   private:
    std::vector<Named>& list_;
  } sink(files);
  call(plugin_, "files", ctx_, [&] { dataset().files(split, sink); });
  json list = json::array();
  for (const auto& [path, published] : files) {
    json about = {{"path", path}, {"published", nullptr}, {"md5", nullptr}};
    if (!published.empty()) about["published"] = published;
    try {
      if (!md5_.contains(path)) md5_[path] = md5_of_file(path, ctx_);
      const std::string& md5 = md5_[path];
      about["md5"] = md5;
      about["status"] = published.empty() ? "unknown" : md5 == published ? "matches" : "differs";
      if (about["status"] == "differs")
        problem(fmt::format("{} has MD5 {}, but {} was published", path, md5, published),
                "the file is incomplete, damaged or changed; download it again");
    } catch (const base::HostError& e) {
      about["status"] = "unreadable";
      problem(e.what(), e.hint());
    }
    list.push_back(std::move(about));
  }
  return list;
}

/// Draws images of every class, always the same ones for the same files.
void Report::draw_sheet_rows(const Samples& samples) {
  const std::int64_t shown = std::min(kSheetClasses, std::ssize(class_names_));
  const std::int64_t side = std::max(samples.images.size(2), samples.images.size(3));
  for (std::int64_t label = 0; label < shown; ++label) {
    const at::Tensor all = samples.labels.eq(label).nonzero().flatten();
    at::Generator generator =
        engine::make_generator(seed_for(0, "data/class " + std::to_string(label)));
    const at::Tensor rows =
        all.index_select(0, at::randperm(all.numel(), generator, at::kLong)
                                .narrow(0, 0, std::min(kSheetImages, all.numel())));
    sheet_.push_back({class_names_[static_cast<std::size_t>(label)],
                      side > kSheetLargest ? resized(samples.images, rows, kSheetLargest, ctx_)
                                           : samples.images.index_select(0, rows)});
  }
}

void Report::write_images(const Samples& samples) {
  for (const ImageRequest& wanted : request_.images) {
    const at::Tensor all = samples.labels.eq(wanted.label).nonzero().flatten();
    if (wanted.number >= all.numel())
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("dataset `{}` has no image {} of class {}, which has {} training images",
                      name_, wanted.number, wanted.label, all.numel()),
          "classes and images are numbered from 0");
    write_image(wanted.file, samples.images[all[wanted.number].item<std::int64_t>()]);
    written_.push_back(wanted.file.string());
  }
}

void Report::describe_images(json& about, Split split, const Samples& samples) {
  const at::Tensor& images = samples.images;
  about["images"] = images.size(0);
  about["channels"] = images.size(1);
  about["height"] = images.size(2);
  about["width"] = images.size(3);
  about.update(channel_statistics(images, ctx_));
  if (split != Split::unlabeled) {
    const at::Tensor counts = samples.labels.bincount({}, std::ssize(class_names_));
    about["per_class"] = std::vector<std::int64_t>(
        counts.data_ptr<std::int64_t>(), counts.data_ptr<std::int64_t>() + counts.numel());
  }
  if (required(split)) fingerprints_[split] = fingerprint_of(plugin_, split, samples, ctx_);
  if (split == Split::train && !request_.sheet.empty()) draw_sheet_rows(samples);
  if (split == Split::train) write_images(samples);
}

json Report::describe(Split split) {
  json about = {{"split", to_string(split)}, {"status", "ok"},    {"error", nullptr},
                {"hint", nullptr},           {"images", nullptr}, {"per_class", nullptr}};
  std::optional<base::HostError> failure;
  try {
    const Samples samples = load_split(plugin_, split, ctx_);
    if (class_names_.empty())
      call(plugin_, "describe", ctx_, [&] {
        for (std::int64_t i = 0; i < dataset().classes(); ++i)
          class_names_.emplace_back(dataset().class_name(i));
      });
    describe_images(about, split, samples);
  } catch (const base::HostError& e) {
    if (e.code() != base::ExitCode::environment) throw;
    failure = e;
  }
  about["files"] = check_files(split);
  if (!failure) return about;
  // A dataset need not have the other splits.
  const bool absent = !required(split) && about["files"].empty();
  about["status"] = absent ? "absent" : "failed";
  about["error"] = failure->what();
  about["hint"] = failure->hint();
  // The message already names the dataset.
  if (!absent) problems_.push_back({{"message", failure->what()}, {"hint", failure->hint()}});
  return about;
}

json Report::make() {
  if (request_.observer != nullptr)
    request_.observer->event(
        {{"event", "stage_started"}, {"stage", "data"}, {"name", name_}, {"reused", false}});
  std::vector<Split> splits;
  call(plugin_, "splits", ctx_, [&] {
    const auto own = dataset().splits();
    splits.assign(own.begin(), own.end());
  });
  json list = json::array();
  for (const Split split : splits) list.push_back(describe(split));

  json stated = nullptr;
  if (fingerprints_.contains(Split::train)) {
    const auto channels = list[0]["channels"].get<std::ptrdiff_t>();
    const Normalization statistics = statistics_of(plugin_, channels, ctx_);
    const auto first = [&](const std::array<double, 3>& values) {
      return std::vector<double>(values.begin(), values.begin() + channels);
    };
    stated = {{"mean", first(statistics.mean)}, {"deviation", first(statistics.deviation)}};
  }
  json report = {{"schema", 1},
                 {"plugin", name_},
                 {"version", plugin_.entry().manifest.version},
                 {"fingerprint", nullptr},
                 {"classes", class_names_},
                 {"stated", stated},
                 {"splits", list},
                 {"sheet", nullptr},
                 {"images", written_}};
  if (fingerprints_.size() == 2)
    report["fingerprint"] =
        joint_fingerprint(fingerprints_[Split::train], fingerprints_[Split::test]);
  if (!sheet_.empty()) {
    const auto shown = std::ssize(sheet_), all = std::ssize(class_names_);
    write_contact_sheet(
        request_.sheet,
        shown < all
            ? fmt::format("{}: training images of the first {} of {} classes", name_, shown, all)
            : fmt::format("{}: training images", name_),
        sheet_);
    report["sheet"] = request_.sheet.string();
  }
  report["problems"] = problems_;
  report["ok"] = problems_.empty();
  return report;
}

}  // namespace

nlohmann::json report_on_data(const DataRequest& request) {
  return Report(request).make();
}

}  // namespace backstop::engine
