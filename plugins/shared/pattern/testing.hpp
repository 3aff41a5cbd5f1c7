// A fixture for tests that read PNG files.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <png.h>

#include <gtest/gtest.h>

namespace backstop::pattern {

/// A test with its own PNG file, file(), which is removed when the test ends.
class PngTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "backstop-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string file() const { return (folder_ / "pattern.png").string(); }
  /// The lines of a recipe that name the file as the pattern.
  std::string recipe() const { return "pattern = \"image\"\nimage = \"" + file() + "\"\n"; }

  void write_png(std::uint32_t format, std::uint32_t height, std::uint32_t width,
                 const std::vector<png_byte>& pixels) const {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.format = format;
    image.height = height;
    image.width = width;
    ASSERT_EQ(pixels.size(), PNG_IMAGE_SIZE(image));
    ASSERT_NE(png_image_write_to_file(&image, file().c_str(), 0, pixels.data(), 0, nullptr), 0);
  }
  void write_bytes(const std::string& bytes) const {
    std::ofstream(file(), std::ios::binary) << bytes;
  }
  std::string bytes() const {
    std::ifstream stream(file(), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

 private:
  std::filesystem::path folder_;
};

}  // namespace backstop::pattern
