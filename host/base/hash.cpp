#include "host/base/hash.hpp"

#include <array>
#include <memory>

#include <fmt/format.h>
#include <openssl/evp.h>

#include "host/base/error.hpp"
#include "host/base/files.hpp"

namespace backstop::base {

namespace fs = std::filesystem;

namespace {

class Hash {
 public:
  Hash(const EVP_MD* algorithm, const char* name) : name_(name) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), algorithm, nullptr) != 1) fail();
  }
  void update(std::string_view bytes) {
    if (EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) != 1) fail();
  }
  std::string finish() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned size = 0;
    if (EVP_DigestFinal_ex(context_.get(), digest.data(), &size) != 1) fail();
    std::string text;
    for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
  }

 private:
  [[noreturn]] void fail() const {
    throw HostError(ExitCode::environment, fmt::format("libcrypto cannot compute {}", name_),
                    "it may be in a mode that allows only approved algorithms");
  }
  const char* name_;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(),
                                                                   &EVP_MD_CTX_free};
};

std::string hash_of_file(Hash hash, const fs::path& path,
                         const std::function<void(std::int64_t)>& report) {
  std::int64_t done = 0;
  read_blocks(path, [&](std::string_view block) {
    hash.update(block);
    done += static_cast<std::int64_t>(block.size());
    if (report) report(done);
  });
  return hash.finish();
}

}  // namespace

std::string sha256_of_file(const fs::path& path) {
  return hash_of_file(Hash(EVP_sha256(), "SHA-256"), path, {});
}

std::string sha256_of_text(std::string_view text) {
  Hash hash(EVP_sha256(), "SHA-256");
  hash.update(text);
  return hash.finish();
}

std::string md5_of_file(const fs::path& path, const std::function<void(std::int64_t)>& report) {
  return hash_of_file(Hash(EVP_md5(), "MD5"), path, report);
}

}  // namespace backstop::base
