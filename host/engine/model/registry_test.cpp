#include "host/engine/model/registry.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "host/base/error.hpp"
#include "host/schema/architectures.hpp"

namespace backstop::engine {
namespace {

TEST(Registry, HasTheNamesThatRecipesCanUse) {
  std::vector<std::string> built, listed;
  for (const RegisteredNetwork& network : registered_networks()) built.emplace_back(network.name);
  for (const schema::ArchitectureInfo& info : schema::architectures())
    listed.emplace_back(info.name);
  EXPECT_EQ(built, listed);
}

TEST(Registry, BuildsNetworksThatOfferWhatTheListSays) {
  for (const schema::ArchitectureInfo& info : schema::architectures()) {
    const auto network = make_network({.name = std::string(info.name), .width = 4});
    const auto modules = network->modules(/*include_self=*/false);
    const bool has_batch_norm = std::any_of(modules.begin(), modules.end(), [](const auto& module) {
      return module->template as<torch::nn::BatchNorm2dImpl>() != nullptr;
    });
    EXPECT_EQ(has_batch_norm, info.batch_norm) << info.name;

    struct Counter final : ActivationSink {
      at::Tensor activation(std::string_view, const at::Tensor& map) override {
        if (map.dim() == 4) ++maps;
        return map;
      }
      std::size_t maps = 0;
    } counter;
    network->body(at::zeros({2, 3, 32, 32}), &counter);
    EXPECT_EQ(counter.maps, network->stages().size()) << info.name;
    EXPECT_EQ(counter.maps > 0, info.feature_maps) << info.name;

    EXPECT_EQ(!network->head().is_empty(), info.replaceable_head) << info.name;
    if (!info.replaceable_head) continue;
    network->replace_head(7);
    EXPECT_EQ(network->head()->weight.size(0), 7) << info.name;
    EXPECT_TRUE(network->named_modules().contains(network->head_name())) << info.name;
  }
}

TEST(Registry, RefusesAnUnknownName) {
  try {
    make_network({.name = "vgg16"});
    FAIL() << "built a network that does not exist";
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::usage);
    EXPECT_STREQ(e.what(), "unknown architecture `vgg16`");
    EXPECT_TRUE(e.hint().starts_with("choose one of preact-resnet18, resnet18, resnet34"))
        << e.hint();
    EXPECT_TRUE(e.hint().ends_with("small-cnn, mlp")) << e.hint();
  }
}

TEST(Registry, CountsTheParametersOfAnyWidth) {
  for (const RegisteredNetwork& network : registered_networks())
    for (const std::int64_t width : {1, 8, 20}) {
      Architecture architecture{std::string(network.name), width, 1, 7, 81};
      double made = 0;
      for (const at::Tensor& parameter : make_network(architecture)->parameters())
        made += static_cast<double>(parameter.numel());
      EXPECT_EQ(parameters_of(architecture), made) << network.name << " of width " << width;
    }
}

TEST(Registry, MakesNetworksOfThePublishedSizes) {
  const auto parameters = [](const char* name, std::int64_t classes) {
    return parameters_of({name, schema::find_architecture(name)->width, 3, classes, 1024});
  };
  EXPECT_EQ(parameters("resnet18-7x7", 1000), 11'689'512);  // torchvision's
  EXPECT_EQ(parameters("resnet34-7x7", 1000), 21'797'672);
  EXPECT_EQ(parameters("resnet50-7x7", 1000), 25'557'032);
  EXPECT_EQ(parameters("resnet20", 10), 269'722);  // akamaster/pytorch_resnet_cifar10
  EXPECT_EQ(parameters("resnet110", 10), 1'727'962);
  EXPECT_EQ(parameters("resnet56-b", 10), 855'770);          // chenyaofo/pytorch-cifar-models
  EXPECT_EQ(parameters("preact-resnet18", 10), 11'171'146);  // BackdoorBench's
}

}  // namespace
}  // namespace backstop::engine
