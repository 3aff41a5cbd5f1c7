#include "host/engine/store/stage_store.hpp"

#include <sstream>

#include <unistd.h>

#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/catalog/catalog.hpp"

namespace backstop::engine {

namespace fs = std::filesystem;

namespace {

constexpr const char* kKeyFile = "key.json";
constexpr const char* kRecordFile = "stage.json";
// What comes before the tensors' names in kAttackFile.
constexpr std::string_view kStatePrefix = "state.", kPoisonPrefix = "poison.";
constexpr const char* kPicturesFile = "pictures.safetensors";

/// All files of a stage but the list of their sums.
constexpr const char* kFiles[] = {kKeyFile,    kRecordFile,    kModelFile,
                                  kAttackFile, kArtifactsFile, kPicturesFile};

/// The first file that is not what the list of sums says, if there is one.
std::string damaged_file(const fs::path& folder) {
  std::istringstream sums(base::read_file(folder / kSumsFile));
  std::map<std::string, std::string> listed;
  for (std::string sum, file; sums >> sum >> file;) listed[file] = sum;
  for (const char* file : kFiles) {
    const fs::path path = folder / file;
    if (!fs::is_regular_file(path) || base::sha256_of_file(path) != listed[file])
      return path.string();
  }
  return {};
}

NamedTensors with_prefixes(const NamedTensors& state, const NamedTensors& poison) {
  NamedTensors all;
  for (const auto& [name, tensor] : state)
    all.emplace_back(std::string(kStatePrefix) + name, tensor);
  for (const auto& [name, tensor] : poison)
    all.emplace_back(std::string(kPoisonPrefix) + name, tensor);
  return all;
}

}  // namespace

AttackFile read_attack_file(const fs::path& path) {
  AttackFile file;
  TensorFile content = read_safetensors(path);
  file.record = std::move(content.metadata);
  for (auto& [name, tensor] : content.tensors) {
    if (name.starts_with(kStatePrefix))
      file.state.emplace_back(name.substr(kStatePrefix.size()), std::move(tensor));
    else if (name.starts_with(kPoisonPrefix))
      file.poison.emplace_back(name.substr(kPoisonPrefix.size()), std::move(tensor));
    else
      throw base::HostError(
          base::ExitCode::environment,
          fmt::format("{} holds a tensor `{}`, which no attack file has", path.string(), name),
          "a run leaves an attack file as models/no-defense.attack.safetensors");
  }
  return file;
}

StageStore::StageStore(fs::path folder) : root_(std::move(folder)) {}

fs::path StageStore::folder_of(const std::string& kind, const nlohmann::json& key) const {
  return root_ / (kind + "-" + base::sha256_of_text(key.dump()).substr(0, 24));
}

std::optional<Stage> StageStore::load(const fs::path& folder, const nlohmann::json& key,
                                      std::string& damage) const {
  damage.clear();
  if (!fs::exists(folder / kSumsFile)) return std::nullopt;  // written last
  damage = damaged_file(folder);
  // A stage that was moved here is sound, but it is not the one that was asked for.
  if (damage.empty() && nlohmann::json::parse(base::read_file(folder / kKeyFile)) != key)
    damage = (folder / kKeyFile).string();
  if (!damage.empty()) return std::nullopt;
  const auto record = nlohmann::json::parse(base::read_file(folder / kRecordFile));
  Stage stage;
  stage.row = record.at("row");
  stage.epochs = record.at("epochs");
  stage.model = read_safetensors(folder / kModelFile);
  AttackFile attack = read_attack_file(folder / kAttackFile);
  stage.state = std::move(attack.state);
  stage.poison = std::move(attack.poison);
  stage.attack_record = std::move(attack.record);
  stage.artifacts = read_safetensors(folder / kArtifactsFile).tensors;
  stage.pictures = read_safetensors(folder / kPicturesFile).tensors;
  return stage;
}

void StageStore::save(const fs::path& folder, const nlohmann::json& key, const Stage& stage) const {
  const fs::path unfinished = root_ / (".unfinished-" + std::to_string(::getpid()));
  std::error_code error;
  fs::remove_all(unfinished, error);
  base::make_folder(unfinished);
  try {
    write_safetensors(unfinished / kModelFile, stage.model.tensors, stage.model.metadata);
    write_safetensors(unfinished / kAttackFile, with_prefixes(stage.state, stage.poison),
                      stage.attack_record);
    write_safetensors(unfinished / kArtifactsFile, stage.artifacts);
    write_safetensors(unfinished / kPicturesFile, stage.pictures);
    base::write_file(unfinished / kKeyFile, key.dump(2) + "\n");
    const nlohmann::json record = {{"row", stage.row}, {"epochs", stage.epochs}};
    base::write_file(unfinished / kRecordFile, base::json_text(record, 2) + "\n");
    std::string sums;
    for (const char* file : kFiles)
      sums += base::sha256_of_file(unfinished / file) + "  " + file + "\n";
    base::write_file(unfinished / kSumsFile, sums);
    fs::remove_all(folder);
    fs::rename(unfinished, folder);
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(unfinished, error);
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("cannot keep the stage {}: {}", folder.string(), e.code().message()),
        "choose a folder that you may write to with --out");
  } catch (...) {
    fs::remove_all(unfinished, error);
    throw;
  }
}

}  // namespace backstop::engine
