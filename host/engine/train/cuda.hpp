// What needs CUDA's own headers, with a substitute for a LibTorch without CUDA.
#pragma once

#include <memory>

#include <c10/core/Device.h>

#include "host/engine/train/recorded_work.hpp"

namespace backstop::engine {

/// Whether a GPU computes bfloat16 natively (compute capability 8.0); false for other devices.
bool gpu_has_bfloat16(c10::Device device);

/// A recorder that makes CUDA graphs. While it lives, the work of this thread on `device` goes to a
/// stream of its own, which is waited for at its end. Null if `device` is not a GPU, or if LibTorch
/// has no graphs in C++ that name their capture mode (it has from 2.3 on).
std::unique_ptr<Recorder> make_recorder(c10::Device device);

}  // namespace backstop::engine
