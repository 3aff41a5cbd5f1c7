// The header of a safetensors file.
#pragma once

#include <map>
#include <string>

#include "host/engine/formats/input_file.hpp"
#include "host/engine/formats/model_header.hpp"

namespace backstop::engine {

struct SafetensorsHeader {
  ModelHeader model;                            ///< one storage for each tensor
  std::map<std::string, std::string> metadata;  ///< `__metadata__`
};

/// Takes no more memory than the file has bytes. Throws HostError(environment) that names the file,
/// what was found and what was expected.
SafetensorsHeader read_safetensors_header(const InputFile& file);

/// As safetensors calls the type, "F32"; empty when it has no such type.
std::string_view safetensors_name(ElementType type);

/// What write_safetensors() was given as the record of a model. Metadata of other programs are no
/// facts. Throws HostError(environment) when a value is not one that record_of() writes.
ModelFacts facts_of(const std::map<std::string, std::string>& metadata,
                    const std::filesystem::path& path);

/// In the metadata of a model that an attack has trained: ModelFacts::attack.
inline constexpr const char* kAttackKey = "attack";

}  // namespace backstop::engine
