#include "image_dataset.hpp"

#include <ATen/core/ivalue.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "backstop/error.hpp"
#include "backstop/resize.hpp"
#include "cache.hpp"
#include "formats.hpp"

namespace backstop::images {
namespace {

namespace fs = std::filesystem;

/// The pixels of one file, uint8 [3, side, side].
std::vector<std::uint8_t> decode_item(const fs::path& root, const Item& item, std::int64_t side) {
  const std::string file = (root / item.path).string();
  const Image image = decode(file, read_file(file, &item.stamp));
  Box box{0, 0, image.width, image.height};
  if (item.annotation) {
    const Annotation& said = *item.annotation;
    if (image.width != said.width || image.height != said.height)
      refuse(file,
             "is " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                 " pixels, expected " + std::to_string(said.width) + " x " +
                 std::to_string(said.height) + " as in " + said.place,
             "the image and its annotation are from different versions: copy both again");
    if (said.crop) box = *said.crop;
  }
  const Resizer resizer(box.bottom - box.top, box.right - box.left, side, side);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(3 * side * side));
  const std::uint8_t* corner = image.rgb.data() + 3 * (box.top * image.width + box.left);
  for (std::int64_t channel = 0; channel < 3; ++channel)
    resizer.plane(corner + channel, 3, 3 * image.width, pixels.data() + channel * side * side);
  return pixels;
}

/// Starts work(0) .. work(count - 1) in this order on all cores and reports progress with `what` to
/// `services`. When several fail, the exception of the first is thrown.
void for_each(std::size_t count, Services* services, const char* what,
              const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next = 0, done = 0;
  std::mutex mutex;
  std::condition_variable ended;
  std::size_t running = 0;
  std::size_t failed = count;
  std::exception_ptr failure;

  const auto run = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        work(i);
        ++done;
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (i < failed) {
          failed = i;
          failure = std::current_exception();
        }
        next = count;
      }
    }
    const std::lock_guard lock(mutex);
    --running;
    ended.notify_one();
  };

  const auto threads = std::min(count, static_cast<std::size_t>(at::get_num_threads()));
  std::vector<std::jthread> workers;
  std::unique_lock lock(mutex);
  try {
    for (; running < threads; ++running) workers.emplace_back(run);
  } catch (...) {  // no more threads: stops and joins those that run
    next = count;
    lock.unlock();
    throw;
  }
  while (running > 0) {
    ended.wait_for(lock, std::chrono::milliseconds(100));
    if (!services) continue;
    lock.unlock();
    if (services->cancelled()) next = count;
    services->progress(static_cast<std::int64_t>(done), static_cast<std::int64_t>(count), what);
    lock.lock();
  }
  lock.unlock();
  if (failure) std::rethrow_exception(failure);
  if (done < count) throw Cancelled();
}

Digest digest_of(std::span<const std::uint8_t> pixels) {
  Sha256 sha;
  sha.add(pixels.data(), pixels.size());
  return sha.digest();
}

/// Of the images of a split with their labels; `images` starts with the digests of their pixels.
Digest digest_of(const std::vector<Item>& items, std::span<const Digest> images,
                 std::int64_t side) {
  Sha256 sha;
  sha.add(side);
  for (std::size_t i = 0; i < items.size(); ++i) {
    sha.add(images[i].data(), images[i].size());
    sha.add(items[i].label);
  }
  return sha.digest();
}

/// Decodes all images of a listing, passes each to `write`, and summarizes them.
Summary decode_all(const Listing& listing, std::int64_t side, Services* services,
                   const std::function<void(std::int64_t, std::span<const std::uint8_t>)>& write) {
  const std::size_t train = listing.train.size();
  std::vector<Digest> digests(train + listing.test.size());
  std::array<std::atomic<std::uint64_t>, 3> sum{}, squares{};
  const auto item = [&](std::size_t i) -> const Item& {
    return i < train ? listing.train[i] : listing.test[i - train];
  };
  for_each(digests.size(), services, "decoding images", [&](std::size_t i) {
    const std::vector<std::uint8_t> pixels = decode_item(listing.root, item(i), side);
    write(static_cast<std::int64_t>(i), pixels);
    digests[i] = digest_of(pixels);
    if (i >= train) return;
    const std::size_t plane = pixels.size() / 3;
    for (std::size_t channel = 0; channel < 3; ++channel) {
      std::uint64_t plane_sum = 0, plane_squares = 0;
      for (const std::uint8_t pixel : std::span(pixels).subspan(channel * plane, plane)) {
        plane_sum += pixel;
        plane_squares += std::uint64_t{pixel} * pixel;
      }
      sum[channel] += plane_sum;
      squares[channel] += plane_squares;
    }
  });

  Summary summary;
  for (std::size_t channel = 0; channel < 3; ++channel) {
    summary.sum[channel] = sum[channel];
    summary.squares[channel] = squares[channel];
  }
  summary.train = digest_of(listing.train, digests, side);
  summary.test = digest_of(listing.test, std::span(digests).subspan(train), side);
  return summary;
}

/// Reads all images of a listing from a cache; false when they are not those that were decoded.
bool read_all(Cache& cache, const Listing& listing, std::int64_t side, Services* services) {
  const std::size_t train = listing.train.size();
  std::vector<Digest> digests(train + listing.test.size());
  std::atomic<bool> whole = true;
  for_each(digests.size(), services, "reading decoded images", [&](std::size_t i) {
    const auto pixels = cache.read(static_cast<std::int64_t>(i));
    if (pixels.empty())
      whole = false;
    else
      digests[i] = digest_of(pixels);
  });
  return whole && digest_of(listing.train, digests, side) == cache.summary().train &&
         digest_of(listing.test, std::span(digests).subspan(train), side) == cache.summary().test;
}

/// Identifies the cache file by everything that decides the pixels, without reading any. That
/// includes the folder's path, because unpacked archives can have equal names, sizes and times.
CacheKey key_of(const Listing& listing, std::int64_t side) {
  CacheKey key;
  key.train = std::ssize(listing.train);
  key.test = std::ssize(listing.test);
  key.side = side;
  Sha256 sha;
  std::error_code unchanged;
  const fs::path place = fs::canonical(listing.root, unchanged);
  sha.add((unchanged ? listing.root : place).string());
  sha.add(side);
  for (const auto* items : {&listing.train, &listing.test}) {
    sha.add(std::ssize(*items));
    for (const Item& item : *items) {
      sha.add(item.path);
      for (const std::int64_t number :
           {item.stamp.size, item.stamp.modified, item.stamp.changed, item.label})
        sha.add(number);
      // An annotation with a wrong size has to fail even when the images are cached.
      const Annotation annotation = item.annotation.value_or(Annotation{});
      const Box box = annotation.crop.value_or(Box{});
      for (const std::int64_t number :
           {annotation.width, annotation.height, box.left, box.top, box.right, box.bottom})
        sha.add(number);
    }
  }
  key.listing = sha.digest();
  return key;
}

std::string megabytes(std::int64_t bytes) {
  return std::to_string((bytes + 999'999) / 1'000'000) + " MB";
}

at::Tensor labels_of(const std::vector<Item>& items) {
  at::Tensor labels = at::empty({std::ssize(items)}, at::kLong);
  std::int64_t* to = labels.data_ptr<std::int64_t>();
  for (const Item& item : items) *to++ = item.label;
  return labels;
}

}  // namespace

struct ImageDataset::Loaded {
  files::Samples train, test;
  Summary summary;
  std::array<double, 3> means{}, deviations{};
  std::string train_fingerprint, test_fingerprint;
};

ImageDataset::ImageDataset(const Params& params, std::string name)
    : root_(params.string("root")), name_(std::move(name)), side_(params.integer("image_size")) {
  if (!params.has("cache")) {
    cache_folder_ = default_cache_folder();
  } else if (const std::string_view folder = params.string("cache"); !folder.empty()) {
    cache_folder_ = folder;
  }
}

ImageDataset::~ImageDataset() = default;

const Listing& ImageDataset::listing() const {
  if (!listing_) {
    Listing found = list();
    for (const auto& [items, split] :
         {std::pair{&found.train, "training"}, {&found.test, "test"}}) {
      if (items->empty())
        refuse(root_.string(), std::string("has no ") + split + " images, expected at least one",
               "set `root` to the folder of the dataset");
    }
    listing_ = std::move(found);
    for (const std::string& path : listing_->train_files) files_.add(Split::train, path, {});
    for (const std::string& path : listing_->test_files) files_.add(Split::test, path, {});
  }
  return *listing_;
}

std::int64_t ImageDataset::own_side() const {
  const Item& item = listing().train.front();
  const std::string file = (listing().root / item.path).string();
  const Image image = decode(file, read_file(file, &item.stamp));
  if (image.width != image.height)
    refuse(file,
           "is " + std::to_string(image.width) + " x " + std::to_string(image.height) +
               " pixels, which is not a square",
           "set `image_size` to the side of the squares that the model takes");
  return image.width;
}

const ImageDataset::Loaded& ImageDataset::loaded(Services* services) const {
  if (loaded_) return *loaded_;
  listing();
  if (side_ == 0) side_ = own_side();
  const CacheKey key = key_of(*listing_, side_);
  const auto log = [&](LogLevel level, const std::string& text) {
    if (services) services->log(level, text);
  };
  for (const std::string& note : listing_->notes) log(LogLevel::info, note);

  auto loaded = std::make_unique<Loaded>();
  at::Tensor images;
  const std::vector<std::int64_t> shape = {key.train + key.test, 3, side_, side_};
  const std::string what = "decoding " + std::to_string(key.train + key.test) + " images of " +
                           listing_->root.string() + " into ";
  if (!cache_folder_) {
    log(LogLevel::info, what + megabytes(key.file_bytes()) + " of memory");
    images = at::empty(shape, at::kByte);
    auto* bytes = images.data_ptr<std::uint8_t>();
    loaded->summary = decode_all(*listing_, side_, services, [&](std::int64_t i, Bytes pixels) {
      std::memcpy(bytes + i * key.image_bytes(), pixels.data(), pixels.size());
    });
  } else {
    const std::string hash = hexadecimal(std::span(key.listing).first(16));
    const fs::path file = *cache_folder_ / (name_ + "-" + hash + ".cache");
    remove_abandoned(*cache_folder_);
    std::string problem;
    const auto open = [&] {
      auto opened = Cache::open(file, key, problem);
      if (!opened || read_all(*opened, *listing_, side_, services)) return opened;
      problem = "does not hold the pixels that were decoded, it is damaged";
      return std::shared_ptr<Cache>();
    };
    auto cache = open();
    if (!problem.empty())
      log(LogLevel::warning, file.string() + " " + problem + ": it will be rebuilt");
    if (!cache) {
      log(LogLevel::info, what + file.string() + " (" + megabytes(key.file_bytes()) + ")");
      CacheWriter writer(file, key);
      writer.finish(decode_all(*listing_, side_, services,
                               [&](std::int64_t i, Bytes pixels) { writer.write(i, pixels); }));
      cache = open();
      if (!cache)
        refuse(file.string(), problem.empty() ? "has disappeared since it was written" : problem,
               "is another program changing the folder? set `cache` to another one");
    }
    loaded->summary = cache->summary();
    images = at::from_blob(
        const_cast<std::uint8_t*>(cache->images()), shape, [cache](void*) {}, at::kByte);
  }
  loaded->train = {images.narrow(0, 0, key.train), labels_of(listing_->train)};
  loaded->test = {images.narrow(0, key.train, key.test), labels_of(listing_->test)};
  loaded->train_fingerprint = hexadecimal(loaded->summary.train);
  loaded->test_fingerprint = hexadecimal(loaded->summary.test);
  const double pixels = static_cast<double>(key.train * side_ * side_);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const double mean = static_cast<double>(loaded->summary.sum[channel]) / pixels;
    const double square = static_cast<double>(loaded->summary.squares[channel]) / pixels;
    loaded->means[channel] = mean / 255;
    loaded->deviations[channel] = std::sqrt(std::max(1.0, square - mean * mean)) / 255;
  }
  listing_->train = listing_->test = {};
  loaded_ = std::move(loaded);
  return *loaded_;
}

void ImageDataset::load(Services& services, Split split, SampleSink& sink) {
  files::check_split(*this, name_, split);
  const Loaded& all = loaded(&services);
  const files::Samples& samples = split == Split::train ? all.train : all.test;
  sink.add(samples.images, samples.labels);
}

std::int64_t ImageDataset::classes() const {
  return std::ssize(listing().class_names);
}

std::string_view ImageDataset::class_name(std::int64_t label) const {
  return listing().class_names.at(static_cast<std::size_t>(label));
}

std::span<const double> ImageDataset::means() const {
  return loaded(nullptr).means;
}

std::span<const double> ImageDataset::deviations() const {
  return loaded(nullptr).deviations;
}

void ImageDataset::files(Split split, FileSink& sink) const {
  listing();
  files_.name(split, sink);
}

std::string_view ImageDataset::fingerprint(Split split) const {
  if (!loaded_) return {};
  if (split == Split::train) return loaded_->train_fingerprint;
  if (split == Split::test) return loaded_->test_fingerprint;
  return {};
}

}  // namespace backstop::images
