#include <memory>
#include <new>
#include <type_traits>

#include <turbojpeg.h>

#include "formats.hpp"

namespace backstop::images {
namespace {

struct Destroy {
  void operator()(tjhandle handle) const noexcept { tjDestroy(handle); }
};

}  // namespace

Image decode_jpeg(const std::string& file, Bytes bytes) {
  const std::unique_ptr<std::remove_pointer_t<tjhandle>, Destroy> handle(tjInitDecompress());
  if (!handle) throw std::bad_alloc();
  const auto fail = [&] {
    refuse(file,
           std::string("is a damaged JPEG (") + tjGetErrorStr2(handle.get()) +
               "), expected an intact one",
           kCopyAgain);
  };
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (tjDecompressHeader3(handle.get(), bytes.data(), bytes.size(), &width, &height, &subsampling,
                          &colours) != 0)
    fail();
  if (colours == TJCS_CMYK || colours == TJCS_YCCK)
    refuse(file, "is a JPEG in CMYK, expected RGB or grey", "convert it to RGB");
  Image image = make_image(file, height, width);
  // The slow integer DCT, because it is the same on every machine. A warning is an error, or a
  // file that was cut short would pass as an image with a grey lower half.
  constexpr int kFlags = TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS;
  if (tjDecompress2(handle.get(), bytes.data(), bytes.size(), image.rgb.data(), width, 3 * width,
                    height, TJPF_RGB, kFlags) != 0)
    fail();
  return image;
}

}  // namespace backstop::images
