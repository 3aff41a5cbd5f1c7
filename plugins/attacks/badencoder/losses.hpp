// The losses that SimCLR and BadEncoder minimize.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cosine_similarity.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/eye.h>

namespace backstop::badencoder {

/// NT-Xent of `codes` [2 n, d], where row i and row i + n are views of the same image: each has to
/// find the other among all rows but itself, by cosine similarity.
inline at::Tensor nt_xent(const at::Tensor& codes, double temperature) {
  const std::int64_t rows = codes.size(0);
  const at::Tensor unit = codes.div(codes.norm(2, 1, /*keepdim=*/true).clamp_min(1e-12));
  const at::Tensor itself = at::eye(rows, codes.options()).to(at::kBool);
  const at::Tensor logits =
      unit.matmul(unit.t()).div(temperature).masked_fill(itself, -1e9);  // never itself
  const at::Tensor partner =
      at::arange(rows, codes.options().dtype(at::kLong)).add(rows / 2).remainder(rows);
  return at::cross_entropy_loss(logits, partner);
}

struct Injection {
  at::Tensor effectiveness;  ///< triggered images should get the features of the reference image
  at::Tensor reference;      ///< the reference image should keep the features of the clean encoder
  at::Tensor utility;        ///< and so should clean images
};
/// Each loss is a negative mean cosine similarity of features, in [-1, 1]. Takes the backdoored
/// encoder's features of triggered images [n, d], clean images [n, d], the reference image [1, d]
/// and augmented copies of it [m, d], and the clean encoder's features of the clean images [n, d]
/// and of the reference image [1, d].
inline Injection injection(const at::Tensor& triggered, const at::Tensor& clean,
                           const at::Tensor& reference, const at::Tensor& augmented,
                           const at::Tensor& clean_before, const at::Tensor& reference_before) {
  const auto negative_cosine = [](const at::Tensor& a, const at::Tensor& b) {
    return at::cosine_similarity(a, b, 1).mean().neg();
  };
  return {negative_cosine(triggered, reference), negative_cosine(augmented, reference_before),
          negative_cosine(clean, clean_before)};
}

}  // namespace backstop::badencoder
