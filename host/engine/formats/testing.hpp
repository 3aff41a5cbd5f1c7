// Model files, byte by byte: those that PyTorch writes, and those that it never would.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zlib.h>

#include "host/base/error.hpp"
#include "host/engine/formats/checkpoint.hpp"

namespace backstop::engine::testing {

/// A folder that is deleted at the end of the test.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "backstop-model-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a folder");
    path_ = std::filesystem::canonical(name);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    // Some file systems wait for the disk when a file is truncated and rewritten.
    std::filesystem::remove(path_ / name);
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}

/// What the HostError says that `action` throws, or "none"; its exit code must be that of files.
inline std::string problem(const std::function<void()>& action) {
  try {
    action();
  } catch (const base::HostError& e) {
    return e.code() == base::ExitCode::environment ? e.what()
                                                   : std::string("wrong exit code: ") + e.what();
  }
  return "none";
}

inline std::string number(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i, value >>= 8) text += static_cast<char>(value);
  return text;
}

inline std::string floats(std::initializer_list<float> values) {
  std::string bytes(4 * values.size(), '\0');
  std::memcpy(bytes.data(), values.begin(), bytes.size());
  return bytes;
}

// -- zip --

struct Entry {
  std::string name, content;
  bool deflated = false;
  bool descriptor = false;  ///< the sum stands behind the content, as PyTorch writes it
};

inline std::string deflate(const std::string& content) {
  z_stream stream{};
  if (::deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::bad_alloc();
  std::string bytes(::deflateBound(&stream, content.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(bytes.data());
  stream.avail_out = static_cast<uInt>(bytes.size());
  ::deflate(&stream, Z_FINISH);
  bytes.resize(stream.total_out);
  ::deflateEnd(&stream);
  return bytes;
}

/// With `zip64`, sizes and places stand in the fields of zip64 alone.
inline std::string zip(const std::vector<Entry>& entries, bool zip64 = false) {
  std::string file, directory;
  for (const Entry& entry : entries) {
    const std::string stored = entry.deflated ? deflate(entry.content) : entry.content;
    const std::uint64_t crc = ::crc32(0, reinterpret_cast<const Bytef*>(entry.content.data()),
                                      static_cast<uInt>(entry.content.size()));
    const std::string method = number(entry.deflated ? 8 : 0, 2);
    const std::string flags = number(entry.descriptor ? 8 : 0, 2);
    const auto size = [&](std::uint64_t value) { return number(zip64 ? 0xffffffff : value, 4); };
    const std::string extra = !zip64
                                  ? ""
                                  : number(1, 2) + number(24, 2) + number(entry.content.size(), 8) +
                                        number(stored.size(), 8) + number(file.size(), 8);
    directory += "PK\x01\x02" + number(20, 2) + number(20, 2) + flags + method + number(0, 4) +
                 number(crc, 4) + size(stored.size()) + size(entry.content.size()) +
                 number(entry.name.size(), 2) + number(extra.size(), 2) + number(0, 10) +
                 size(file.size()) + entry.name + extra;
    // PyTorch aligns contents with an extra field that the directory lacks.
    const std::string padding = number(0x4246, 2) + number(5, 2) + "ZZZZZ";
    file += "PK\x03\x04" + number(20, 2) + flags + method + number(0, 4) +
            number(entry.descriptor ? 0 : crc, 4) + number(stored.size(), 4) +
            number(entry.content.size(), 4) + number(entry.name.size(), 2) +
            number(padding.size(), 2) + entry.name + padding + stored;
    if (entry.descriptor)
      file += "PK\x07\x08" + number(crc, 4) + number(stored.size(), 4) +
              number(entry.content.size(), 4);
  }
  const std::uint64_t start = file.size(), count = entries.size();
  file += directory;
  if (zip64)
    file += "PK\x06\x06" + number(44, 8) + number(45, 2) + number(45, 2) + number(0, 8) +
            number(count, 8) + number(count, 8) + number(directory.size(), 8) + number(start, 8) +
            "PK\x06\x07" + number(0, 4) + number(start + directory.size(), 8) + number(1, 4);
  return file + "PK\x05\x06" + number(0, 4) + number(zip64 ? 0xffff : count, 2) +
         number(zip64 ? 0xffff : count, 2) + number(zip64 ? 0xffffffff : directory.size(), 4) +
         number(zip64 ? 0xffffffff : start, 4) + number(0, 2);
}

// -- pickles: each function gives the instructions that leave one value --

inline std::string text(std::string_view value) {
  return "X" + number(value.size(), 4) + std::string(value);
}
inline std::string integer(std::int64_t value) {
  return "\x8a\x08" + number(static_cast<std::uint64_t>(value), 8);
}
inline std::string real(double value) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const std::string little = number(bits, 8);
  return "G" + std::string(little.rbegin(), little.rend());
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::vector<std::string>& items) {
  std::string all = "(";
  for (const std::string& item : items) all += item;
  return all + "t";
}
inline std::string integers(const std::vector<std::int64_t>& values) {
  std::vector<std::string> items;
  for (const std::int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
using Entries = std::vector<std::pair<std::string, std::string>>;
inline std::string dictionary(const Entries& entries) {
  std::string all = "}(";
  for (const auto& [key, value] : entries) all += text(key) + value;
  return all + "u";
}
inline std::string call(const std::string& module, const std::string& name,
                        const std::vector<std::string>& arguments) {
  return global(module, name) + tuple(arguments) + "R";
}
/// An object of a class, with its attributes.
inline std::string object(const std::string& module, const std::string& name,
                          const Entries& attributes) {
  return global(module, name) + ")\x81" + dictionary(attributes) + "b";
}
inline std::string pickle(const std::string& value) {
  return "\x80\x02" + value + ".";
}

struct Tensor {
  std::string key = "0";
  std::vector<std::int64_t> shape = {2}, strides = {1};
  std::int64_t offset = 0, elements = 2;
  std::string storage = "FloatStorage";
};
inline std::string tensor(const Tensor& t) {
  return call("torch._utils", "_rebuild_tensor_v2",
              {tuple({text("storage"), global("torch", t.storage), text(t.key), text("cpu"),
                      integer(t.elements)}) +
                   "Q",
               integer(t.offset), integers(t.shape), integers(t.strides), "\x89",
               call("collections", "OrderedDict", {})});
}

// -- files of torch.save --

/// The zip form. `storages` are contents by key.
inline std::string checkpoint(const std::string& value,
                              const std::vector<std::pair<std::string, std::string>>& storages,
                              bool deflated = false, bool descriptors = true) {
  std::vector<Entry> entries = {{"archive/data.pkl", pickle(value), deflated, descriptors}};
  for (const auto& [key, content] : storages)
    entries.push_back({"archive/data/" + key, content, deflated, descriptors});
  entries.push_back({"archive/version", "3\n", false, descriptors});
  return zip(entries);
}

/// The older form. `storages` are contents of items of `item` bytes.
inline std::string legacy(const std::string& value,
                          const std::vector<std::pair<std::string, std::string>>& storages,
                          std::size_t item = 4) {
  std::string keys = "](", data;
  for (const auto& [key, content] : storages) {
    keys += text(key);
    data += number(content.size() / item, 8) + content;
  }
  return std::string(kLegacyMagic) + pickle("M" + number(1001, 2)) +
         pickle(dictionary({{"little_endian", "\x88"}})) + pickle(value) + pickle(keys + "e") +
         data;
}

}  // namespace backstop::engine::testing
