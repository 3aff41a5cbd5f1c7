// Finished stages, kept by a hash of all that decides their outcome: a backdoored model trained
// once serves every defense, every recipe that asks for the same one, and a run that was killed.
// Each stage is a folder with a list of the SHA-256 of its files, which `sha256sum -c` reads too.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "host/engine/store/safetensors.hpp"

namespace backstop::engine {

/// What a stage leaves.
struct Stage {
  nlohmann::json row;     ///< its row of results.json
  nlohmann::json epochs;  ///< its `epoch` events, in order
  TensorFile model;
  NamedTensors state;   ///< what the plugin saved (attack)
  NamedTensors poison;  ///< what the attack wrote into the training set (attack)
  /// What decided `state` and `poison` (attack): see attack_record() of the run.
  std::map<std::string, std::string> attack_record;
  NamedTensors artifacts;  ///< what the plugin recorded
  NamedTensors pictures;   ///< and has to show: uint8 [k, C, H, W]
};

class StageStore {
 public:
  /// `folder` is made when the first stage is saved.
  explicit StageStore(std::filesystem::path folder);

  /// The folder of the stage that `key` describes: `<kind>-<hash>`, of the key's canonical JSON.
  [[nodiscard]] std::filesystem::path folder_of(const std::string& kind,
                                                const nlohmann::json& key) const;
  /// Empty when there is no finished stage there. So it is when a file of the stage is not what it
  /// was when the stage was saved, or the stage has another key; then `damage` names the file.
  [[nodiscard]] std::optional<Stage> load(const std::filesystem::path& folder,
                                          const nlohmann::json& key, std::string& damage) const;
  /// Written beside, then renamed into place as a whole; replaces what is there.
  void save(const std::filesystem::path& folder, const nlohmann::json& key,
            const Stage& stage) const;

 private:
  std::filesystem::path root_;
};

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kAttackFile = "attack.safetensors";
inline constexpr const char* kArtifactsFile = "artifacts.safetensors";
inline constexpr const char* kSumsFile = "SHA256SUMS";

/// `state`, `poison` and `attack_record` of an attack's stage, as the file kAttackFile has them.
struct AttackFile {
  NamedTensors state, poison;
  std::map<std::string, std::string> record;
};
/// Of the stage store or of anybody. Throws HostError(environment).
AttackFile read_attack_file(const std::filesystem::path& path);

}  // namespace backstop::engine
