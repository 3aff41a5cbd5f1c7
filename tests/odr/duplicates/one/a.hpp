// Only one_type_one_name reads this folder: it must report `Problem`, and nothing else.
#pragma once

#include <string>

namespace host {

struct Problem {
  std::string message, hint;
};

struct Section;

}  // namespace host
