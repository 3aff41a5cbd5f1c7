// Finished stages, kept by a hash of all that decides their outcome: a backdoored model trained
// once serves every defense, every recipe that asks for the same one, and a run that was killed.
// Each stage is a folder with a list of the SHA-256 of its files, which `sha256sum -c` reads too. Any
// number of processes may share a store: a stage is made by whoever claims it first, and comes into
// its place as a whole, once all of it is on disk.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "host/base/file_lock.hpp"
#include "host/engine/store/checkpoints.hpp"
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
  /// `folder` is made when the first stage is claimed.
  explicit StageStore(std::filesystem::path folder);

  /// The folder of the stage that `key` describes: `<kind>-<hash>`, of the key's canonical JSON.
  [[nodiscard]] std::filesystem::path folder_of(const std::string& kind,
                                                const nlohmann::json& key) const;
  /// Empty when there is no finished stage there. So it is when something in the stage's folder is
  /// missing, unreadable or not what it was when the stage was kept, or the stage has another key;
  /// then `damage` says in a sentence what. Throws Cancelled after Ctrl-C.
  [[nodiscard]] std::optional<Stage> load(const std::filesystem::path& folder,
                                          const nlohmann::json& key, std::string& damage) const;
  /// When the stage there was kept; empty when there is none.
  [[nodiscard]] std::optional<std::filesystem::file_time_type> kept_at(
      const std::filesystem::path& folder) const;

  /// The right to make the stage: everybody else who claims it waits until the lock ends, and what
  /// a maker that died has left is removed. `wait` is called with the present maker's name when it
  /// takes long. Throws Cancelled after Ctrl-C, HostError(environment) when the store cannot be
  /// written.
  [[nodiscard]] base::FileLock claim(
      const std::filesystem::path& folder,
      const std::function<void(const std::string& maker)>& wait) const;
  /// What the stage there has reached so far; needs the claim. See Checkpoints.
  [[nodiscard]] static Checkpoints checkpoints(const std::filesystem::path& folder,
                                               const nlohmann::json& key, double interval);
  /// Needs the claim. Written beside, synced and renamed; what was there stays until then. Removes
  /// the stage's checkpoints. Throws HostError(environment).
  void save(const std::filesystem::path& folder, const nlohmann::json& key,
            const Stage& stage) const;
  /// Removes what processes that died have left of any stage.
  void remove_leftovers() const;

 private:
  std::filesystem::path root_;
};

/// Of the store, below --out.
inline constexpr const char* kStoreFolder = ".stages";
/// What the name of the folder of a stage's checkpoints has behind that of the stage.
inline constexpr const char* kCheckpoints = ".checkpoints";
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
void write_attack_file(const std::filesystem::path& path, const Stage& stage);

}  // namespace backstop::engine
