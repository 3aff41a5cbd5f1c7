#include "host/engine/store/stage_store.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>
#include <sstream>
#include <system_error>
#include <vector>

#include <fcntl.h>

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

/// Throws HostError(environment) that names the first file that is not what the list of sums says.
void check_sums(const fs::path& folder) {
  constexpr std::uintmax_t kLargestList = 4096;
  std::istringstream sums(base::read_file(folder / kSumsFile, kLargestList));
  std::map<std::string, std::string> listed;
  for (std::string sum, file; sums >> sum >> file;) listed[file] = sum;
  for (const char* file : kFiles)
    if (base::sha256_of_file(folder / file) != listed[file])
      throw base::HostError(
          base::ExitCode::environment,
          fmt::format("{} was changed or damaged after it was kept", (folder / file).string()));
}

Stage read_stage(const fs::path& folder, const nlohmann::json& key) {
  check_sums(folder);
  // A stage that was moved here is sound, but it is not the one that was asked for.
  if (nlohmann::json::parse(base::read_file(folder / kKeyFile)) != key)
    throw base::HostError(base::ExitCode::environment, fmt::format("{} is the key of another stage",
                                                                   (folder / kKeyFile).string()));
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

// What there is besides the stages: `.STAGE.lock`, while STAGE is made, `.STAGE.unfinished-*`, and
// STAGE.checkpoints until STAGE is there.
fs::path lock_of(const fs::path& folder) {
  return folder.parent_path() / fmt::format(".{}.lock", folder.filename().string());
}

std::string unfinished_prefix(const fs::path& folder) {
  return fmt::format(".{}.unfinished-", folder.filename().string());
}

fs::path new_unfinished(const fs::path& folder) {
  return folder.parent_path() / (unfinished_prefix(folder) + base::unique_name());
}

fs::path checkpoints_of(const fs::path& folder) {
  return folder.string() + kCheckpoints;
}

/// Needs the lock: nobody else is making the stage.
void remove_unfinished(const fs::path& folder) {
  std::vector<fs::path> left;
  for (const auto& entry : fs::directory_iterator(folder.parent_path()))
    if (entry.path().filename().string().starts_with(unfinished_prefix(folder)))
      left.push_back(entry.path());
  std::error_code ignored;
  for (const fs::path& path : left) fs::remove_all(path, ignored);
}

/// Needs the lock. Of a stage that is kept, the last thing that its maker does.
void remove_checkpoints(const fs::path& folder) {
  std::error_code ignored;
  fs::remove_all(checkpoints_of(folder), ignored);
}

/// Puts the folder `made` in the place of `folder`; what was there is then at the returned path.
/// Throws filesystem_error.
std::optional<fs::path> put_in_place(const fs::path& made, const fs::path& folder) {
  if (::rename(made.c_str(), folder.c_str()) == 0) return std::nullopt;
  if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR)
    throw fs::filesystem_error("rename", std::error_code(errno, std::generic_category()));
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0)
    return made;
  // A file system that cannot exchange two names: between these two, the stage is absent.
  const fs::path aside = new_unfinished(folder);
  fs::rename(folder, aside);
  fs::rename(made, folder);
  return aside;
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

void write_attack_file(const fs::path& path, const Stage& stage) {
  write_safetensors(path, with_prefixes(stage.state, stage.poison), stage.attack_record);
}

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
                                      std::string& damage) const try {
  damage.clear();
  if (!fs::exists(folder)) return std::nullopt;
  return read_stage(folder, key);
} catch (const base::HostError& e) {
  damage = e.what();
  return std::nullopt;
} catch (const nlohmann::json::exception&) {
  damage = fmt::format("{} is not a stage's record", (folder / kRecordFile).string());
  return std::nullopt;
} catch (const fs::filesystem_error& e) {
  damage = fmt::format("cannot read {}: {}", e.path1().string(), e.code().message());
  return std::nullopt;
}

std::optional<fs::file_time_type> StageStore::kept_at(const fs::path& folder) const {
  std::error_code error;
  const auto time = fs::last_write_time(folder / kSumsFile, error);
  return error ? std::nullopt : std::optional(time);
}

base::FileLock StageStore::claim(const fs::path& folder,
                                 const std::function<void(const std::string& maker)>& wait) const {
  base::make_folder(root_);
  base::FileLock lock = base::FileLock::lock(lock_of(folder), wait);
  if (lock.supported()) remove_unfinished(folder);
  return lock;
}

Checkpoints StageStore::checkpoints(const fs::path& folder, const nlohmann::json& key,
                                    double interval) {
  return {checkpoints_of(folder), key, interval};
}

void StageStore::save(const fs::path& folder, const nlohmann::json& key, const Stage& stage) const {
  const fs::path unfinished = new_unfinished(folder);
  std::error_code ignored;
  try {
    base::make_folder(unfinished);
    write_safetensors(unfinished / kModelFile, stage.model.tensors, stage.model.metadata);
    write_attack_file(unfinished / kAttackFile, stage);
    write_safetensors(unfinished / kArtifactsFile, stage.artifacts);
    write_safetensors(unfinished / kPicturesFile, stage.pictures);
    base::write_file(unfinished / kKeyFile, key.dump(2) + "\n");
    const nlohmann::json record = {{"row", stage.row}, {"epochs", stage.epochs}};
    base::write_file(unfinished / kRecordFile, base::json_text(record, 2) + "\n");
    std::string sums;
    for (const char* file : kFiles)
      sums += base::sha256_of_file(unfinished / file) + "  " + file + "\n";
    base::write_file(unfinished / kSumsFile, sums);
    base::sync_tree(unfinished);
    const std::optional<fs::path> replaced = put_in_place(unfinished, folder);
    base::sync(root_);
    if (replaced) fs::remove_all(*replaced, ignored);
    remove_checkpoints(folder);
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(unfinished, ignored);
    throw base::HostError(
        base::ExitCode::environment,
        fmt::format("cannot keep the stage {}: {}", folder.string(), e.code().message()),
        "choose a folder that you may write to with --out");
  } catch (...) {
    fs::remove_all(unfinished, ignored);
    throw;
  }
}

void StageStore::remove_leftovers() const {
  std::set<std::string> stages;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root_, error)) {
    const std::string name = entry.path().filename().string();
    const std::size_t end = std::min(name.rfind(".lock"), name.find(".unfinished-"));
    if (name.starts_with('.') && end != std::string::npos && end > 0)
      stages.insert(name.substr(1, end - 1));
    if (name.ends_with(kCheckpoints) && kept_at(root_ / entry.path().stem()))
      stages.insert(entry.path().stem());
  }
  for (const std::string& stage : stages) try {
      const auto lock = base::FileLock::try_lock(lock_of(root_ / stage));
      if (!lock || !lock->supported()) continue;
      remove_unfinished(root_ / stage);
      if (kept_at(root_ / stage)) remove_checkpoints(root_ / stage);
    } catch (const base::HostError&) {  // another user's, or a store that is only read
    }
}

}  // namespace backstop::engine
