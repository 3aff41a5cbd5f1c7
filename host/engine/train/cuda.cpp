#include "host/engine/train/cuda.hpp"

#include <torch/version.h>

#if defined(BACKSTOP_CUDA)
#include <ATen/cuda/CUDAContext.h>
#endif

namespace backstop::engine {

bool gpu_has_bfloat16([[maybe_unused]] c10::Device device) {
#if defined(BACKSTOP_CUDA)
  return device.is_cuda() && at::cuda::getDeviceProperties(device.index())->major >= 8;
#else
  return false;
#endif
}

}  // namespace backstop::engine

#if defined(BACKSTOP_CUDA) && \
    (TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3))

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include "backstop/error.hpp"

namespace backstop::engine {

namespace {

class CudaGraph final : public Recorder {
 public:
  explicit CudaGraph(c10::Device device) : stream_(prepared_stream(device)), guard_(stream_) {}
  ~CudaGraph() override {
    // Work that is still running reads memory that is about to be freed. If it failed, the error is
    // reported again when the device is next used.
    static_cast<void>(cudaStreamSynchronize(stream_.stream()));
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void record(const std::function<void()>& work) override {
    graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (const std::exception& e) {
      try {
        graph_.capture_end();  // the stream works again afterwards
      } catch (const c10::Error&) {
        // `e` has the better message
      }
      throw Error(
          std::string("the training step could not be recorded as a CUDA graph: ") + e.what(),
          "set compute.kernels = \"libtorch\" to train without one");
    }
    graph_.capture_end();
  }

  void replay() override { graph_.replay(); }

 private:
  /// A new stream, once all work that was started on the current one is done.
  static c10::cuda::CUDAStream prepared_stream(c10::Device device) {
    const c10::cuda::CUDAGuard guard(device);
    c10::cuda::getCurrentCUDAStream(device.index()).synchronize();
    return c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index());
  }

  c10::cuda::CUDAStream stream_;
  c10::cuda::CUDAStreamGuard guard_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace

std::unique_ptr<Recorder> make_recorder(c10::Device device) {
  if (!device.is_cuda()) return nullptr;
  return std::make_unique<CudaGraph>(device);
}

}  // namespace backstop::engine

#else

namespace backstop::engine {

std::unique_ptr<Recorder> make_recorder(c10::Device) {
  return nullptr;
}

}  // namespace backstop::engine

#endif
