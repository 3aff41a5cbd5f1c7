// What the compiler knew when a plugin was built: the first of its ELF notes.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace backstop::catalog {

/// See sdk/include/backstop/build_facts.hpp.
struct BuildFacts {
  std::string abi;    ///< "1.0": the oldest host that it runs on
  std::string sdk;    ///< "1.2": the headers that it was built with
  std::string torch;  ///< "1.13.0"
  bool cxx11_abi = true;
  bool glibcxx_debug = false;
  std::string sanitizer;  ///< none | address | thread | memory
  std::string compiler;
};

/// Throws HostError(plugin) that names every problem. Unknown facts are ignored: a newer SDK may
/// record more than this host asks for.
BuildFacts parse_build_facts(std::string_view text, const std::string& where);
/// Those of this program.
const BuildFacts& own_build_facts();

/// "1.13.0" gives {1, 13}, whatever follows; nothing where the text is not a version.
std::optional<std::pair<unsigned, unsigned>> major_minor(std::string_view version);

}  // namespace backstop::catalog
