#include "host/engine/formats/checkpoint.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "host/engine/formats/pickle.hpp"
#include "host/engine/formats/state_dict.hpp"

namespace backstop::engine {

namespace {

// SECURITY.md states these bounds.
constexpr std::uint64_t kLargestPickle = 512u << 20;
constexpr std::uint64_t kLargestDeflatedPickle = 64u << 20;
constexpr std::size_t kMostDimensions = 64;
constexpr std::uint64_t kMostStrides = std::uint64_t{1} << 40;
/// Tensors may share numbers, and repeat them: all of them together may take this many times the
/// bytes of the file, or this many bytes.
constexpr std::uint64_t kMostTimes = 8, kAlwaysAllowed = 64u << 20;

constexpr std::string_view kData = "data.pkl";

/// The place of a storage in the file, by its key; nothing when there is none.
using Places = std::function<std::optional<StoredBytes>(const std::string& key)>;

class Assembly {
 public:
  Assembly(const InputFile& file, const Pickle& pickle, FileFormat format, Places places)
      : file_(file), pickle_(pickle), places_(std::move(places)) {
    header_.format = format;
  }

  ModelHeader assemble(FoundWeights found) {
    header_.facts = std::move(found.facts);
    header_.location = std::move(found.location);
    header_.prefix = std::move(found.prefix);
    header_.rest = std::move(found.rest);
    for (auto& [name, node] : found.tensors)
      add(std::move(name), pickle_.tensors[pickle_[node].index]);
    return std::move(header_);
  }

 private:
  void add(std::string name, const PickledTensor& pickled) {
    const auto fail = [&](const std::string& why) {
      file_.refuse(fmt::format("tensor {} {}", shown(name), why), kDamaged);
    };
    const PickledStorage& storage = pickle_.storages[pickled.storage];
    const std::size_t place = place_of(name, storage);
    const StoredBytes& stored = header_.storages[place];
    const std::uint64_t item = size_of(storage.type), available = stored.size / item;
    if (storage.elements < 0 || static_cast<std::uint64_t>(storage.elements) > available)
      fail(fmt::format("has a storage of {} numbers, of which {} are in the file", storage.elements,
                       available));
    if (pickled.shape.size() > kMostDimensions)
      fail(fmt::format("has more than {} dimensions", kMostDimensions));
    if (pickled.shape.size() != pickled.strides.size())
      fail(
          fmt::format("has {} sizes and {} strides", pickled.shape.size(), pickled.strides.size()));
    if (pickled.offset < 0 || storage.first < 0 ||
        static_cast<std::uint64_t>(pickled.offset) > available ||
        static_cast<std::uint64_t>(storage.first) > available)
      fail(fmt::format("begins at number {} of a storage of {}", pickled.offset, available));

    std::uint64_t elements = 1, extents = 1;
    std::uint64_t last = static_cast<std::uint64_t>(pickled.offset + storage.first);
    bool beyond = false;
    for (std::size_t d = 0; d < pickled.shape.size(); ++d) {
      const std::int64_t extent = pickled.shape[d], stride = pickled.strides[d];
      if (extent < 0) fail(fmt::format("has the negative size {}", extent));
      if (stride < 0) fail(fmt::format("has the negative stride {}", stride));
      const auto n = static_cast<std::uint64_t>(extent), s = static_cast<std::uint64_t>(stride);
      if (n > 0 && extents > kMostStrides / n)
        fail(fmt::format("has a shape of more than {} numbers", kMostStrides));
      extents *= std::max<std::uint64_t>(n, 1);
      elements *= n;
      if (n > 1 && s > 0 && n - 1 > available / s) beyond = true;  // and the product may overflow
      if (n > 1 && !beyond) last += (n - 1) * s;
      if (last > available) beyond = true;
    }
    if (elements > 0 && (beyond || last >= available))
      fail(fmt::format("reaches beyond the {} numbers of its storage", available));
    total_ += elements * item;
    const std::uint64_t most = std::max(kMostTimes * file_.size(), kAlwaysAllowed);
    if (total_ > most)
      file_.refuse(fmt::format("its tensors need more than {} bytes, though the file has {}", most,
                               file_.size()),
                   kDamaged);
    header_.tensors.push_back({std::move(name), storage.type, pickled.shape, pickled.strides,
                               static_cast<std::uint64_t>(pickled.offset + storage.first), place});
  }

  std::size_t place_of(const std::string& name, const PickledStorage& storage) {
    const auto [known, is_new] = known_.try_emplace(storage.key, header_.storages.size());
    if (!is_new) return known->second;
    auto place = places_(storage.key);
    if (!place)
      file_.refuse(fmt::format("the numbers of tensor {} are missing: there is no storage {}",
                               shown(name), shown(storage.key)),
                   kDamaged);
    header_.storages.push_back(std::move(*place));
    return known->second;
  }

  const InputFile& file_;
  const Pickle& pickle_;
  Places places_;
  std::unordered_map<std::string, std::size_t> known_;  ///< storages in the header
  ModelHeader header_;
  std::uint64_t total_ = 0;
};

/// The pickle that begins at `at`. How long it is, only reading it shows.
Pickle pickle_at(const InputFile& file, std::uint64_t at) {
  const std::uint64_t most = std::min(file.size() - at, kLargestPickle);
  for (std::uint64_t size = std::min<std::uint64_t>(most, 1u << 20);;) {
    try {
      return read_pickle(file.text(at, size));
    } catch (const PickleError& e) {
      if (!e.cut_off() || size == most) file.refuse(e.what(), kDamaged);
    }
    size = std::min(most, 8 * size);
  }
}

}  // namespace

std::string root_of(const ZipArchive& zip) {
  std::string_view shortest;
  for (const ZipEntry& entry : zip.entries()) {
    const std::string_view name = entry.name;
    if ((name == kData || name.ends_with("/data.pkl")) &&
        (shortest.empty() || name.size() < shortest.size()))
      shortest = name;
  }
  return std::string(shortest.substr(0, shortest.empty() ? 0 : shortest.size() - kData.size()));
}

ModelHeader read_checkpoint(const InputFile& file, const ZipArchive& zip, FileFormat format) {
  const std::string root = root_of(zip);
  if (const ZipEntry* order = zip.find(root + "byteorder");
      order != nullptr && zip.read(*order, 16) != "little")
    file.refuse("its numbers are in the byte order of other machines (big-endian)",
                "load it in Python and save it again on an ordinary machine");
  const ZipEntry& entry = *zip.find(root + "data.pkl");
  std::string bytes = zip.read(entry, entry.deflated ? kLargestDeflatedPickle : kLargestPickle);
  Pickle pickle;
  try {
    pickle = read_pickle(std::move(bytes));
  } catch (const PickleError& e) {
    file.refuse(e.what(), kDamaged);
  }
  std::uint64_t inflated = 0;
  const auto place = [&](const std::string& key) -> std::optional<StoredBytes> {
    const ZipEntry* storage = zip.find(root + "data/" + key);
    if (storage == nullptr) return std::nullopt;
    if (storage->deflated) inflated += storage->size;
    if (inflated > std::max(kMostTimes * file.size(), kAlwaysAllowed))
      file.refuse(fmt::format("its compressed tensors claim more than {} bytes", inflated),
                  kDamaged);
    return StoredBytes{storage->name, storage->data_offset, storage->size,
                       static_cast<std::size_t>(storage - zip.entries().data())};
  };
  auto found = format == FileFormat::torchscript ? find_attributes(pickle, file)
                                                 : find_state_dict(pickle, file);
  return Assembly(file, pickle, format, place).assemble(std::move(found));
}

ModelHeader read_legacy_checkpoint(const InputFile& file) {
  // Magic number, version, facts of the machine, the object, the keys of its storages, the storages.
  std::uint64_t at = kLegacyMagic.size();
  for (int i = 0; i < 2; ++i) at += pickle_at(file, at).size;
  const Pickle object = pickle_at(file, at);
  at += object.size;
  const Pickle keys = pickle_at(file, at);
  at += keys.size;

  std::unordered_map<std::string, ElementType> types;
  for (const PickledStorage& storage : object.storages) types.emplace(storage.key, storage.type);
  std::unordered_map<std::string, StoredBytes> places;
  for (const Pickle::NodeId node : keys.items_of(keys.root)) {
    const std::string key(keys.text(node));
    const auto type = types.find(key);
    std::uint64_t elements = 0;
    if (type == types.end())
      file.refuse(fmt::format("nothing in it says what storage {} is", shown(key)), kDamaged);
    if (file.size() - at < sizeof elements) file.refuse("it ends early", kDamaged);
    file.read(at, &elements, sizeof elements);
    at += sizeof elements;
    if (elements > (file.size() - at) / size_of(type->second))
      file.refuse(
          fmt::format("storage {} claims {} numbers, but the file ends after {} bytes of it",
                      shown(key), elements, file.size() - at),
          kDamaged);
    const std::uint64_t size = elements * size_of(type->second);
    if (!places.emplace(key, StoredBytes{"storage " + key, at, size, std::nullopt}).second)
      file.refuse(fmt::format("it has two storages {}", shown(key)), kDamaged);
    at += size;
  }
  const auto place = [&](const std::string& key) -> std::optional<StoredBytes> {
    const auto found = places.find(key);
    return found == places.end() ? std::nullopt : std::optional(found->second);
  };
  return Assembly(file, object, FileFormat::legacy_checkpoint, place)
      .assemble(find_state_dict(object, file));
}

}  // namespace backstop::engine
