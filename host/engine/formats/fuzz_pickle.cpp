// Any bytes as a pickle of PyTorch: a tree in which every node leads to nodes, or a PickleError.
#include <cstdint>
#include <string>

#include "host/engine/formats/pickle.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop::engine;
  try {
    const Pickle pickle = read_pickle({reinterpret_cast<const char*>(data), size});
    if (pickle.size > size || pickle.root >= pickle.nodes.size()) __builtin_trap();
    std::size_t characters = 0;
    for (Pickle::NodeId id = 0; id < pickle.nodes.size(); ++id) {
      for (const char c : pickle.text(id)) characters += c == 'a' ? 1 : 0;
      for (const Pickle::NodeId item : pickle.items_of(id))
        if (item >= pickle.nodes.size()) __builtin_trap();
      static_cast<void>(pickle.find(id, "state_dict"));
    }
    if (characters > size * pickle.nodes.size()) __builtin_trap();
    for (const PickledTensor& tensor : pickle.tensors)
      if (tensor.storage >= pickle.storages.size()) __builtin_trap();
  } catch (const PickleError& e) {
    if (*e.what() == '\0') __builtin_trap();
  }
  return 0;
}
