#include "host/engine/plugins/torch_state.hpp"

#include <gtest/gtest.h>

namespace backstop::engine {
namespace {

TEST(OutOfMemory, SaysWhatWasAskedFor) {
  EXPECT_EQ(
      out_of_memory("[enforce fail at alloc_cpu.cpp:66] . DefaultCPUAllocator: can't allocate "
                    "memory: you tried to allocate 2097152000 bytes. Error code 12"),
      "LibTorch asked for 2.1 GB");
  EXPECT_EQ(
      out_of_memory("DefaultCPUAllocator: not enough memory: you tried to allocate 5000 bytes"),
      "LibTorch asked for 0.0 MB");
  EXPECT_EQ(out_of_memory("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 7.93 GiB total"),
            "LibTorch asked for 2.00 GiB");
  EXPECT_EQ(out_of_memory("CUDA error: out of memory"),
            "LibTorch could not get the memory that it asked for");
  EXPECT_EQ(out_of_memory("The size of tensor a (3) must match the size of tensor b (4)"),
            std::nullopt);
}

}  // namespace
}  // namespace backstop::engine
