// Writes IDX files for tests.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include <zlib.h>

#include "shared/files/testing.hpp"

namespace backstop::idx {

using files::TemporaryFolder;
using files::write;

inline std::string header(std::uint32_t magic, std::initializer_list<std::uint32_t> shape) {
  std::string bytes;
  const auto append = [&](std::uint32_t value) {
    for (int shift : {24, 16, 8, 0}) bytes += static_cast<char>(value >> shift & 0xff);
  };
  append(magic);
  for (std::uint32_t size : shape) append(size);
  return bytes;
}

inline std::string gzip(const std::string& bytes) {
  z_stream stream{};
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::runtime_error("cannot start zlib");
  std::string packed(deflateBound(&stream, bytes.size()), '\0');
  std::string copy = bytes;
  stream.next_in = reinterpret_cast<Bytef*>(copy.data());
  stream.avail_in = static_cast<uInt>(copy.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

}  // namespace backstop::idx
