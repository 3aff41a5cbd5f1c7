// Work on a GPU that is started again with one call, instead of hundreds.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace backstop::engine {

/// Something that can keep what a function asks of a device, and ask for it again.
class Recorder {
 public:
  virtual ~Recorder() = default;
  /// Calls `work`, whose operations are kept and not done. They read and write the memory that they
  /// see now, ever after.
  virtual void record(const std::function<void()>& work) = 0;
  /// Does what was recorded.
  virtual void replay() = 0;
};

/// A CUDA graph. While it lives, this thread's work on `device` goes to a stream of its own; at its
/// end that is waited for. Null where `device` is no GPU, or LibTorch has no graphs in C++ that
/// name their mode of capture (it has from 2.3).
std::unique_ptr<Recorder> make_recorder(c10::Device device);

/// Work that is the same every time but for its inputs.
class RecordedWork {
 public:
  using Work = std::function<void(const std::vector<at::Tensor>& inputs)>;

  /// Without a recorder the work is called every time.
  RecordedWork(std::unique_ptr<Recorder> recorder, Work work)
      : recorder_(std::move(recorder)), work_(std::move(work)) {}

  /// Does the work with `inputs` (undefined ones stay so), which is called for the first few times,
  /// is recorded then, and called again only for inputs of other shapes. Whether it was called: if
  /// not, only the device knows that it was done.
  bool operator()(const std::vector<at::Tensor>& inputs);

 private:
  std::unique_ptr<Recorder> recorder_;
  Work work_;
  std::vector<at::Tensor> inputs_;  ///< what was recorded reads these
  int calls_ = 0;
  bool recorded_ = false;
};

}  // namespace backstop::engine
