// Finds the weights among all that a checkpoint holds.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "host/engine/formats/input_file.hpp"
#include "host/engine/formats/model_header.hpp"
#include "host/engine/formats/pickle.hpp"

namespace backstop::engine {

struct FoundWeights {
  std::vector<std::pair<std::string, Pickle::NodeId>> tensors;  ///< nodes of Kind::tensor
  ModelFacts facts;
  std::string location, prefix;   ///< as in ModelHeader
  std::vector<std::string> rest;  ///< as in ModelHeader
};

/// Of a file of torch.save. A dictionary of which at least half are tensors is a state dict; its place
/// is looked for under the usual names first (`state_dict`, `model`, `net` ...: kWrappers in the
/// source, in this order), then under any other. The first that is found is taken.
FoundWeights find_state_dict(const Pickle& pickle, const InputFile& file);

/// Of TorchScript: all tensors that the attributes of the modules lead to, by their path. Nothing is
/// taken off these names, by which the network's own code knows its tensors.
FoundWeights find_attributes(const Pickle& pickle, const InputFile& file);

}  // namespace backstop::engine
