#include "host/engine/formats/safetensors_header.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/error.hpp"
#include "host/base/text.hpp"

namespace backstop::engine {

namespace {

using nlohmann::json;
using Record = std::map<std::string, std::string>;

// SECURITY.md states these bounds.
constexpr std::uint64_t kLargestHeader = 16u << 20;
constexpr std::size_t kMostTensors = 100'000;
constexpr std::size_t kMostDimensions = 64;

constexpr std::pair<std::string_view, ElementType> kTypes[] = {
    {"F64", ElementType::float64},   {"F32", ElementType::float32}, {"F16", ElementType::float16},
    {"BF16", ElementType::bfloat16}, {"I64", ElementType::int64},   {"I32", ElementType::int32},
    {"I16", ElementType::int16},     {"I8", ElementType::int8},     {"U8", ElementType::uint8},
    {"BOOL", ElementType::boolean}};

struct Description {
  std::string name;
  std::optional<ElementType> type;
  std::vector<std::int64_t> shape;
  std::vector<std::uint64_t> offsets;  ///< begin and end in the data
  bool has_shape = false;
};

struct Header {
  std::vector<Description> tensors;
  std::map<std::string, std::string> metadata;
};

/// Reads the header as its events come, so that it takes time and memory in proportion to its size
/// whatever it holds, and stops at the first thing that is wrong.
class HeaderReader {
 public:
  Header header;
  std::string problem;  ///< when a function has returned false

  bool start_object(std::size_t) {
    if (place_ == Place::file) return enter(Place::names);
    if (place_ == Place::names && in_metadata_) return enter(Place::metadata);
    if (place_ == Place::names) return enter(Place::tensor);
    return unexpected();
  }
  bool end_object() {
    if (place_ == Place::names) return enter(Place::end);
    if (place_ == Place::metadata) return enter(Place::names);
    const Description& tensor = header.tensors.back();
    if (!tensor.type || !tensor.has_shape || tensor.offsets.size() != 2) return incomplete();
    return enter(Place::names);
  }
  bool key(std::string& text) {
    key_ = text;
    if (place_ == Place::metadata)
      return header.metadata.emplace(key_, "").second || twice("the metadata", key_);
    if (place_ == Place::tensor) return key_of_tensor();
    in_metadata_ = key_ == "__metadata__";
    if (!names_.insert(key_).second) return twice("its header", key_);
    if (in_metadata_) return true;
    if (header.tensors.size() == kMostTensors)
      return fail(fmt::format("it has more than {} tensors", kMostTensors));
    header.tensors.push_back({key_, {}, {}, {}});
    return true;
  }
  bool start_array(std::size_t) {
    if (place_ != Place::tensor) return unexpected();
    Description& tensor = header.tensors.back();
    if (key_ == "dtype") return incomplete();
    if (key_ == "data_offsets") return enter(Place::offsets);
    tensor.has_shape = true;
    return enter(Place::shape);
  }
  bool end_array() { return enter(Place::tensor); }
  bool string(std::string& text) {
    if (place_ == Place::metadata) {
      header.metadata[key_] = text;
      return true;
    }
    if (place_ != Place::tensor) return unexpected();
    Description& tensor = header.tensors.back();
    if (key_ != "dtype") return incomplete();
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const auto& t) { return text == t.first; });
    if (type == std::end(kTypes))
      return fail(fmt::format("tensor {} has the unknown dtype {}", shown(tensor.name),
                              base::printable(base::shortened(text))));
    tensor.type = type->second;
    return true;
  }
  bool number_unsigned(std::uint64_t number) {
    if (place_ != Place::shape && place_ != Place::offsets) return unexpected();
    Description& tensor = header.tensors.back();
    if (place_ == Place::offsets) {
      tensor.offsets.push_back(number);
      return tensor.offsets.size() <= 2 || incomplete();
    }
    if (tensor.shape.size() == kMostDimensions)
      return fail(fmt::format("tensor {} has more than {} dimensions", shown(tensor.name),
                              kMostDimensions));
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return fail(fmt::format("tensor {} has a shape larger than the file", shown(tensor.name)));
    tensor.shape.push_back(static_cast<std::int64_t>(number));
    return true;
  }
  bool null() { return unexpected(); }
  bool boolean(bool) { return unexpected(); }
  bool number_integer(std::int64_t) { return unexpected(); }
  bool number_float(double, const std::string&) { return unexpected(); }
  bool binary(nlohmann::json::binary_t&) { return unexpected(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) {
    return fail("its header is not a JSON object");
  }

 private:
  enum class Place { file, names, metadata, tensor, shape, offsets, end };

  bool enter(Place place) {
    place_ = place;
    return true;
  }
  bool fail(std::string why) {
    problem = std::move(why);
    return false;
  }
  bool twice(const char* where, const std::string& name) {
    return fail(fmt::format("{} has the key {} twice", where, shown(name)));
  }
  bool key_of_tensor() {
    const Description& tensor = header.tensors.back();
    const bool known = key_ == "dtype" || key_ == "shape" || key_ == "data_offsets";
    if (!known)
      return fail(fmt::format("tensor {} has the unknown key {}", shown(tensor.name), shown(key_)));
    const bool again = key_ == "dtype"   ? tensor.type.has_value()
                       : key_ == "shape" ? tensor.has_shape
                                         : !tensor.offsets.empty();
    return !again || twice("a tensor", key_);
  }
  bool incomplete() {
    return fail(fmt::format("tensor {} lacks a dtype, a shape or two data_offsets",
                            shown(header.tensors.back().name)));
  }
  /// A value of another type than its place has.
  bool unexpected() {
    switch (place_) {
      case Place::names:
        if (in_metadata_) return fail("its metadata is not an object");
        return incomplete();
      case Place::metadata:
        return fail(fmt::format("{} in its metadata is not a string", shown(key_)));
      case Place::shape:
        return fail(fmt::format("tensor {} has a shape that is not a list of sizes",
                                shown(header.tensors.back().name)));
      case Place::tensor:
      case Place::offsets:
        return incomplete();
      case Place::file:
      case Place::end:
        break;
    }
    return fail("its header is not a JSON object");
  }

  Place place_ = Place::file;
  std::string key_;  ///< the last one
  bool in_metadata_ = false;
  std::unordered_set<std::string> names_;
};

class Reader {
 public:
  explicit Reader(const InputFile& file) : file_(file) {}

  SafetensorsHeader read() {
    std::uint64_t header_size = 0;
    if (file_.size() < sizeof header_size)
      fail(fmt::format("it has {} bytes, fewer than the 8 of a header's length", file_.size()));
    file_.read(0, &header_size, sizeof header_size);
    if (header_size > kLargestHeader || header_size > file_.size() - sizeof header_size)
      fail(fmt::format("it announces a header of {} bytes in a file of {}; at most {} are allowed",
                       header_size, file_.size(), kLargestHeader));
    const std::string text = file_.text(sizeof header_size, header_size);
    data_start_ = sizeof header_size + header_size;
    HeaderReader reader;
    if (!json::sax_parse(text, &reader)) fail(reader.problem);
    for (const Description& description : reader.header.tensors) check(description);
    check_overlaps(reader.header.tensors);

    SafetensorsHeader header{{}, std::move(reader.header.metadata)};
    header.model.format = FileFormat::safetensors;
    for (Description& description : reader.header.tensors)
      add(std::move(description), header.model);
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw base::HostError(
        base::ExitCode::environment,
        file_.path().string() + " is not a safetensors file: " + problem,
        "expected a file that Python's safetensors.torch.save_file writes; this one may be "
        "truncated");
  }

  void check(const Description& tensor) const {
    const std::uint64_t begin = tensor.offsets[0], end = tensor.offsets[1];
    const std::uint64_t available = file_.size() - data_start_;
    if (begin > end || end > available)
      fail(fmt::format("tensor {} lies at bytes {} to {} of {}", shown(tensor.name), begin, end,
                       available));
    std::uint64_t size = size_of(*tensor.type), strides = 1;
    for (const std::int64_t extent : tensor.shape) {
      const auto n = static_cast<std::uint64_t>(extent);
      // A tensor without elements may have other extents of any size: they bound its strides.
      constexpr std::uint64_t kMostStrides = std::uint64_t{1} << 40;
      if (n != 0 && (size > available / n || strides > kMostStrides / n))
        fail(fmt::format("tensor {} has a shape larger than the file", shown(tensor.name)));
      size *= n;
      strides *= std::max<std::uint64_t>(n, 1);
    }
    if (size != end - begin)
      fail(fmt::format("tensor {} needs {} bytes by its shape and has {}", shown(tensor.name), size,
                       end - begin));
  }

  /// Tensors that share bytes could need any multiple of the file's size as memory.
  void check_overlaps(const std::vector<Description>& tensors) const {
    std::vector<const Description*> sorted;
    for (const Description& tensor : tensors)
      if (tensor.offsets[0] != tensor.offsets[1]) sorted.push_back(&tensor);
    std::sort(sorted.begin(), sorted.end(),
              [](const Description* a, const Description* b) { return a->offsets < b->offsets; });
    for (std::size_t i = 1; i < sorted.size(); ++i)
      if (sorted[i]->offsets[0] < sorted[i - 1]->offsets[1])
        fail(fmt::format("tensors {} and {} overlap: they lie at bytes {} to {} and {} to {}",
                         shown(sorted[i - 1]->name), shown(sorted[i]->name),
                         sorted[i - 1]->offsets[0], sorted[i - 1]->offsets[1],
                         sorted[i]->offsets[0], sorted[i]->offsets[1]));
  }

  void add(Description description, ModelHeader& model) const {
    std::vector<std::int64_t> strides(description.shape.size(), 1);
    for (std::size_t d = strides.size(); d-- > 1;)
      strides[d - 1] = strides[d] * std::max<std::int64_t>(description.shape[d], 1);
    model.storages.push_back({description.name, data_start_ + description.offsets[0],
                              description.offsets[1] - description.offsets[0], std::nullopt});
    model.tensors.push_back({std::move(description.name), *description.type,
                             std::move(description.shape), std::move(strides), 0,
                             model.storages.size() - 1});
  }

  const InputFile& file_;
  std::uint64_t data_start_ = 0;
};

[[noreturn]] void damaged(const std::filesystem::path& path, const std::string& key,
                          const std::string& value) {
  throw base::HostError(
      base::ExitCode::environment,
      fmt::format("{} records `{}` = \"{}\", which is not a valid value", path.string(), key,
                  value),
      "the file is damaged, or was written by another program; remove its metadata to load it as "
      "plain weights");
}

std::optional<std::int64_t> integer_in(const Record& record, const std::string& key,
                                       const std::filesystem::path& path) {
  const auto entry = record.find(key);
  if (entry == record.end()) return std::nullopt;
  const json value = json::parse(entry->second, nullptr, false);
  if (!value.is_number_integer() || value.get<std::int64_t>() < 1)
    damaged(path, key, entry->second);
  return value.get<std::int64_t>();
}

/// Constants for pixels in [0, 1] are never near this, and float32 can divide by its inverse.
constexpr double kLargest = 1e6;

/// One or three numbers, for three channels.
std::optional<std::array<double, 3>> constants_in(const Record& record, const std::string& key,
                                                  const std::filesystem::path& path) {
  const auto entry = record.find(key);
  if (entry == record.end()) return std::nullopt;
  const json value = json::parse(entry->second, nullptr, false);
  if (!value.is_array() || (value.size() != 1 && value.size() != 3))
    damaged(path, key, entry->second);
  std::array<double, 3> constants{};
  for (std::size_t c = 0; c < constants.size(); ++c) {
    const json& number = value[value.size() == 1 ? 0 : c];
    if (!number.is_number() || !std::isfinite(number.get<double>()) ||
        std::abs(number.get<double>()) > kLargest ||
        (key == "deviation" && number.get<double>() < 1 / kLargest))
      damaged(path, key, entry->second);
    constants[c] = number.get<double>();
  }
  return constants;
}

}  // namespace

SafetensorsHeader read_safetensors_header(const InputFile& file) {
  return Reader(file).read();
}

std::string_view safetensors_name(ElementType type) {
  for (const auto& [name, known] : kTypes)
    if (known == type) return name;
  return {};
}

ModelFacts facts_of(const Record& metadata, const std::filesystem::path& path) {
  ModelFacts facts;
  // Files of other programs may have any metadata; one of these three keys makes it a record.
  if (!metadata.contains("architecture") && !metadata.contains("mean") &&
      !metadata.contains("deviation"))
    return facts;
  if (const auto name = metadata.find("architecture"); name != metadata.end())
    facts.architecture = name->second;
  if (const auto attack = metadata.find(kAttackKey); attack != metadata.end())
    facts.attack = attack->second;
  facts.width = integer_in(metadata, "width", path);
  facts.channels = integer_in(metadata, "channels", path);
  facts.classes = integer_in(metadata, "classes", path);
  const auto mean = constants_in(metadata, "mean", path);
  const auto deviation = constants_in(metadata, "deviation", path);
  if (mean.has_value() != deviation.has_value())
    damaged(path, mean ? "mean" : "deviation", metadata.at(mean ? "mean" : "deviation"));
  if (mean && deviation) facts.normalization = Normalization{*mean, *deviation};
  return facts;
}

}  // namespace backstop::engine
