// What the stages of a run may read. A stage's function receives one of these values and the
// services below, and nothing else; the key that names the stage in the store is made of all of it.
// Two runs that share a key therefore share the result.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "backstop/attack.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/data/load_data.hpp"
#include "host/engine/engine.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/run/measure.hpp"
#include "host/engine/store/stage_store.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::engine {

/// What a stage is given besides its inputs; none of it changes the result.
struct StageServices {
  StageLabel label;
  RunObserver* observer = nullptr;
  const std::atomic<int>* interrupted = nullptr;
  Checkpoints* checkpoints = nullptr;  ///< of the stage
};

/// A dataset of the recipe as it was loaded.
struct DatasetInput {
  std::string name;  ///< its plugin's; not part of the key, which has the content's fingerprint
  Data data;
  Augmentation augmentation;
};

/// A plugin with its parameters; its key has the SHA-256 of its file, of its schedulers' files and
/// of every file that a path among the parameters leads to.
struct PluginInput {
  recipe::PluginUse use;
  nlohmann::json key;
};
/// Throws HostError(environment) when a file cannot be read.
PluginInput plugin_input(const recipe::PluginUse& use);

/// SHA-256 of a plugin's file, which stays loaded: it is read once in a process.
const std::string& hash_of_plugin(const std::filesystem::path& file);

/// A file that a stage reads.
struct FileInput {
  std::filesystem::path path;  ///< not part of the key
  std::string sha256;
};
/// Throws HostError(environment) when the file cannot be read.
FileInput file_input(const std::filesystem::path& path);

struct AttackInputs {
  std::int64_t seed = 0;
  const DatasetInput* source = nullptr;  ///< what the backdoored model is trained on
  Threat threat;
  bool encoder = false;  ///< the model has no classes to measure before it is adapted
  Architecture architecture;
  Normalization normalization;          ///< the model's
  std::optional<FileInput> model_file;  ///< weights to start from instead of training
  PluginInput attack;
  std::optional<FileInput> attack_file;  ///< what the attack has learned and poisoned
  recipe::TrainingUse training;
  PluginInput scheduler;  ///< of the training
  Compute compute;
};

/// A model that is taken as it is: nobody knows whether it has a backdoor.
struct SuspectInputs {
  const DatasetInput* task = nullptr;
  bool measured = true;  ///< its classes are those of the task
  Architecture architecture;
  Normalization normalization;
  FileInput model_file;
  Compute compute;
};

/// Of a defense, and of a detector.
struct DefenseInputs {
  std::int64_t seed = 0;
  recipe::Scenario scenario = recipe::Scenario::standalone;
  nlohmann::json model_key;           ///< of the stage that left what follows:
  const Stage* undefended = nullptr;  ///< the model, and the poison if there is an attack
  const TriggeredSet* triggered =
      nullptr;                         ///< the trigger on the task's test images; null: unknown
  const DatasetInput* task = nullptr;  ///< what the defender's images are drawn from
  Architecture architecture;           ///< of the backdoored model
  Normalization normalization;         ///< the model's
  PluginInput defense;
  std::int64_t clean_images = 0;   ///< that the defense is given
  std::int64_t measure_every = 1;  ///< epochs; 0: only at the end
  std::int64_t test_images = 0;    ///< clean ones that a detector of inputs scores; 0: all
  Compute compute;
};

/// Of a clean model that an audit compares with: what [attack.training] makes of the dataset
/// without poison. All attacks and defenses of a seed share it.
struct CleanModelInputs {
  std::int64_t seed = 0;
  const DatasetInput* source = nullptr;
  Architecture architecture;
  Normalization normalization;
  recipe::TrainingUse training;
  PluginInput scheduler;  ///< of the training
  Compute compute;
};

/// Of an exact purification of the backdoored model: by somebody who knows the trigger.
struct PurificationInputs {
  const AttackInputs* attack = nullptr;  ///< of the stage that left the next:
  const Stage* undefended = nullptr;
  const TriggeredSet* triggered = nullptr;  ///< follows from it
};

/// Of an audit of `subject`, a model that was the backdoored one, or is as large.
struct AuditInputs {
  recipe::AuditUse settings;
  const AttackInputs* attack = nullptr;  ///< of the stage that left the next:
  const Stage* undefended = nullptr;
  const TriggeredSet* triggered = nullptr;  ///< follows from it
  nlohmann::json subject_key;               ///< of the stage that left the next:
  const NamedTensors* subject = nullptr;    ///< weights
};

/// The key of the stage: all of the inputs, and this build.
nlohmann::json key_of(const AttackInputs& inputs);
nlohmann::json key_of(const SuspectInputs& inputs);
nlohmann::json key_of(const CleanModelInputs& inputs);
nlohmann::json key_of(const PurificationInputs& inputs);
nlohmann::json key_of(const AuditInputs& inputs);
/// `stage`: "defense" or "detector".
nlohmann::json key_of(const DefenseInputs& inputs, const std::string& stage);

}  // namespace backstop::engine
