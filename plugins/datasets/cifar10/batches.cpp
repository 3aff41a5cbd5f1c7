#include "batches.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <ATen/ops/empty.h>

#include "backstop/error.hpp"

namespace backstop::cifar10 {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRecordSize = 1 + 3 * 32 * 32;
constexpr std::int64_t kHeadRecords = 10;
constexpr std::size_t kTestBatch = 5;

struct Batch {
  const char* name;
  std::string_view first_labels;  ///< of the official file: tells which of the six it is
};
constexpr std::array<Batch, 6> kBatches = {{{"data_batch_1.bin", "6994112783"},
                                            {"data_batch_2.bin", "1668834606"},
                                            {"data_batch_3.bin", "8506928362"},
                                            {"data_batch_4.bin", "0602721241"},
                                            {"data_batch_5.bin", "1851574382"},
                                            {"test_batch.bin", "3880661631"}}};

constexpr const char* kUnpackAgain = "unpack cifar-10-binary.tar.gz again";

[[noreturn]] void refuse(const fs::path& file, const std::string& problem,
                         const std::string& hint) {
  throw EnvironmentError(file.string() + ": " + problem, hint);
}

/// Where the batches are; `root` itself when they are nowhere, so that errors name it.
fs::path find_folder(const fs::path& root) {
  std::error_code ignored;
  const fs::path inner = root / "cifar-10-batches-bin";
  return !fs::exists(root / kBatches[0].name, ignored) && fs::is_directory(inner, ignored) ? inner
                                                                                           : root;
}

void check_size(const fs::path& file, std::int64_t records) {
  std::error_code error;
  switch (fs::status(file, error).type()) {
    case fs::file_type::regular:
      break;
    case fs::file_type::not_found: {
      const bool pickles = fs::exists(fs::path(file).replace_extension(), error);
      refuse(file, "is missing",
             pickles ? "the folder holds the Python version of CIFAR-10: get the binary version, "
                       "cifar-10-binary.tar.gz"
                     : "set `root` to the folder that cifar-10-binary.tar.gz unpacks to");
    }
    case fs::file_type::directory:
      refuse(file, "is a folder, expected a batch file", kUnpackAgain);
    case fs::file_type::none:
      refuse(file, "cannot be read: " + error.message(), "check the file and its permissions");
    default:  // could block, or never end
      refuse(file, "is not a regular file, expected a batch file", kUnpackAgain);
  }
  const auto expected = static_cast<std::uintmax_t>(records * kRecordSize);
  const std::uintmax_t size = fs::file_size(file, error);
  if (error)
    refuse(file, "cannot be read: " + error.message(), "check the file and its permissions");
  if (size != expected)
    refuse(file,
           (size == 0 ? "is empty" : "has " + std::to_string(size) + " bytes") + ", expected " +
               std::to_string(expected) + " (" + std::to_string(records) + " records of " +
               std::to_string(kRecordSize) + " bytes)",
           kUnpackAgain);
}

/// The first `records` records, uint8 [records, kRecordSize].
at::Tensor read_records(const fs::path& file, std::int64_t records) {
  at::Tensor bytes = at::empty({records, kRecordSize}, at::kByte);
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(static_cast<char*>(bytes.data_ptr()),
                   static_cast<std::streamsize>(bytes.nbytes())))
    refuse(file, "cannot be read: " + std::generic_category().message(errno),
           "check the file and its permissions");
  return bytes;
}

/// A test batch among the training batches gives a flattering accuracy and no other sign.
void check_each_is_itself(const fs::path& folder, std::int64_t records) {
  std::vector<at::Tensor> heads;
  for (const Batch& batch : kBatches) {
    const fs::path file = folder / batch.name;
    heads.push_back(read_records(file, std::min(records, kHeadRecords)));
    std::string first_labels;
    for (std::int64_t i = 0; i < heads.back().size(0); ++i)
      first_labels += static_cast<char>('0' + heads.back()[i][0].item<std::uint8_t>());
    for (const Batch& other : kBatches) {
      if (&other != &batch && other.first_labels == first_labels)
        refuse(file,
               "its labels begin " + first_labels + " as those of " + other.name +
                   " do, expected " + std::string(batch.first_labels),
               std::string("the file has another one's name: ") + kUnpackAgain);
    }
  }
  for (std::size_t i = 0; i < kBatches.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const fs::path file = folder / kBatches[i].name, other = folder / kBatches[j].name;
      if (heads[i].equal(heads[j]) &&
          read_records(file, records).equal(read_records(other, records)))
        refuse(file, std::string("is a copy of ") + kBatches[j].name + ", expected other images",
               kUnpackAgain);
    }
  }
}

}  // namespace

Samples read_split(const fs::path& root, Split split, std::int64_t records) {
  const fs::path folder = find_folder(root);
  for (const Batch& batch : kBatches) check_size(folder / batch.name, records);
  check_each_is_itself(folder, records);

  const std::size_t first = split == Split::train ? 0 : kTestBatch;
  const std::size_t last = split == Split::train ? kTestBatch : kBatches.size();
  const std::int64_t count = records * static_cast<std::int64_t>(last - first);
  Samples samples{at::empty({count, 3, 32, 32}, at::kByte), at::empty({count}, at::kLong)};
  for (std::size_t i = first; i < last; ++i) {
    const fs::path file = folder / kBatches[i].name;
    const at::Tensor bytes = read_records(file, records);
    const at::Tensor labels = bytes.select(1, 0);
    const at::Tensor wrong = labels.ge(kClasses).nonzero();
    if (wrong.size(0) > 0) {
      const auto position = wrong[0].item<std::int64_t>();
      refuse(file,
             "record " + std::to_string(position) + " (from 0) has label " +
                 std::to_string(labels[position].item<std::int64_t>()) + ", expected 0 to " +
                 std::to_string(kClasses - 1),
             kUnpackAgain);
    }
    const std::int64_t start = records * static_cast<std::int64_t>(i - first);
    samples.labels.narrow(0, start, records).copy_(labels);
    samples.images.narrow(0, start, records).copy_(bytes.slice(1, 1).unflatten(1, {3, 32, 32}));
  }
  return samples;
}

}  // namespace backstop::cifar10
