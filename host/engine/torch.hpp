// The only way to LibTorch's heavy headers (20 s a file): include it in as few sources as possible.
// clang with libstdc++ 12 fails in C++20 unless ivalue.h comes first.
#pragma once

#include <ATen/core/ivalue.h>

#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
