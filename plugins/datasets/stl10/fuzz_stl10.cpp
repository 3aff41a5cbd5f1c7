// Any bytes as STL-10's images and as its labels; the first byte is the number of labels to expect.
#include <vector>

#include "backstop/error.hpp"
#include "shared/files/fuzz.hpp"
#include "stl10_files.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  using namespace backstop;
  if (size < 2) return 0;
  const std::int64_t expected = bytes[0];
  const files::FuzzFile input(bytes + 1, size - 1);
  const files::File file(input.path(), {});
  try {
    const std::int64_t count = stl10::count_images(file, stl10::kTrainImages);
    std::vector<std::uint8_t> images(static_cast<std::size_t>(count * stl10::kImageSize));
    stl10::read_images(file, 0, count, images.data());
  } catch (const EnvironmentError&) {  // refused
  }
  try {
    std::vector<std::int64_t> labels(static_cast<std::size_t>(expected));
    stl10::read_labels(file, expected, labels.data());
    for (const std::int64_t label : labels)
      if (label < 0 || label >= stl10::kClasses) std::abort();
  } catch (const EnvironmentError&) {  // refused
  }
  return 0;
}
