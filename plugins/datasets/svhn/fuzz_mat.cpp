// Any bytes as one of SVHN's .mat files. A compressed variable never passes its checksum by chance,
// so each input is read twice: as it is, and with the variables after its header compressed.
#include <string>
#include <vector>

#include <zlib.h>

#include "backstop/error.hpp"
#include "mat.hpp"
#include "shared/files/fuzz.hpp"

namespace {

using namespace backstop;

void read(const std::string& bytes) {
  const files::FuzzFile input(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  try {
    const files::File file(input.path(), {});
    svhn::MatFile mat(file, 1000);
    std::vector<std::uint8_t> images(static_cast<std::size_t>(mat.images() * svhn::kImageSize));
    std::vector<std::int64_t> labels(static_cast<std::size_t>(mat.images()));
    mat.read_images(images.data());
    mat.read_labels(labels.data());
    for (const std::int64_t label : labels)
      if (label < 0 || label >= svhn::kClasses) std::abort();
  } catch (const EnvironmentError&) {  // refused
  }
}

std::string compressed(const std::string& bytes) {
  std::string packed(compressBound(bytes.size()), '\0');
  uLongf size = packed.size();
  compress2(reinterpret_cast<Bytef*>(packed.data()), &size,
            reinterpret_cast<const Bytef*>(bytes.data()), bytes.size(), 1);
  packed.resize(size);
  std::string element = {15, 0, 0, 0};
  for (int shift : {0, 8, 16, 24}) element += static_cast<char>(size >> shift & 0xff);
  return element + packed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(bytes), size);
  read(input);
  constexpr std::size_t kHeader = 128, kTag = 8;
  std::string packed = input.substr(0, kHeader);
  std::size_t at = kHeader;
  for (int elements = 0; elements < 3 && at + kTag <= size; ++elements) {  // two are SVHN's
    const std::size_t announced = bytes[at + 4] | std::size_t{bytes[at + 5]} << 8;
    const std::string element = input.substr(at, kTag + announced);
    packed += compressed(element);
    at += element.size();
  }
  read(packed);
  return 0;
}
