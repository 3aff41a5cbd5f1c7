// CIFAR-10 and CIFAR-100 differ in their files' names, their labels and little else: this reads
// either, in the binary or in the Python version.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/files/official.hpp"
#include "backstop/dataset.hpp"
#include "batch.hpp"

namespace backstop::cifar {

struct OfficialFile {
  std::string_view binary_name, binary_md5;
  std::string_view python_name, python_md5;
  Split split;
  std::int64_t images;
  std::array<std::int64_t, 10> first_labels;  ///< tell which of the official files it is
};

struct Description {
  std::string_view binary_archive;  ///< "cifar-10-binary.tar.gz"
  std::string_view python_archive;
  std::string_view binary_folder;  ///< what the archive unpacks to
  std::string_view python_folder;
  std::string_view meta, meta_md5;  ///< the names of the classes in the Python version; not read
  std::span<const OfficialFile> files;
  LabelFormat label;
};

class Reader {
 public:
  /// Looks for the binary version, then for the Python version, in `root` and in their folders
  /// there.
  Reader(const std::filesystem::path& root, const Description& description);

  /// Reads the files of a split. Those of the other split are looked at too: each must be there,
  /// differ from the others and not be another one of the official files. Throws EnvironmentError.
  Samples load(Context& context, Split split) const;
  [[nodiscard]] std::span<const DataFile> files(Split split) const;

 private:
  [[nodiscard]] std::vector<Batch> open() const;
  void check_each_is_itself(const std::vector<Batch>& batches) const;
  [[nodiscard]] std::string_view name(const OfficialFile& file) const;

  const Description& description_;
  Version version_ = Version::binary;
  std::filesystem::path folder_;
  std::string unpack_again_;
  std::map<Split, files::DataFiles> files_;
};

}  // namespace backstop::cifar
