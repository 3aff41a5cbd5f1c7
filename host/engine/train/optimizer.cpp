#include "host/engine/train/optimizer.hpp"

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>

#include <ATen/ATen.h>
#include <fmt/format.h>
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

/// The names of the state of the parameter `i`.
std::string name_of(const char* what, std::size_t i) {
  return fmt::format("{}.{}", what, i);
}

const at::Tensor* find(const NamedTensors& state, const std::string& name) {
  const auto found = std::find_if(state.begin(), state.end(),
                                  [&](const auto& item) { return item.first == name; });
  return found == state.end() ? nullptr : &found->second;
}

/// A copy of what was kept, laid out in memory like the parameter, as its state is; results are the
/// same to the bit only then.
at::Tensor like(const at::Tensor& parameter, const at::Tensor& kept) {
  if (kept.sizes() != parameter.sizes())
    throw Error("the optimizer's state is that of other parameters");
  return at::zeros_like(parameter).copy_(kept);
}

/// Adam and AdamW, which count their steps on the CPU.
template <typename ParameterState>
class LibTorchOptimizer final : public Optimizer {
 public:
  explicit LibTorchOptimizer(std::unique_ptr<torch::optim::Optimizer> optimizer)
      : optimizer_(std::move(optimizer)) {}

  void set_rate(double rate) override {
    for (auto& group : optimizer_->param_groups()) group.options().set_lr(rate);
  }
  void step() override { optimizer_->step(); }
  bool recordable() const noexcept override { return false; }

  NamedTensors state() const override {
    NamedTensors kept;
    const auto& parameters = optimizer_->param_groups().at(0).params();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto found = optimizer_->state().find(key_of(parameters[i]));
      if (found == optimizer_->state().end()) continue;  // it has had no gradient yet
      const auto& state = static_cast<const ParameterState&>(*found->second);
      kept.emplace_back(name_of("step", i), at::scalar_tensor(state.step(), at::kLong));
      kept.emplace_back(name_of("mean", i), state.exp_avg());
      kept.emplace_back(name_of("square", i), state.exp_avg_sq());
    }
    return kept;
  }

  void load_state(const NamedTensors& kept) override {
    const at::NoGradGuard no_gradients;
    const auto& parameters = optimizer_->param_groups().at(0).params();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor* step = find(kept, name_of("step", i));
      const at::Tensor* mean = find(kept, name_of("mean", i));
      const at::Tensor* square = find(kept, name_of("square", i));
      if (step == nullptr || mean == nullptr || square == nullptr) continue;
      auto state = std::make_unique<ParameterState>();
      state->step(step->template item<std::int64_t>());
      state->exp_avg(like(parameters[i], *mean));
      state->exp_avg_sq(like(parameters[i], *square));
      optimizer_->state()[key_of(parameters[i])] = std::move(state);
    }
  }

 private:
  /// LibTorch 1.13 finds a parameter's state by the text of its address, 2.x by the address.
  static auto key_of(const at::Tensor& parameter) {
    using Key =
        std::decay_t<decltype(std::declval<torch::optim::Optimizer&>().state().begin()->first)>;
    if constexpr (std::is_same_v<Key, std::string>)
      return c10::guts::to_string(parameter.unsafeGetTensorImpl());
    else
      return Key(parameter.unsafeGetTensorImpl());
  }

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

  NamedTensors state() const override {
    NamedTensors kept;
    for (std::size_t i = 0; i < buffers_.size(); ++i)
      if (buffers_[i].defined()) kept.emplace_back(name_of("momentum", i), buffers_[i]);
    return kept;
  }
  void load_state(const NamedTensors& kept) override {
    const at::NoGradGuard no_gradients;
    for (std::size_t i = 0; i < buffers_.size(); ++i)
      if (const at::Tensor* buffer = find(kept, name_of("momentum", i)))
        buffers_[i] = like(parameters_[i], *buffer);
  }

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
      return std::make_unique<LibTorchOptimizer<torch::optim::AdamParamState>>(
          std::make_unique<torch::optim::Adam>(
              std::move(parameters),
              torch::optim::AdamOptions(kRate).betas(betas).eps(o.epsilon).weight_decay(
                  o.weight_decay)));
    case OptimizerKind::adamw:
      return std::make_unique<LibTorchOptimizer<torch::optim::AdamWParamState>>(
          std::make_unique<torch::optim::AdamW>(
              std::move(parameters),
              torch::optim::AdamWOptions(kRate).betas(betas).eps(o.epsilon).weight_decay(
                  o.weight_decay)));
  }
  throw Error("unknown optimizer " + std::to_string(static_cast<std::uint32_t>(o.kind)));
}

}  // namespace backstop::engine
