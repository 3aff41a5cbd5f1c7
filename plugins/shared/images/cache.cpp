#include "cache.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>
#include <system_error>
#include <type_traits>

#include <fcntl.h>
#include <unistd.h>

#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "backstop/error.hpp"
#include "formats.hpp"

namespace backstop::images {
namespace {

constexpr char kMagic[] = "backstop images";  // 16 bytes, with the zero
constexpr std::uint32_t kVersion = 1;
/// Reads as another number on a machine with another byte order.
constexpr std::uint32_t kByteOrder = 0x01020304;

/// The beginning of the file; zeros fill up the page.
struct Fields {
  char magic[16];
  std::uint32_t version;
  std::uint32_t byte_order;
  std::int64_t train, test, side;
  Digest listing;
  Summary summary;
  Digest checksum;  ///< of everything before it
};
static_assert(std::has_unique_object_representations_v<Fields> && sizeof(Fields) < kCacheHeader);

Digest checksum_of(const Fields& fields) {
  Sha256 sum;
  sum.add(&fields, offsetof(Fields, checksum));
  return sum.digest();
}

Fields fields_of(const CacheKey& key, const Summary& summary) {
  Fields fields{};
  std::memcpy(fields.magic, kMagic, sizeof kMagic);
  fields.version = kVersion;
  fields.byte_order = kByteOrder;
  fields.train = key.train;
  fields.test = key.test;
  fields.side = key.side;
  fields.listing = key.listing;
  fields.summary = summary;
  fields.checksum = checksum_of(fields);
  return fields;
}

}  // namespace

std::int64_t CacheKey::file_bytes() const {
  return kCacheHeader + (train + test) * image_bytes();
}

CacheHeader write_header(const CacheKey& key, const Summary& summary) {
  const Fields fields = fields_of(key, summary);
  CacheHeader header{};
  std::memcpy(header.data(), &fields, sizeof fields);
  return header;
}

HeaderResult read_header(std::span<const std::uint8_t> header, std::int64_t file_bytes,
                         const CacheKey& key) {
  Fields found{};
  if (header.size() < sizeof found)
    return {{},
            "has " + std::to_string(file_bytes) + " bytes, expected " +
                std::to_string(key.file_bytes())};
  std::memcpy(&found, header.data(), sizeof found);
  if (std::memcmp(found.magic, kMagic, sizeof kMagic) != 0) return {{}, "is not an image cache"};
  if (found.byte_order != kByteOrder)
    return {{}, "was written on a machine with another byte order"};
  if (found.version != kVersion)
    return {
        {},
        "has version " + std::to_string(found.version) + ", expected " + std::to_string(kVersion)};
  if (found.checksum != checksum_of(found)) return {{}, "has a damaged header"};
  if (fields_of(key, found.summary).checksum != found.checksum)
    return {{}, "holds other images than its name says"};
  if (file_bytes != key.file_bytes())
    return {{},
            "has " + std::to_string(file_bytes) + " bytes, expected " +
                std::to_string(key.file_bytes())};
  return {found.summary, {}};
}

std::shared_ptr<Cache> Cache::open(const std::filesystem::path& file, const CacheKey& key,
                                   std::string& problem) {
  problem.clear();
  const auto fail = [&](int error) {
    refuse(file.string(), "cannot be read: " + std::generic_category().message(error),
           "check its permissions, remove it, or set `cache` to another folder");
  };
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    if (errno == ENOENT) return nullptr;
    fail(errno);
  }
  struct stat status {};
  int error = fstat(descriptor, &status) == 0 ? 0 : errno;
  if (error == 0 && !S_ISREG(status.st_mode)) error = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
  CacheHeader bytes{};
  const ssize_t got = error == 0 ? pread(descriptor, bytes.data(), bytes.size(), 0) : 0;
  if (got < 0) error = errno;
  HeaderResult result;
  if (error == 0)
    result =
        read_header(std::span(bytes).first(static_cast<std::size_t>(got)), status.st_size, key);
  if (!result.summary) {
    close(descriptor);
    if (error != 0) fail(error);
    problem = result.problem;
    return nullptr;
  }
  std::shared_ptr<Cache> cache(new Cache(descriptor, key, *result.summary));
  if (cache->bytes_ == nullptr) fail(errno);
  return cache;
}

Cache::Cache(int descriptor, const CacheKey& key, const Summary& summary)
    : descriptor_(descriptor), key_(key), summary_(summary) {
  const auto size = static_cast<std::size_t>(key_.file_bytes());
  const auto map = [&](int protection, int flags, int from) {
    void* memory = mmap(nullptr, size, protection, flags, from, 0);
    if (memory != MAP_FAILED) bytes_ = static_cast<std::uint8_t*>(memory);
  };
  const auto memory = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
                      static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  if (size <= memory / 2) map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  mapped_ = bytes_ == nullptr;
  if (!mapped_) madvise(bytes_, size, MADV_HUGEPAGE);  // only a hint
  if (mapped_) map(PROT_READ, MAP_PRIVATE, descriptor_);
}

Cache::~Cache() {
  close(descriptor_);
  if (bytes_ != nullptr) munmap(bytes_, static_cast<std::size_t>(key_.file_bytes()));
}

std::span<const std::uint8_t> Cache::read(std::int64_t position) {
  const std::int64_t start = kCacheHeader + position * key_.image_bytes();
  const auto size = static_cast<std::size_t>(key_.image_bytes());
  for (std::size_t done = 0; !mapped_ && done < size;) {
    const auto at = start + static_cast<std::int64_t>(done);
    const ssize_t got = pread(descriptor_, bytes_ + at, size - done, at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return {};
    done += static_cast<std::size_t>(got);
  }
  return {bytes_ + start, size};
}

CacheWriter::CacheWriter(std::filesystem::path file, const CacheKey& key)
    : file_(std::move(file)), key_(key) {
  std::error_code error;
  std::filesystem::create_directories(file_.parent_path(), error);
  if (error) fail("needs a folder that cannot be created", error.value());
  create();
  // Reserved now, or a full disk might be discovered only an hour later.
  if (fallocate(descriptor_, 0, 0, key_.file_bytes()) != 0 && errno != EOPNOTSUPP) {
    const int reason = errno;
    close(descriptor_);
    unlink(temporary_.c_str());
    fail("needs " + std::to_string(key_.file_bytes()) + " bytes", reason);
  }
}

void CacheWriter::create() {
  std::random_device random;  // the system's, so that no other host or container draws the same
  for (;;) {
    std::string name = "." + file_.filename().string() + ".";
    for (int i = 0; i < 4; ++i) name += std::to_string(random());
    temporary_ = (file_.parent_path() / name).string();
    descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail("cannot be created", errno);
    // Without locks, as on some network file systems, nobody removes the files of dead processes.
    flock(descriptor_, LOCK_EX);
    struct stat status {};
    if (fstat(descriptor_, &status) != 0 || status.st_nlink > 0) return;
    close(descriptor_);  // another process took it for abandoned before it was locked
  }
}

CacheWriter::~CacheWriter() {
  close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void CacheWriter::write(std::int64_t position, std::span<const std::uint8_t> pixels) {
  put(kCacheHeader + position * key_.image_bytes(), pixels);
}

void CacheWriter::finish(const Summary& summary) {
  put(0, write_header(key_, summary));
  // Synced before it is renamed, or a power failure could leave a valid header over holes.
  if (fdatasync(descriptor_) != 0) fail("cannot be written", errno);
  if (rename(temporary_.c_str(), file_.c_str()) != 0) fail("cannot be renamed into place", errno);
  temporary_.clear();
}

void CacheWriter::put(std::int64_t at, std::span<const std::uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = pwrite(descriptor_, bytes.data(), bytes.size(), at);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("needs " + std::to_string(key_.file_bytes()) + " bytes", errno);
    at += done;
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void CacheWriter::fail(const std::string& what, int error) const {
  refuse(file_.string(), what + ": " + std::generic_category().message(error),
         "set `cache` to a folder with enough space, or to \"\" to keep the images in memory");
}

void remove_abandoned(const std::filesystem::path& folder) {
  constexpr std::string_view kMark = ".cache.";
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const std::size_t mark = name.rfind(kMark);
    if (!name.starts_with('.') || mark == std::string::npos ||
        name.find_first_not_of("0123456789", mark + kMark.size()) != std::string::npos)
      continue;
    const int descriptor =
        ::open(entry.path().c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (descriptor < 0) continue;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) unlink(entry.path().c_str());
    close(descriptor);
  }
}

std::filesystem::path default_cache_folder() {
  const auto from = [](const char* name) {
    const char* value = std::getenv(name);
    return std::filesystem::path(value ? value : "");
  };
  std::filesystem::path base = from("XDG_CACHE_HOME");
  if (!base.is_absolute()) {
    base = from("HOME");
    if (!base.is_absolute())
      throw EnvironmentError(
          "there is no folder for decoded images: neither XDG_CACHE_HOME nor HOME is set",
          "set `cache` to a folder, or to \"\" to keep the images in memory");
    base /= ".cache";
  }
  return base / "backstop" / "datasets";
}

}  // namespace backstop::images
