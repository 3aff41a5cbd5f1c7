// Any bytes as a batch of CIFAR's binary version; the first byte decides between one label and two.
#include <vector>

#include "backstop/error.hpp"
#include "batch.hpp"
#include "shared/files/fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  using namespace backstop;
  if (size < 2) return 0;
  const files::FuzzFile input(bytes + 1, size - 1);
  const std::int64_t label_bytes = 1 + bytes[0] % 2;
  try {
    const cifar::Batch batch({input.path(), {}}, cifar::Version::binary,
                             {label_bytes, label_bytes - 1, "labels", 10}, 100);
    std::vector<std::uint8_t> images(static_cast<std::size_t>(batch.images() * cifar::kImageSize));
    std::vector<std::int64_t> labels(static_cast<std::size_t>(batch.images()));
    batch.read(0, batch.images(), images.data(), labels.data());
    for (const std::int64_t label : labels)
      if (label < 0 || label >= 10) std::abort();
  } catch (const EnvironmentError&) {  // refused
  }
  return 0;
}
