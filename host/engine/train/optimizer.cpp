#include "host/engine/train/optimizer.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "backstop/error.hpp"
#include "host/engine/compute.hpp"
#include "host/engine/kernels/parallel.hpp"
#include "host/engine/kernels/vectors.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace {

/// Adam and AdamW, which count their steps on the CPU.
class LibTorchOptimizer final : public Optimizer {
 public:
  explicit LibTorchOptimizer(std::unique_ptr<torch::optim::Optimizer> optimizer)
      : optimizer_(std::move(optimizer)) {}

  void set_rate(double rate) override {
    for (auto& group : optimizer_->param_groups()) group.options().set_lr(rate);
  }
  void step() override { optimizer_->step(); }
  bool recordable() const noexcept override { return false; }

 private:
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
};

#if defined(__x86_64__)
/// One pass over `count` numbers. b is null if there is no momentum. Rounds where LibTorch's own
/// operators would round one after the other.
BACKSTOP_AVX512 void update(float* p, const float* gradient, float* b, std::size_t count,
                            float rate, float momentum, float weight_decay, bool nesterov) {
  const __m512 minus_rate = _mm512_set1_ps(-rate), keep = _mm512_set1_ps(momentum),
               decay = _mm512_set1_ps(weight_decay);
  for (std::size_t at = 0; at < count; at += vectors::kLanes) {
    const std::size_t left = std::min(count - at, vectors::kLanes);
    const auto mask = static_cast<__mmask16>((1U << left) - 1);
    const __m512 weight = _mm512_maskz_loadu_ps(mask, p + at);
    __m512 step = _mm512_fmadd_ps(decay, weight, _mm512_maskz_loadu_ps(mask, gradient + at));
    if (b != nullptr) {
      const __m512 kept = _mm512_mul_ps(keep, _mm512_maskz_loadu_ps(mask, b + at));
      const __m512 buffer = _mm512_add_ps(kept, step);
      _mm512_mask_storeu_ps(b + at, mask, buffer);
      step = nesterov ? _mm512_fmadd_ps(keep, buffer, step) : buffer;
    }
    _mm512_mask_storeu_ps(p + at, mask, _mm512_fmadd_ps(minus_rate, step, weight));
  }
}
#else
void update(float*, const float*, float*, std::size_t, float, float, float, bool) {}
#endif

class Sgd final : public Optimizer {
 public:
  Sgd(std::vector<at::Tensor> parameters, const OptimizerOptions& options)
      : parameters_(std::move(parameters)),
        buffers_(parameters_.size()),
        momentum_(options.momentum),
        weight_decay_(options.weight_decay),
        nesterov_(options.nesterov != 0) {
    if (!parameters_.empty()) rate_ = at::zeros({}, parameters_[0].options().requires_grad(false));
  }

  void set_rate(double rate) override {
    if (rate_.defined()) rate_.fill_(rate);
  }

  void step() override {
    const at::NoGradGuard no_gradients;
    std::vector<at::Tensor> weights, gradients, buffers;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const at::Tensor& weight = parameters_[i];
      at::Tensor gradient = weight.grad();
      if (!gradient.defined()) continue;
      if (gradient.strides() != weight.strides()) gradient = at::empty_like(weight).copy_(gradient);
      weights.push_back(weight.detach());
      gradients.push_back(gradient);
      if (momentum_ == 0) continue;
      if (!buffers_[i].defined()) buffers_[i] = at::zeros_like(weight);
      buffers.push_back(buffers_[i]);
    }
    if (weights.empty()) return;
    if (rate_.is_cpu() && own_kernels() && vectors::has_avx512())
      update_all(weights, gradients, buffers);
    else
      sgd_step(weights, gradients, buffers, {momentum_, weight_decay_, nesterov_}, rate_);
  }

  bool recordable() const noexcept override { return true; }

 private:
  void update_all(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& gradients,
                  const std::vector<at::Tensor>& buffers) const {
    constexpr std::int64_t kPiece = 1 << 15;
    std::vector<std::pair<std::size_t, std::int64_t>> pieces;  // parameter and first number
    for (std::size_t i = 0; i < weights.size(); ++i)
      for (std::int64_t from = 0; from < weights[i].numel(); from += kPiece)
        pieces.emplace_back(i, from);
    const auto rate = *rate_.data_ptr<float>();
    const auto count = static_cast<std::int64_t>(pieces.size());
    parallel_pieces(count, [&](const auto& next) {
      for (std::int64_t piece = next(); piece < count; piece = next()) {
        const auto [i, from] = pieces[static_cast<std::size_t>(piece)];
        update(weights[i].data_ptr<float>() + from, gradients[i].data_ptr<float>() + from,
               buffers.empty() ? nullptr : buffers[i].data_ptr<float>() + from,
               static_cast<std::size_t>(std::min(kPiece, weights[i].numel() - from)), rate,
               static_cast<float>(momentum_), static_cast<float>(weight_decay_), nesterov_);
      }
    });
  }

  std::vector<at::Tensor> parameters_;
  std::vector<at::Tensor> buffers_;  ///< momentum, undefined before the first step
  double momentum_, weight_decay_;
  bool nesterov_;
  at::Tensor rate_;  ///< float32 [], on the parameters' device
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(std::vector<at::Tensor> parameters,
                                          const OptimizerOptions& o) {
  constexpr double kRate = 0;  // set before every step
  const auto betas = std::make_tuple(o.beta1, o.beta2);
  switch (o.kind) {
    case OptimizerKind::sgd:
      return std::make_unique<Sgd>(std::move(parameters), o);
    case OptimizerKind::adam:
      return std::make_unique<LibTorchOptimizer>(std::make_unique<torch::optim::Adam>(
          std::move(parameters),
          torch::optim::AdamOptions(kRate).betas(betas).eps(o.epsilon).weight_decay(
              o.weight_decay)));
    case OptimizerKind::adamw:
      return std::make_unique<LibTorchOptimizer>(std::make_unique<torch::optim::AdamW>(
          std::move(parameters),
          torch::optim::AdamWOptions(kRate).betas(betas).eps(o.epsilon).weight_decay(
              o.weight_decay)));
  }
  throw Error("unknown optimizer " + std::to_string(static_cast<std::uint32_t>(o.kind)));
}

}  // namespace backstop::engine
