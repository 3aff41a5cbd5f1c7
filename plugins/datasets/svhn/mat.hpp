// Reads a .mat file of SVHN's cropped digits, in MATLAB's format 5, compressed or not: X, uint8
// [32, 32, 3, images] stored column by column, and y, a label of 1 to 10 for each image.
//
// libmatio trusts its input: it does not compare checksums, does not report data that ends early,
// and recurses into structures and cells. So each file is checked first: every variable must be an
// intact array of bytes or doubles, no larger than SVHN's. Only then does libmatio read it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <matio.h>

#include "shared/files/file.hpp"

namespace backstop::svhn {

inline constexpr std::int64_t kSide = 32;
inline constexpr std::int64_t kImageSize = 3 * kSide * kSide;
inline constexpr std::int64_t kClasses = 10;

class MatFile {
 public:
  /// Checks the file, which must hold 1 to `most` images. Throws EnvironmentError.
  MatFile(const files::File& file, std::int64_t most);

  [[nodiscard]] std::int64_t images() const noexcept { return images_; }

  /// All images, row by row: uint8 [images, 3, 32, 32].
  void read_images(std::uint8_t* to);
  /// All labels, 0 .. 9; SVHN's 10 is the digit 0. Throws EnvironmentError for any other label.
  void read_labels(std::int64_t* to);

 private:
  struct Close {
    void operator()(mat_t* file) const noexcept { Mat_Close(file); }
    void operator()(matvar_t* variable) const noexcept { Mat_VarFree(variable); }
  };

  void check_images(const matvar_t& variable, std::uint64_t size, std::int64_t most);
  void check_labels(const matvar_t& variable) const;

  const files::File& file_;
  std::unique_ptr<mat_t, Close> mat_;
  std::unique_ptr<matvar_t, Close> x_, y_;
  std::int64_t images_ = 0;
};

}  // namespace backstop::svhn
