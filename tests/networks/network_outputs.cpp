// What a built-in network makes of weights and images from Python, for compare_with_torchvision.py.
// Usage: network_outputs WEIGHTS IMAGES OUTPUTS, all of them safetensors files. IMAGES has the
// tensor `images`, float32 [N, C, H, W], normalized; OUTPUTS gets `outputs`. Prints the network.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include "host/base/error.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/model/recognize.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/store/safetensors.hpp"

int main(int count, char** words) try {
  using namespace backstop::engine;
  if (count != 4) return 2;
  const NamedTensors weights = read_safetensors(words[1]).tensors;
  const at::Tensor images = read_safetensors(words[2]).tensors.at(0).second;
  const Recognition recognition = recognize(shapes_of(weights));
  fmt::print("{}\n", text_of(recognition));
  if (!recognition.network) return 1;
  at::Generator generator = make_generator(0);
  Classifier model(*recognition.network, {{0, 0, 0}, {1, 1, 1}}, {}, generator);
  model.load_state(weights, words[1]);
  model.set_training(false);
  const at::NoGradGuard no_grad;
  write_safetensors(words[3], {{"outputs", model.forward(images)}});
  return 0;
} catch (const backstop::base::HostError& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 1;
}
