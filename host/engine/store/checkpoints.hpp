// What a stage under way has reached, so that a process that is killed loses no more than the last
// few minutes. A stage has a checkpoint for each of its trainings, in the order in which they begin: a
// file that is written whole, synced and renamed, and that says itself whether it is sound. They lie in
// a folder beside the stage's, are protected by its claim, and go when the stage is kept.
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "host/engine/store/safetensors.hpp"

namespace backstop::engine {

struct Checkpoint {
  nlohmann::json record = nlohmann::json::object();
  NamedTensors tensors;
};

/// SHA-256 of `text` and of names, types, shapes and numbers of `tensors`.
std::string digest_of(const NamedTensors& tensors, std::string_view text);

class Checkpoints {
 public:
  /// Those in `folder`, of the stage that `key` describes. Whoever works is to save one every
  /// `interval` seconds. What a process that died was writing is removed.
  Checkpoints(std::filesystem::path folder, const nlohmann::json& key, double interval);

  /// Of the training `number`, from 0. Empty when there is none, or when it cannot be used; then
  /// `damage` says in a sentence why.
  [[nodiscard]] std::optional<Checkpoint> load(std::size_t number, std::string& damage) const;
  /// Whether the interval since the last one is over.
  [[nodiscard]] bool due() const;
  /// In place of an earlier one of the same training. Throws HostError(environment).
  void save(std::size_t number, const Checkpoint& checkpoint);
  /// Neither the one of the training `number` nor those of later ones, which follow from it, are of use.
  void remove_from(std::size_t number) const;
  /// None is.
  void remove_all() const;

 private:
  [[nodiscard]] std::filesystem::path file_of(std::size_t number) const;

  using Clock = std::chrono::steady_clock;
  std::filesystem::path folder_;
  std::string key_;  ///< its SHA-256
  std::chrono::duration<double> interval_;
  Clock::time_point last_ = Clock::now();
};

}  // namespace backstop::engine
