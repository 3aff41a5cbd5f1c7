#include "host/engine/formats/model_source.hpp"

#include <algorithm>
#include <array>
#include <ostream>
#include <utility>
#include <vector>

#include "host/base/files.hpp"
#include "host/engine/formats/checkpoint.hpp"
#include "host/engine/formats/recognize.hpp"
#include "host/engine/formats/safetensors_header.hpp"

namespace backstop::engine {

std::string_view to_string(FileFormat format) {
  switch (format) {
    case FileFormat::safetensors:
      return "safetensors";
    case FileFormat::checkpoint:
      return "PyTorch checkpoint";
    case FileFormat::legacy_checkpoint:
      return "PyTorch checkpoint of the older form";
    case FileFormat::torchscript:
      return "TorchScript";
  }
  return "unknown";
}

namespace {

bool is_torchscript(const ZipArchive& zip) {
  const std::string root = root_of(zip);
  const auto& entries = zip.entries();
  return zip.find(root + "constants.pkl") != nullptr &&
         std::any_of(entries.begin(), entries.end(),
                     [&](const ZipEntry& entry) { return entry.name.starts_with(root + "code/"); });
}

}  // namespace

ModelSource::ModelSource(const std::filesystem::path& path) : file_(path) {
  if (file_.size() >= kLegacyMagic.size() && file_.text(0, kLegacyMagic.size()) == kLegacyMagic) {
    header_ = read_legacy_checkpoint(file_);
  } else if (is_zip(file_)) {
    zip_.emplace(file_);
    if (zip_->find(root_of(*zip_) + "data.pkl") == nullptr) refuse_unknown(file_, *zip_);
    header_ = read_checkpoint(
        file_, *zip_, is_torchscript(*zip_) ? FileFormat::torchscript : FileFormat::checkpoint);
  } else if (is_safetensors(file_)) {
    SafetensorsHeader header = read_safetensors_header(file_);
    header_ = std::move(header.model);
    header_.facts = facts_of(header.metadata, file_.path());
  } else {
    refuse_unknown(file_);
  }
}

std::string ModelSource::bytes(std::size_t storage) const {
  const StoredBytes& place = header_.storages[storage];
  if (place.entry) return zip_->read(zip_->entries()[*place.entry], place.size);
  return file_.text(place.offset, place.size);
}

void ModelSource::write_copy(const std::filesystem::path& output,
                             std::map<std::size_t, std::string> storages) const {
  Patches patches;
  for (auto& [storage, bytes] : storages) {
    const StoredBytes& place = header_.storages[storage];
    if (place.entry)
      zip_->replace(zip_->entries()[*place.entry], std::move(bytes), patches);
    else
      patches[place.offset] = std::move(bytes);
  }
  base::write_file(output, [&](std::ostream& out) {
    std::vector<char> block(std::size_t{1} << 20);
    std::uint64_t at = 0;
    const auto copy_to = [&](std::uint64_t end) {
      while (at < end) {
        const std::uint64_t some = std::min<std::uint64_t>(end - at, block.size());
        file_.read(at, block.data(), some);
        out.write(block.data(), static_cast<std::streamsize>(some));
        at += some;
      }
    };
    for (const auto& [offset, bytes] : patches) {
      copy_to(offset);
      out << bytes;
      at += bytes.size();
    }
    copy_to(file_.size());
  });
}

ModelHeader read_model_header(const std::filesystem::path& path) {
  return ModelSource(path).header();
}

}  // namespace backstop::engine
