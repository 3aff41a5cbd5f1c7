#include "host/engine/stage_store.hpp"

#include <unistd.h>

#include "host/catalog/catalog.hpp"
#include "host/engine/files.hpp"
#include "host/error.hpp"

namespace backstop::host {

namespace fs = std::filesystem;

namespace {

constexpr const char* kRecordFile = "stage.json";
constexpr const char* kStateFile = "state.safetensors";
constexpr const char* kPoisonFile = "poison.safetensors";

}  // namespace

StageStore::StageStore(fs::path folder) : root_(std::move(folder)) {}

fs::path StageStore::folder_of(const std::string& kind, const nlohmann::json& key) const {
  return root_ / (kind + "-" + sha256_of_text(key.dump()).substr(0, 24));
}

std::optional<Stage> StageStore::load(const fs::path& folder) const {
  if (!fs::exists(folder / kRecordFile)) return std::nullopt;
  const auto record = nlohmann::json::parse(read_file(folder / kRecordFile), nullptr, false);
  if (!record.is_object() || !record.contains("row") || !record.contains("epochs"))
    throw HostError(ExitCode::environment,
                    "the kept stage " + (folder / kRecordFile).string() + " is damaged",
                    "delete that folder, or run with --fresh");
  Stage stage;
  stage.row = record["row"];
  stage.epochs = record["epochs"];
  stage.model = read_safetensors(folder / kModelFile);
  stage.state = read_safetensors(folder / kStateFile).tensors;
  stage.poison = read_safetensors(folder / kPoisonFile).tensors;
  stage.artifacts = read_safetensors(folder / kArtifactsFile).tensors;
  return stage;
}

void StageStore::save(const fs::path& folder, const nlohmann::json& key, const Stage& stage) const {
  const fs::path unfinished = root_ / (".unfinished-" + std::to_string(::getpid()));
  std::error_code error;
  fs::remove_all(unfinished, error);
  make_folder(unfinished);
  try {
    write_safetensors(unfinished / kModelFile, stage.model.tensors, stage.model.metadata);
    write_safetensors(unfinished / kStateFile, stage.state);
    write_safetensors(unfinished / kPoisonFile, stage.poison);
    write_safetensors(unfinished / kArtifactsFile, stage.artifacts);
    const nlohmann::json record = {{"key", key}, {"row", stage.row}, {"epochs", stage.epochs}};
    write_file(unfinished / kRecordFile, record.dump(2) + "\n");
    fs::remove_all(folder);
    fs::rename(unfinished, folder);
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(unfinished, error);
    throw HostError(ExitCode::environment,
                    "cannot keep the stage " + folder.string() + ": " + e.code().message(),
                    "choose a folder that you may write to with --out");
  } catch (...) {
    fs::remove_all(unfinished, error);
    throw;
  }
}

}  // namespace backstop::host
