// Reads the binary version of CIFAR-10: six batch files of 3073-byte records, one byte of label and
// 3 x 32 x 32 of image each.
#pragma once

#include <cstdint>
#include <filesystem>

#include "backstop/dataset.hpp"

namespace backstop::cifar10 {

inline constexpr std::int64_t kClasses = 10;
inline constexpr std::int64_t kRecordsInBatch = 10000;

/// Reads the five training batches or the test batch of `root`, or of the `cifar-10-batches-bin` in
/// it. Either way all six files are looked at first: each must be there, hold `records` records,
/// differ from the others and not be another one of the official six. Throws EnvironmentError.
Samples read_split(const std::filesystem::path& root, Split split, std::int64_t records);

}  // namespace backstop::cifar10
