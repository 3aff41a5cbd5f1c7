#include "stl10_files.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "shared/files/transpose.hpp"

namespace backstop::stl10 {

std::int64_t count_images(const files::File& images, std::int64_t official) {
  const auto size = static_cast<std::int64_t>(images.size());
  if (size % kImageSize != 0 || size / kImageSize > official)
    images.refuse("has " + std::to_string(size) + " bytes, expected " +
                  std::to_string(official * kImageSize) + " (" + std::to_string(official) +
                  " images of " + std::to_string(kImageSize) + " bytes)");
  const std::int64_t count = size / kImageSize;
  for (const std::int64_t other : {kTrainImages, kTestImages})
    if (count == other && other != official)
      images.refuse("has " + std::to_string(count) +
                    " images like the official file of another split, expected " +
                    std::to_string(official));
  return count;
}

void read_images(const files::File& images, std::int64_t first, std::int64_t count,
                 std::uint8_t* to) {
  images.read(static_cast<std::uint64_t>(first * kImageSize), to,
              static_cast<std::size_t>(count * kImageSize));
  for (std::int64_t channel = 0; channel < 3 * count; ++channel)
    files::transpose<kSide>(to + channel * kSide * kSide);
}

void read_labels(const files::File& labels, std::int64_t count, std::int64_t* to) {
  if (labels.size() != static_cast<std::uint64_t>(count))
    labels.refuse("has " + std::to_string(labels.size()) + " labels, expected " +
                  std::to_string(count) + ", one per image");
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
  labels.read(0, bytes.data(), bytes.size());
  const auto wrong =
      std::ranges::find_if(bytes, [](std::uint8_t label) { return label < 1 || label > kClasses; });
  if (wrong != bytes.end())
    labels.refuse("label " + std::to_string(wrong - bytes.begin()) + " (counting from 0) is " +
                  std::to_string(*wrong) + ", expected 1 to " + std::to_string(kClasses));
  std::ranges::transform(bytes, to, [](std::uint8_t label) { return label - 1; });
}

}  // namespace backstop::stl10
