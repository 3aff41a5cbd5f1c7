// Writes pickles for tests as Python 2 and numpy wrote the official ones: protocol 2, byte strings,
// every object memoized, lists in pieces of a thousand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace backstop::cifar {

class PickleWriter {
 public:
  PickleWriter& raw(const std::string& bytes) {
    bytes_ += bytes;
    return *this;
  }
  PickleWriter& remember() {
    if (next_ < 256) return raw("q").little_endian(next_++, 1);
    return raw("r").little_endian(next_++, 4);
  }
  PickleWriter& text(const std::string& value) {
    if (value.size() < 256)
      raw("U").little_endian(value.size(), 1);
    else
      raw("T").little_endian(value.size(), 4);
    return raw(value).remember();
  }
  PickleWriter& integer(std::int64_t value) {
    if (value >= 0 && value < 256)
      return raw("K").little_endian(static_cast<std::size_t>(value), 1);
    if (value >= 0 && value < 65536)
      return raw("M").little_endian(static_cast<std::size_t>(value), 2);
    return raw("J").little_endian(static_cast<std::size_t>(value), 4);
  }
  template <typename Element>
  PickleWriter& list(std::size_t size, Element element) {
    raw("]").remember();
    for (std::size_t i = 0; i < size; ++i) {
      if (i % 1000 == 0) raw("(");
      element(i);
      if (i % 1000 == 999 || i + 1 == size) raw("e");
    }
    return *this;
  }
  PickleWriter& array(const std::vector<std::int64_t>& shape, const std::string& data,
                      bool column_major = false, const std::string& type = "u1") {
    raw("cnumpy.core.multiarray\n_reconstruct\n").remember();
    raw("cnumpy\nndarray\n").remember();
    integer(0).raw("\x85").remember().text("b").raw("\x87").remember().raw("R").remember();
    raw("(").integer(1);
    for (const std::int64_t size : shape) integer(size);
    raw(shape.size() == 2 ? "\x86" : "\x85").remember();
    raw("cnumpy\ndtype\n").remember().text(type).integer(0).integer(1);
    raw("\x87").remember().raw("R").remember();
    raw("(").integer(3).text("|").raw("NNN").integer(-1).integer(-1).integer(0);
    return raw("t")
        .remember()
        .raw("b")
        .raw(column_major ? "\x88" : "\x89")
        .text(data)
        .raw("t")
        .remember()
        .raw("b");
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  PickleWriter& little_endian(std::size_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) bytes_ += static_cast<char>(value >> 8 * i & 0xff);
    return *this;
  }

  std::string bytes_;
  std::size_t next_ = 1;
};

using LabelLists =
    std::vector<std::pair<std::string, std::string>>;  ///< key, and one byte per label

/// A batch file; `data` has 3072 bytes per image.
inline std::string pickled_batch(const LabelLists& labels, const std::string& data,
                                 bool column_major = false) {
  PickleWriter pickle;
  pickle.raw("\x80\x02}").remember().raw("(");
  pickle.text("batch_label").text("training batch 1 of 5");
  for (const auto& [key, values] : labels) {
    const std::string& list = values;
    pickle.text(key).list(
        list.size(), [&](std::size_t i) { pickle.integer(static_cast<unsigned char>(list[i])); });
  }
  const std::size_t images = data.size() / 3072;
  pickle.text("data").array({static_cast<std::int64_t>(images), 3072}, data, column_major);
  pickle.text("filenames").list(images, [&](std::size_t i) {
    pickle.text("image_s_" + std::to_string(i) + ".png");
  });
  return pickle.raw("u.").bytes();
}

}  // namespace backstop::cifar
