#include "host/base/hash.hpp"

#include <array>
#include <cerrno>
#include <fstream>
#include <memory>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <openssl/evp.h>

#include "host/base/error.hpp"

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

std::string hash_of_file(Hash hash, const fs::path& path, std::size_t block,
                         const std::function<void(std::int64_t)>& report) {
  const auto fail = [&](const std::string& why) {
    throw HostError(ExitCode::environment, fmt::format("cannot read {}: {}", path.string(), why));
  };
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  // Opening a FIFO would wait for its writer.
  if (fs::exists(status) && !fs::is_regular_file(status)) fail("not a regular file");
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(std::generic_category().message(errno));
  std::vector<char> buffer(block);
  std::int64_t done = 0;
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hash.update({buffer.data(), static_cast<std::size_t>(file.gcount())});
    done += file.gcount();
    if (report) report(done);
  }
  if (file.bad()) fail("reading failed");
  return hash.finish();
}

}  // namespace

std::string sha256_of_file(const fs::path& path) {
  return hash_of_file(Hash(EVP_sha256(), "SHA-256"), path, 64 * 1024, {});
}

std::string sha256_of_text(std::string_view text) {
  Hash hash(EVP_sha256(), "SHA-256");
  hash.update(text);
  return hash.finish();
}

std::string md5_of_file(const fs::path& path, const std::function<void(std::int64_t)>& report) {
  return hash_of_file(Hash(EVP_md5(), "MD5"), path, std::size_t{4} << 20, report);
}

}  // namespace backstop::base
