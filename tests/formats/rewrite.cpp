// rewrite IN OUT: reads a model's file and writes one like it, in which each floating-point weight w
// has become w / 2 + 1. Says what it has read, in lines of a key and a value.
#include <cstdio>
#include <iostream>

#include <ATen/ATen.h>

#include "host/base/error.hpp"
#include "host/engine/store/model_file.hpp"

int main(int argc, char** argv) {
  using namespace backstop;
  if (argc != 3) return 2;
  try {
    engine::ModelFile model = engine::read_model_file(argv[1]);
    std::cout << "format " << engine::to_string(model.format) << "\nlocation " << model.location
              << "\nprefix " << model.prefix << '\n';
    for (const std::string& words : model.rest) std::cout << "rest " << words << '\n';
    engine::NamedTensors changed;
    for (const auto& [name, tensor] : model.weights) {
      std::cout << "tensor " << name << '\n';
      if (tensor.is_floating_point())
        changed.emplace_back(name, tensor.to(at::kFloat).div(2).add(1));
    }
    engine::write_like(argv[1], argv[2], changed);
  } catch (const base::HostError& e) {
    std::cerr << "error: " << e.what() << "\nhint: " << e.hint() << '\n';
    return static_cast<int>(e.code());
  }
  return 0;
}
