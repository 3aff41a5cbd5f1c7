#include <string>

namespace host {

struct Problem {
  bool broken = false;
  std::string message, hint;
};

struct Section {
  struct Problem {};
};

}  // namespace host

namespace other {

struct Problem {};

}  // namespace other

namespace {

struct Section {};

}  // namespace
