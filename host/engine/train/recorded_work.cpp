#include "host/engine/train/recorded_work.hpp"

#include <ATen/ATen.h>

namespace backstop::engine {

namespace {

bool same_shapes(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].defined() != b[i].defined()) return false;
    if (a[i].defined() && a[i].sizes() != b[i].sizes()) return false;
  }
  return true;
}

}  // namespace

bool RecordedWork::operator()(const std::vector<at::Tensor>& inputs) {
  // In the first calls cuDNN chooses its algorithms, libraries allocate memory and optimizers
  // create their buffers. None of that may happen in a recording.
  constexpr int kFirstCalls = 3;
  if (recorder_ == nullptr) {
    work_(inputs);
    return true;
  }
  if (inputs_.empty()) {
    for (const at::Tensor& input : inputs)
      inputs_.push_back(input.defined() ? input.clone() : input);
  }
  if (!same_shapes(inputs, inputs_) || calls_ < kFirstCalls) {
    calls_ += same_shapes(inputs, inputs_) ? 1 : 0;
    work_(inputs);
    return true;
  }
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs_[i].defined()) inputs_[i].copy_(inputs[i]);
  const bool calls_now = !recorded_;
  if (!recorded_) recorder_->record([&] { work_(inputs_); });
  recorded_ = true;
  recorder_->replay();
  return calls_now;
}

}  // namespace backstop::engine
