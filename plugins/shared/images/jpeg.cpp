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
    refuse(file, std::string("is a damaged JPEG (") + tjGetErrorStr2(handle.get()) + ")",
           kCopyAgain);
  };
  int width = 0, height = 0, subsampling = 0, color_space = 0;
  if (tjDecompressHeader3(handle.get(), bytes.data(), bytes.size(), &width, &height, &subsampling,
                          &color_space) != 0)
    fail();
  if (color_space == TJCS_CMYK || color_space == TJCS_YCCK)
    refuse(file, "is a JPEG in CMYK, expected RGB or gray", "convert it to RGB");
  Image image = make_image(file, height, width);
  // The slow integer DCT gives the same pixels on every machine. Warnings are errors, or a
  // truncated file would pass as an image with a gray lower half.
  constexpr int kFlags = TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS;
  if (tjDecompress2(handle.get(), bytes.data(), bytes.size(), image.rgb.data(), width, 3 * width,
                    height, TJPF_RGB, kFlags) != 0)
    fail();
  return image;
}

}  // namespace backstop::images
