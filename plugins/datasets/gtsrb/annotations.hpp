// Reads GTSRB's annotations: a line with the names of the columns, then one line per image. Accepts
// semicolons or commas, LF or CR LF, and columns in any order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shared/images/decode.hpp"

namespace backstop::gtsrb {

inline constexpr std::int64_t kClasses = 43;

struct Sign {
  std::int64_t line = 0;  ///< in the file, counting from 1
  std::string file;       ///< as written: a name, or in Kaggle's form a path
  std::int64_t width = 0, height = 0;
  images::Box box;  ///< within the image, not empty; right and bottom are exclusive
  std::int64_t label = 0;
};

/// `name` is the file's name in errors. Throws EnvironmentError, naming the line, unless the text
/// has all columns and every line is valid.
std::vector<Sign> parse_annotations(std::string_view text, const std::string& name);

/// Whether the first line has a column ClassId, which the file that came with the competition's
/// test images lacks.
bool has_labels(std::string_view text);

}  // namespace backstop::gtsrb
