// How clean images are split, and which peak of the learning rate is chosen: what needs no model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randperm.h>

namespace backstop::auto_fine_tuning {

/// Positions in a set, int64 on the CPU.
struct Split {
  at::Tensor training;
  at::Tensor held_out;
};

/// Holds `share` of the images of each class out, rounded, but at least one image of a class that
/// has two, and never all of a class. `labels` is int64 [n] on the CPU, n >= 1.
inline Split split(const at::Tensor& labels, double share, at::Generator& generator) {
  const at::Tensor order = at::randperm(labels.numel(), generator, at::kLong);
  const at::Tensor shuffled = labels.index_select(0, order);
  std::vector<at::Tensor> training, held_out;
  for (std::int64_t c = 0; c <= labels.max().item<std::int64_t>(); ++c) {
    const at::Tensor members = order.index_select(0, shuffled.eq(c).nonzero().squeeze(1));
    const std::int64_t count = members.numel();
    if (count == 0) continue;
    const auto wanted = std::llround(share * static_cast<double>(count));
    const std::int64_t held = count == 1 ? 0 : std::clamp<std::int64_t>(wanted, 1, count - 1);
    held_out.push_back(members.narrow(0, 0, held));
    training.push_back(members.narrow(0, held, count - held));
  }
  return {at::cat(training), at::cat(held_out)};
}

/// Whether the loss of accuracy from `before` to `after` is at most `tolerance` and its own standard
/// error. Both are bool [n], of the same images, so only those count that one has right and the
/// other has not: the error is smaller than that of two independent samples. Undefined `after`: the
/// training diverged.
inline bool comes_back(const at::Tensor& before, const at::Tensor& after, double tolerance) {
  if (!after.defined()) return false;
  const auto n = static_cast<double>(before.numel());
  const auto lost = before.logical_and(after.logical_not()).sum().item<double>();
  const auto gained = after.logical_and(before.logical_not()).sum().item<double>();
  const double loss = (lost - gained) / n;
  return loss <= tolerance + std::sqrt(lost + gained - n * loss * loss) / n;
}

/// The largest of `peaks` (increasing, not empty) that comes back, as `comes_back(peak)` says, if
/// with one all smaller ones do: from the largest that is at most `start` upward until one does not,
/// or else downward until one does.
template <typename ComesBack>
std::optional<double> largest(const std::vector<double>& peaks, double start,
                              const ComesBack& comes_back) {
  auto above = std::upper_bound(peaks.begin() + 1, peaks.end(), start);
  if (comes_back(*(above - 1))) {
    while (above != peaks.end() && comes_back(*above)) ++above;
    return *(above - 1);
  }
  for (auto peak = above - 1; peak != peaks.begin();)
    if (comes_back(*--peak)) return *peak;
  return std::nullopt;
}

/// Whether `correct` (bool [n]) cannot be told from always answering with the most frequent of
/// `labels` (int64 [n]): less than two standard errors above it.
inline bool at_chance(const at::Tensor& correct, const at::Tensor& labels) {
  const auto n = static_cast<double>(labels.numel());
  const double chance = labels.bincount().max().item<double>() / n;
  return correct.sum().item<double>() / n <= chance + 2 * std::sqrt(chance * (1 - chance) / n);
}

}  // namespace backstop::auto_fine_tuning
