#include "idx.hpp"

#include <iterator>
#include <system_error>
#include <utility>

#include <ATen/ops/empty.h>

#include "idx_file.hpp"
#include "shared/files/file.hpp"

namespace backstop::idx {
namespace {

namespace fs = std::filesystem;

constexpr std::array kEndings = {"", ".gz"};

std::string images_name(const std::string& prefix) {
  return prefix + "-images-idx3-ubyte";
}
std::string labels_name(const std::string& prefix) {
  return prefix + "-labels-idx1-ubyte";
}
std::string prefix_of(Split split) {
  return split == Split::train ? "train" : "t10k";
}

files::File open(const fs::path& folder, const std::string& name, const std::string& source) {
  std::error_code error;
  if (!fs::is_directory(folder, error))
    files::refuse(folder, "is not a readable folder, expected one with IDX files", source);
  for (const char* ending : kEndings) {
    const fs::path file = folder / (name + ending);
    if (fs::exists(fs::symlink_status(file, error)))
      return {file, {"an IDX file", source, "the file was cut short: copy it again"}};
  }
  files::refuse(folder / name, "is missing, and so is " + name + ".gz", source);
}

at::Tensor read(const files::File& file, at::IntArrayRef shape) {
  at::Tensor data = at::empty(shape, at::kByte);
  read_array(file, {shape.data(), shape.size()}, data.data_ptr<std::uint8_t>());
  return data;
}

}  // namespace

files::Samples read_files(const fs::path& folder, const std::string& prefix,
                          const Expected& expected, const std::string& source) {
  const files::File images = open(folder, images_name(prefix), source);
  const files::File labels = open(folder, labels_name(prefix), source);
  files::Samples samples;
  samples.images = read(images, {expected.images, expected.height, expected.width}).unsqueeze(1);
  samples.labels = read(labels, {expected.images}).to(at::kLong);

  const at::Tensor wrong = samples.labels.ge(expected.classes).nonzero();
  if (wrong.size(0) > 0) {
    const auto position = wrong[0].item<std::int64_t>();
    files::refuse(labels.path(),
                  "label " + std::to_string(position) + " (counting from 0) is " +
                      std::to_string(samples.labels[position].item<std::int64_t>()) +
                      ", expected 0 to " + std::to_string(expected.classes - 1),
                  "the file is damaged or belongs to another dataset: copy it again");
  }
  return samples;
}

IdxDataset::IdxDataset(const Params& params, const Description& description)
    : description_(description), folder_(params.string("root")) {
  const fs::path root = folder_;
  for (const char* ending : kEndings) {
    const std::string train = images_name("train") + ending, test = images_name("t10k") + ending;
    const fs::path found = files::find_folder(root, {"raw", description.folder}, {train, test});
    if (found.empty()) continue;
    folder_ = found;
    break;
  }
  for (const auto& [split, checksums] :
       {std::pair{Split::train, description.train}, {Split::test, description.test}}) {
    for (const auto& [name, md5] : {std::pair{images_name(prefix_of(split)), checksums.images},
                                    {labels_name(prefix_of(split)), checksums.labels}}) {
      files_.add(split, folder_ / name, "");  // only the compressed files were published
      files_.add(split, folder_ / (name + ".gz"), md5);
    }
  }
}

void IdxDataset::load(Services&, Split split, SampleSink& sink) {
  files::check_split(*this, description_.name, split);
  const files::Samples samples = read_files(
      folder_, prefix_of(split), {split == Split::train ? 60000 : 10000, 28, 28, classes()},
      std::string(description_.source));
  sink.add(samples.images, samples.labels);
}

std::int64_t IdxDataset::classes() const {
  return std::ssize(description_.class_names);
}

std::string_view IdxDataset::class_name(std::int64_t label) const {
  return description_.class_names.at(static_cast<std::size_t>(label));
}

}  // namespace backstop::idx
