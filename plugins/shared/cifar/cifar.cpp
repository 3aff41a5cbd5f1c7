#include "cifar.hpp"

#include <algorithm>
#include <utility>

#include <ATen/ops/empty.h>

namespace backstop::cifar {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kHeadImages = 10;

struct Images {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int64_t> labels;
  bool operator==(const Images&) const = default;
};

Images read(const Batch& batch, std::int64_t first, std::int64_t count) {
  Images images{std::vector<std::uint8_t>(static_cast<std::size_t>(count * kImageSize)),
                std::vector<std::int64_t>(static_cast<std::size_t>(count))};
  batch.read(first, count, images.pixels.data(), images.labels.data());
  return images;
}

bool equal(const Batch& a, const Batch& b) {
  if (a.images() != b.images()) return false;
  constexpr std::int64_t kChunk = 256;
  for (std::int64_t first = 0; first < a.images(); first += kChunk) {
    const std::int64_t count = std::min(kChunk, a.images() - first);
    if (read(a, first, count) != read(b, first, count)) return false;
  }
  return true;
}

std::string text(std::span<const std::int64_t> labels) {
  std::string joined;
  for (const std::int64_t label : labels) {
    if (!joined.empty()) joined += ' ';
    joined += std::to_string(label);
  }
  return joined;
}

}  // namespace

Reader::Reader(const fs::path& root, const Description& description) : description_(description) {
  const auto holds_one = [&](const fs::path& folder, Version version) {
    version_ = version;
    return std::ranges::any_of(description.files, [&](const OfficialFile& file) {
      std::error_code ignored;
      return fs::exists(fs::symlink_status(folder / name(file), ignored));
    });
  };
  for (const auto& [folder, version] : {std::pair{root, Version::binary},
                                        {root / description.binary_folder, Version::binary},
                                        {root, Version::python},
                                        {root / description.python_folder, Version::python}}) {
    if (!holds_one(folder, version)) continue;
    folder_ = folder;
    break;
  }
  if (folder_.empty()) {  // so that errors name the first file of the binary version
    folder_ = root;
    version_ = Version::binary;
  }
  unpack_again_ = "unpack " +
                  std::string(version_ == Version::binary ? description.binary_archive
                                                          : description.python_archive) +
                  " again";
  for (const OfficialFile& file : description.files)
    files_.add(file.split, folder_ / name(file),
               version_ == Version::binary ? file.binary_md5 : file.python_md5);
  if (version_ == Version::python)
    files_.add(Split::train, folder_ / description.meta, description.meta_md5);
}

std::string_view Reader::name(const OfficialFile& file) const {
  return version_ == Version::binary ? file.binary_name : file.python_name;
}

void Reader::name_files(Split split, FileSink& sink) const {
  files_.name(split, sink);
}

std::vector<Batch> Reader::open() const {
  const files::Kind kind{"a batch file",
                         "set `root` to the folder that " +
                             std::string(description_.binary_archive) + " or " +
                             std::string(description_.python_archive) + " unpacks to",
                         unpack_again_};
  std::vector<Batch> batches;
  for (const OfficialFile& file : description_.files)
    batches.emplace_back(files::File(folder_ / name(file), kind), version_, description_.label,
                         file.images);
  return batches;
}

/// The only sign of a test batch among the training batches would be a flattering accuracy.
void Reader::check_identities(const std::vector<Batch>& batches) const {
  const std::span<const OfficialFile> official = description_.files;
  std::vector<Images> heads;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    heads.push_back(read(batches[i], 0, std::min(kHeadImages, batches[i].images())));
    for (std::size_t j = 0; j < official.size(); ++j) {
      if (i != j && std::ranges::equal(heads.back().labels, official[j].first_labels))
        files::refuse(batches[i].file().path(),
                      "its first labels are " + text(heads.back().labels) + ", those of " +
                          std::string(name(official[j])) + ", expected " +
                          text(official[i].first_labels),
                      "the file has the name of another one: " + unpack_again_);
    }
  }
  for (std::size_t i = 0; i < batches.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (heads[i] == heads[j] && equal(batches[i], batches[j]))
        batches[i].file().refuse("is a copy of " + std::string(name(official[j])) +
                                 ", expected different images");
}

files::Samples Reader::load(Services& services, Split split) const {
  const std::vector<Batch> batches = open();
  check_identities(batches);

  std::int64_t count = 0;
  for (std::size_t i = 0; i < batches.size(); ++i)
    if (description_.files[i].split == split) count += batches[i].images();
  files::Samples samples{files::empty_images(count, 32), at::empty({count}, at::kLong)};
  auto* images = samples.images.data_ptr<std::uint8_t>();
  auto* labels = samples.labels.data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < batches.size(); ++i) {
    if (description_.files[i].split != split) continue;
    services.stop_if_cancelled();
    const Batch& batch = batches[i];
    files::warn_if_partial(services, batch.file().path(), batch.images(),
                           description_.files[i].images);
    batch.read(0, batch.images(), images, labels);
    images += batch.images() * kImageSize;
    labels += batch.images();
  }
  return samples;
}

}  // namespace backstop::cifar
