// Any bytes as the header of a cache: it must be refused with a reason unless it is exactly the one
// that was asked for. The first byte decides the length of the file; if the second is 1, the
// checksum is corrected, so that the fields before it are looked at.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cache.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace backstop::images;
  if (size < 2) return 0;
  CacheKey key;
  key.listing.fill(7);
  key.train = 3;
  key.test = 1;
  key.side = 2;
  constexpr std::size_t kChecksum = 192;  // its offset
  CacheHeader header{};
  std::memcpy(header.data(), data + 2, std::min(size - 2, header.size()));
  if (data[1] == 1) {
    Sha256 sha;
    sha.add(header.data(), kChecksum);
    const Digest sum = sha.digest();
    std::memcpy(header.data() + kChecksum, sum.data(), sum.size());
  }
  const std::int64_t bytes = key.file_bytes() + data[0];
  const HeaderResult result = read_header(header, bytes, key);
  if (result.summary.has_value() != result.problem.empty()) __builtin_trap();
  if (result.summary) {
    const CacheHeader again = write_header(key, *result.summary);
    if (bytes != key.file_bytes() ||
        !std::equal(again.begin(), again.begin() + kChecksum + 32, header.begin()))
      __builtin_trap();
  }
  return 0;
}
