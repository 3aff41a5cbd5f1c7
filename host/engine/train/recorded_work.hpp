// Work on a GPU that is repeated with one call instead of hundreds.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

namespace backstop::engine {

/// Records what a function asks of a device, to ask for it again.
class Recorder {
 public:
  virtual ~Recorder() = default;
  /// Calls `work`, whose operations are recorded instead of executed. From then on they read and
  /// write the memory that they see during this call.
  virtual void record(const std::function<void()>& work) = 0;
  /// Executes what was recorded.
  virtual void replay() = 0;
};

/// Work that is always the same except for its inputs.
class RecordedWork {
 public:
  using Work = std::function<void(const std::vector<at::Tensor>& inputs)>;

  /// If there is no recorder, the work is called every time.
  RecordedWork(std::unique_ptr<Recorder> recorder, Work work)
      : recorder_(std::move(recorder)), work_(std::move(work)) {}

  /// Does the work with `inputs` (undefined ones stay undefined). The work is called the first few
  /// times and then recorded; after that it is called only for inputs of other shapes, and replayed
  /// otherwise. Returns whether it was called: if not, only the device saw it happen.
  bool operator()(const std::vector<at::Tensor>& inputs);

 private:
  std::unique_ptr<Recorder> recorder_;
  Work work_;
  std::vector<at::Tensor> inputs_;  ///< read by what was recorded
  int calls_ = 0;
  bool recorded_ = false;
};

}  // namespace backstop::engine
