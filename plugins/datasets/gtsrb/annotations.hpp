// Reads GTSRB's annotations: a line an image, after one that names the columns. Semicolons or
// commas, LF or CR LF, columns in any order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shared/images/decode.hpp"

namespace backstop::gtsrb {

inline constexpr std::int64_t kClasses = 43;

struct Sign {
  std::int64_t line = 0;  ///< in the file, from 1
  std::string file;       ///< as it is written: a name, or in Kaggle's form a path
  std::int64_t width = 0, height = 0;
  images::Box box;  ///< within the size, not empty; right and bottom lie outside, as in Python
  std::int64_t label = 0;
};

/// `name` is for errors. Throws EnvironmentError, with the line, for anything but a file with all
/// columns in which every line is right.
std::vector<Sign> parse_annotations(std::string_view text, const std::string& name);

/// Whether the first line has a column ClassId: the file that came with the competition's test
/// images has none.
bool has_labels(std::string_view text);

}  // namespace backstop::gtsrb
