#include "host/engine/store/checkpoints.hpp"

#include <charconv>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/base/hash.hpp"
#include "host/base/text.hpp"

namespace backstop::engine {

namespace fs = std::filesystem;

namespace {

// Entries of the file's metadata.
constexpr const char* kRecord = "record";
constexpr const char* kKey = "key";
constexpr const char* kDigest = "digest";
// What is being written.
constexpr const char* kNext = "next.safetensors";
constexpr std::string_view kTraining = "training-";

std::string record_digest(const NamedTensors& tensors, const std::string& key,
                          const std::string& record) {
  return digest_of(tensors, key + record);
}

}  // namespace

std::string digest_of(const NamedTensors& tensors, std::string_view text) {
  std::string parts = base::sha256_of_text(text);
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor whole = tensor.detach().to(at::kCPU).contiguous();
    parts += fmt::format(
        "\n{} {} {} {}", name, c10::toString(whole.scalar_type()), fmt::join(whole.sizes(), ","),
        base::sha256_of_text({static_cast<const char*>(whole.data_ptr()), whole.nbytes()}));
  }
  return base::sha256_of_text(parts);
}

Checkpoints::Checkpoints(fs::path folder, const nlohmann::json& key, double interval)
    : folder_(std::move(folder)), key_(base::sha256_of_text(key.dump())), interval_(interval) {
  std::error_code error;
  std::vector<fs::path> unfinished;
  for (const auto& entry : fs::directory_iterator(folder_, error))
    if (const std::string name = entry.path().filename().string();
        name == kNext || name.starts_with(base::kUnfinishedFile))
      unfinished.push_back(entry.path());
  for (const fs::path& file : unfinished) fs::remove(file, error);
}

fs::path Checkpoints::file_of(std::size_t number) const {
  return folder_ / fmt::format("{}{}.safetensors", kTraining, number);
}

std::optional<Checkpoint> Checkpoints::load(std::size_t number, std::string& damage) const try {
  damage.clear();
  const fs::path file = file_of(number);
  if (!fs::exists(file)) return std::nullopt;
  TensorFile content = read_safetensors(file);
  const std::string &record = content.metadata[kRecord], &key = content.metadata[kKey];
  if (content.metadata[kDigest] != record_digest(content.tensors, key, record)) {
    damage = fmt::format("{} was changed or damaged", file.string());
    return std::nullopt;
  }
  if (key != key_) {  // it was moved here
    damage = fmt::format("{} is the checkpoint of another stage", file.string());
    return std::nullopt;
  }
  return Checkpoint{nlohmann::json::parse(record), std::move(content.tensors)};
} catch (const base::HostError& e) {
  damage = e.what();
  return std::nullopt;
} catch (const fs::filesystem_error& e) {
  damage = fmt::format("cannot read {}: {}", e.path1().string(), e.code().message());
  return std::nullopt;
}

bool Checkpoints::due() const {
  return Clock::now() - last_ >= interval_;
}

void Checkpoints::save(std::size_t number, const Checkpoint& checkpoint) try {
  last_ = Clock::now();  // if it fails, too: the next try is an interval later
  base::make_folder(folder_);
  const std::string record = base::json_text(checkpoint.record);
  const fs::path next = folder_ / kNext, file = file_of(number);
  write_safetensors(next, checkpoint.tensors,
                    {{kRecord, record},
                     {kKey, key_},
                     {kDigest, record_digest(checkpoint.tensors, key_, record)}});
  base::sync(next);
  fs::rename(next, file);
  base::sync(folder_);
  last_ = Clock::now();
} catch (const fs::filesystem_error& e) {
  throw base::HostError(
      base::ExitCode::environment,
      fmt::format("cannot keep {}: {}", file_of(number).string(), e.code().message()));
}

void Checkpoints::remove_from(std::size_t number) const {
  std::error_code error;
  std::vector<fs::path> later;
  for (const auto& entry : fs::directory_iterator(folder_, error))
    if (const std::string name = entry.path().filename().string(); name.starts_with(kTraining)) {
      std::size_t its = 0;
      const auto [end, bad] =
          std::from_chars(name.data() + kTraining.size(), name.data() + name.size(), its);
      if (bad == std::errc() && its >= number) later.push_back(entry.path());
    }
  for (const fs::path& file : later) fs::remove(file, error);
}

void Checkpoints::remove_all() const {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

}  // namespace backstop::engine
