#include "host/engine/plugins/torch_state.hpp"

#include <charconv>
#include <clocale>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DefaultDtype.h>
#include <torch/version.h>

#include "host/base/text.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace backstop::engine {

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)

bool autocast_enabled(c10::DeviceType device) {
  return at::autocast::is_autocast_enabled(device);
}

static void set_autocast(c10::DeviceType device, bool enabled) {
  at::autocast::set_autocast_dtype(device, at::kBFloat16);
  at::autocast::set_autocast_enabled(device, enabled);
}

void sgd_step(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& gradients,
              const std::vector<at::Tensor>& buffers, const SgdSettings& settings,
              const at::Tensor& rate) {
  at::_fused_sgd_(weights, gradients, buffers, settings.weight_decay, settings.momentum, rate,
                  /*dampening=*/0, settings.nesterov, /*maximize=*/false, /*is_first_step=*/false);
}

#else  // one function for each device; the default type of CUDA would be half

bool autocast_enabled(c10::DeviceType device) {
  return device == c10::kCUDA ? at::autocast::is_enabled() : at::autocast::is_cpu_enabled();
}

static void set_autocast(c10::DeviceType device, bool enabled) {
  if (device == c10::kCUDA) {
    at::autocast::set_autocast_gpu_dtype(at::kBFloat16);
    at::autocast::set_enabled(enabled);
  } else {
    at::autocast::set_autocast_cpu_dtype(at::kBFloat16);
    at::autocast::set_cpu_enabled(enabled);
  }
}

void sgd_step(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& gradients,
              const std::vector<at::Tensor>& buffers, const SgdSettings& settings,
              const at::Tensor& rate) {
  for (std::size_t i = 0; i < weights.size(); ++i) {
    at::Tensor step = gradients[i].add(weights[i], settings.weight_decay);
    if (!buffers.empty()) {
      at::Tensor(buffers[i]).mul_(settings.momentum).add_(step);
      step = settings.nesterov ? step.add(buffers[i], settings.momentum) : buffers[i];
    }
    at::Tensor(weights[i]).addcmul_(step, rate, -1);
  }
}

#endif

namespace {

/// One setting of the global state, as a number.
struct GlobalSetting {
  const char* name;
  std::int64_t (*get)();
  void (*set)(std::int64_t);
};

constexpr GlobalSetting kSettings[] = {
    {"autocast", [] { return std::int64_t{autocast_enabled(c10::kCPU)}; },
     [](std::int64_t value) { set_autocast(c10::kCPU, value != 0); }},
    {"autocast for CUDA", [] { return std::int64_t{autocast_enabled(c10::kCUDA)}; },
     [](std::int64_t value) { set_autocast(c10::kCUDA, value != 0); }},
    {"number of threads", [] { return std::int64_t{at::get_num_threads()}; },
     [](std::int64_t value) { at::set_num_threads(static_cast<int>(value)); }},
    {"default type",
     [] { return static_cast<std::int64_t>(c10::typeMetaToScalarType(c10::get_default_dtype())); },
     [](std::int64_t value) {
       c10::set_default_dtype(c10::scalarTypeToTypeMeta(static_cast<c10::ScalarType>(value)));
     }},
    {"deterministic algorithms",
     [] {
       return std::int64_t{at::globalContext().deterministicAlgorithms()} +
              2 * std::int64_t{at::globalContext().deterministicAlgorithmsWarnOnly()};
     },
     [](std::int64_t value) {
       at::globalContext().setDeterministicAlgorithms((value & 1) != 0, (value & 2) != 0);
     }},
    {"cuDNN's settings",
     [] {
       const at::Context& context = at::globalContext();
       return std::int64_t{context.userEnabledCuDNN()} +
              2 * std::int64_t{context.benchmarkCuDNN()} +
              4 * std::int64_t{context.deterministicCuDNN()} +
              8 * std::int64_t{context.allowTF32CuDNN()};
     },
     [](std::int64_t value) {
       at::globalContext().setUserEnabledCuDNN((value & 1) != 0);
       at::globalContext().setBenchmarkCuDNN((value & 2) != 0);
       at::globalContext().setDeterministicCuDNN((value & 4) != 0);
       at::globalContext().setAllowTF32CuDNN((value & 8) != 0);
     }},
    {"oneDNN's use", [] { return std::int64_t{at::globalContext().userEnabledMkldnn()}; },
     [](std::int64_t value) { at::globalContext().setUserEnabledMkldnn(value != 0); }},
    {"precision of matrix products",
     [] { return static_cast<std::int64_t>(at::globalContext().float32MatmulPrecision()); },
     [](std::int64_t value) {
       at::globalContext().setFloat32MatmulPrecision(
           static_cast<at::Float32MatmulPrecision>(value));
     }},
#if defined(__x86_64__)
    // Rounding and flush to zero, without the sticky exception flags.
    {"floating-point mode", [] { return std::int64_t{_mm_getcsr() & ~0x3Fu}; },
     [](std::int64_t value) {
       _mm_setcsr(static_cast<std::uint32_t>(value) | (_mm_getcsr() & 0x3Fu));
     }},
#endif
};

/// The default generators of the CPU and of every GPU.
std::vector<at::Generator> default_generators() {
  std::vector<at::Generator> generators{at::detail::getDefaultCPUGenerator()};
  for (int i = 0; i < number_of_gpus(); ++i)
    generators.push_back(at::globalContext().defaultGenerator(
        c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(i))));
  return generators;
}

}  // namespace

AutocastGuard::AutocastGuard(c10::DeviceType device, bool enabled)
    : device_(device), before_(autocast_enabled(device)) {
  set_autocast(device_, enabled);
}

AutocastGuard::~AutocastGuard() {
  if (!before_) at::autocast::clear_cache();
  set_autocast(device_, before_);
}

at::Generator make_generator(std::uint64_t seed) {
  return at::detail::createCPUGenerator(seed);
}

at::Tensor send(const at::Tensor& tensor, c10::Device device) {
  if (!device.is_cuda() || !tensor.is_cpu()) return tensor.to(device);
  return tensor.contiguous(tensor.suggest_memory_format())
      .pin_memory()
      .to(device, /*non_blocking=*/true);
}

void wait_for(c10::Device device) {
  if (device.is_cuda()) at::detail::getCUDAHooks().deviceSynchronize(device.index());
}

int number_of_gpus() {
  return at::globalContext().hasCUDA() ? at::detail::getCUDAHooks().getNumGPUs() : 0;
}

DefaultGeneratorGuard::DefaultGeneratorGuard()
    : state_(at::detail::getDefaultCPUGenerator().get_state()) {}

DefaultGeneratorGuard::~DefaultGeneratorGuard() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_state(state_);
}

std::optional<std::string> out_of_memory(std::string_view error) {
  if (error.find("can't allocate memory") == error.npos &&
      error.find("not enough memory") == error.npos && error.find("out of memory") == error.npos)
    return std::nullopt;
  // The CPU's allocator gives bytes, the GPU's a size such as "2.00 GiB".
  for (const std::string_view before : {"tried to allocate ", "Tried to allocate "}) {
    const auto begin = error.find(before);
    if (begin == error.npos) continue;
    error.remove_prefix(begin + before.size());
    std::int64_t bytes = 0;
    const auto end = std::from_chars(error.data(), error.data() + error.size(), bytes).ptr;
    if (!std::string_view(end, static_cast<std::size_t>(error.end() - end)).starts_with(" bytes"))
      return "LibTorch asked for " + std::string(error.substr(0, error.find(" (")));
    const bool large = bytes >= 1'000'000'000;
    return "LibTorch asked for " +
           base::fixed(static_cast<double>(bytes) / (large ? 1e9 : 1e6), 1) +
           (large ? " GB" : " MB");
  }
  return "LibTorch could not get the memory that it asked for";
}

TorchState TorchState::now() {
  TorchState state;
  for (const GlobalSetting& setting : kSettings) state.settings_.push_back(setting.get());
  for (const at::Generator& generator : default_generators())
    state.generators_.push_back(generator.get_state());
  state.locale_ = std::setlocale(LC_ALL, nullptr);
  return state;
}

std::vector<std::string> TorchState::differences(const TorchState& later) const {
  std::vector<std::string> names;
  const auto note = [&](bool differs, const char* name) {
    if (differs) names.emplace_back(name);
  };
  const auto& other = later.autograd_;
  note(autograd_.get_grad_mode() != other.get_grad_mode() ||
           autograd_.get_fw_grad_mode() != other.get_fw_grad_mode(),
       "gradient mode");
  note(autograd_.get_inference_mode() != other.get_inference_mode(), "inference mode");
  // Inference mode changes these too, and naming it is enough.
  note(autograd_.get_inference_mode() == other.get_inference_mode() &&
           !(dispatch_keys_.included_ == later.dispatch_keys_.included_ &&
             dispatch_keys_.excluded_ == later.dispatch_keys_.excluded_),
       "dispatch keys");
  for (std::size_t i = 0; i < settings_.size(); ++i)
    note(settings_[i] != later.settings_[i], kSettings[i].name);
  for (std::size_t i = 0; i < generators_.size(); ++i)
    note(!generators_[i].equal(later.generators_[i]),
         "global random numbers (draw from Context::generator() instead)");
  note(locale_ != later.locale_, "locale");
  return names;
}

void TorchState::restore() const {
  c10::AutogradState::set_tls_state(autograd_);
  c10::impl::_force_tls_local_dispatch_key_set(dispatch_keys_);
  for (std::size_t i = 0; i < settings_.size(); ++i)
    if (kSettings[i].get() != settings_[i]) kSettings[i].set(settings_[i]);
  auto generators = default_generators();
  for (std::size_t i = 0; i < generators_.size(); ++i)
    if (!generators[i].get_state().equal(generators_[i])) generators[i].set_state(generators_[i]);
  std::setlocale(LC_ALL, locale_.c_str());
}

const char* libtorch_version() {
  return TORCH_VERSION;
}

}  // namespace backstop::engine
