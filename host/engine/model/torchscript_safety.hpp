// What a TorchScript archive may do. Its functions are a program in a language of its own, and
// LibTorch runs parts of it already while it loads an archive. So every operator is held against a
// list of those that compute on tensors and numbers: first in the archive's text, before LibTorch
// sees it, and then in the graphs that LibTorch has made of it, before any of them runs.
#pragma once

#include <string>
#include <string_view>

namespace torch::jit {
struct Module;
}

namespace backstop::engine {

/// The bytes of an archive and what to call it in messages.
struct ScriptArchive {
  std::string name;
  std::string bytes;
};

/// Renames the entries that say where in Python's sources the code came from. LibTorch reads them
/// when it formats a message, and trusts what they say. To be done before all else.
void hide_debug_entries(ScriptArchive& archive);

/// Looks at the archive's functions and at the classes that its pickles name. Throws
/// HostError(environment) that names the file, the operator and the function that calls it; nothing
/// of the archive has been run then.
void check_text(const ScriptArchive& archive);

/// The same for every graph of a loaded module: of all functions, methods and hooks, with their
/// blocks and subgraphs. Before that, holds the module's values against their declared types.
void check_graphs(const torch::jit::Module& module, const std::string& name);

/// Whether a graph may have the node `kind`, such as "aten::conv2d".
bool is_allowed(std::string_view kind);

}  // namespace backstop::engine
