// The losses of the attack's two networks.
#pragma once

#include <cmath>
#include <cstdint>

#include <ATen/core/Tensor.h>

/// Root mean square difference of each pair of images: two tensors [n, C, H, W] to [n]. The
/// gradient is 0 for a pair of equal images.
inline at::Tensor distances(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor difference = a.sub(b).flatten(1);
  return difference.norm(2, 1).div(std::sqrt(static_cast<double>(difference.size(1))));
}

/// Mean of d(x1, x2) / (d(y1, y2) + 1e-7), where d is distances(): small if different images get
/// different outputs.
inline at::Tensor diversity_loss(const at::Tensor& x1, const at::Tensor& x2, const at::Tensor& y1,
                                 const at::Tensor& y2) {
  return distances(x1, x2).div(distances(y1, y2).add(1e-7)).mean();
}

/// norm_weight * mean(ReLU(masks - density)) + diversity_weight * diversity_loss. The pairs are the
/// neighbors in a batch, and its last image with its first.
inline at::Tensor mask_loss(const at::Tensor& images, const at::Tensor& masks, double density,
                            double norm_weight, double diversity_weight) {
  return masks.sub(density)
      .relu()
      .mean()
      .mul(norm_weight)
      .add(diversity_loss(images, images.roll(1, 0), masks, masks.roll(1, 0)), diversity_weight);
}
