#include "batch.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "pickle.hpp"

namespace backstop::cifar {

Batch::Batch(files::File file, Version version, const LabelFormat& format, std::int64_t most)
    : file_(std::move(file)), format_(format) {
  if (version == Version::python) {
    Pickle pickle = read_pickle(file_, format.key);
    count_ = pickle.images;
    labels_ = std::move(pickle.labels);
    data_offset_ = pickle.data_offset;
    column_major_ = pickle.column_major;
    if (count_ > most)
      file_.refuse("has " + std::to_string(count_) + " images, expected at most " +
                   std::to_string(most));
    return;
  }
  const auto record = static_cast<std::uint64_t>(format.bytes + kImageSize);
  const std::uint64_t largest = record * static_cast<std::uint64_t>(most);
  if (file_.size() % record != 0 || file_.size() > largest)
    file_.refuse("has " + std::to_string(file_.size()) + " bytes, expected " +
                 std::to_string(largest) + " (" + std::to_string(most) + " records of " +
                 std::to_string(record) + " bytes)");
  count_ = static_cast<std::int64_t>(file_.size() / record);
}

void Batch::read(std::int64_t first, std::int64_t count, std::uint8_t* images,
                 std::int64_t* labels) const {
  if (labels_.empty()) {
    read_records(first, count, images, labels);
  } else {
    std::copy_n(labels_.begin() + first, count, labels);
    if (column_major_)
      read_columns(first, count, images);
    else
      file_.read(data_offset_ + static_cast<std::uint64_t>(first * kImageSize), images,
                 static_cast<std::size_t>(count * kImageSize));
  }
  const auto wrong = std::find_if(labels, labels + count, [&](std::int64_t label) {
    return label < 0 || label >= format_.classes;
  });
  if (wrong != labels + count)
    file_.refuse("record " + std::to_string(first + (wrong - labels)) +
                 " (counting from 0) has label " + std::to_string(*wrong) + ", expected 0 to " +
                 std::to_string(format_.classes - 1));
}

/// Lets the kernel scatter the records, so that no byte of an image is copied twice.
void Batch::read_records(std::int64_t first, std::int64_t count, std::uint8_t* images,
                         std::int64_t* labels) const {
  constexpr std::int64_t kRecords = 512;  // of two parts each: preadv takes no more at once
  std::array<iovec, 2 * kRecords> parts;
  std::array<std::array<std::uint8_t, 2>, kRecords> heads{};
  for (std::int64_t done = 0; done < count; done += kRecords) {
    const std::int64_t now = std::min(kRecords, count - done);
    for (std::int64_t i = 0; i < now; ++i) {
      const auto at = static_cast<std::size_t>(i);
      parts[2 * at] = {heads[at].data(), static_cast<std::size_t>(format_.bytes)};
      parts[2 * at + 1] = {images + (done + i) * kImageSize, kImageSize};
    }
    file_.read(static_cast<std::uint64_t>((first + done) * (format_.bytes + kImageSize)),
               {parts.data(), static_cast<std::size_t>(2 * now)});
    for (std::int64_t i = 0; i < now; ++i)
      labels[done + i] =
          heads[static_cast<std::size_t>(i)][static_cast<std::size_t>(format_.which)];
  }
}

/// Transposes an array that is stored by columns, one block of columns at a time.
void Batch::read_columns(std::int64_t first, std::int64_t count, std::uint8_t* images) const {
  constexpr std::int64_t kColumns = 64;
  static_assert(kImageSize % kColumns == 0);
  std::vector<std::uint8_t> block(static_cast<std::size_t>(kColumns * count));
  for (std::int64_t column = 0; column < kImageSize; column += kColumns) {
    for (std::int64_t i = 0; i < kColumns; ++i)
      file_.read(data_offset_ + static_cast<std::uint64_t>((column + i) * count_ + first),
                 block.data() + i * count, static_cast<std::size_t>(count));
    for (std::int64_t image = 0; image < count; ++image)
      for (std::int64_t i = 0; i < kColumns; ++i)
        images[image * kImageSize + column + i] =
            block[static_cast<std::size_t>(i * count + image)];
  }
}

}  // namespace backstop::cifar
