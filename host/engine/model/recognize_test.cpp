#include "host/engine/model/recognize.hpp"

#include <chrono>
#include <functional>
#include <limits>
#include <random>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/base/error.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/model/registry.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {
namespace {

using Shapes = std::vector<TensorShape>;
using State = std::vector<std::pair<std::string, at::Tensor>>;

Shapes shapes_in(const Network& network) {
  Shapes shapes;
  for (const auto& item : network.named_parameters())
    shapes.push_back({item.key(), item.value().sizes().vec()});
  for (const auto& item : network.named_buffers())
    shapes.push_back({item.key(), item.value().sizes().vec()});
  return shapes;
}

Shapes shapes_in(const Architecture& architecture) {
  return shapes_in(*make_network(architecture));
}

using Rename = std::function<std::string(std::string)>;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  if (const auto at = text.find(from); at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}

TensorShape& named(Shapes& shapes, const std::string& name) {
  for (TensorShape& tensor : shapes)
    if (tensor.name == name) return tensor;
  throw std::out_of_range(name);
}

void drop(Shapes& shapes, const std::string& prefix) {
  std::erase_if(shapes, [&](const TensorShape& t) { return t.name.starts_with(prefix); });
}

void add_norm(Shapes& shapes, const std::string& name, std::int64_t channels) {
  for (const char* part : {"weight", "bias", "running_mean", "running_var"})
    shapes.push_back({name + "." + part, {channels}});
  shapes.push_back({name + ".num_batches_tracked", {}});
}

std::vector<std::string> network_names() {
  std::vector<std::string> names;
  for (const RegisteredNetwork& network : registered_networks()) names.emplace_back(network.name);
  return names;
}

class EveryNetwork : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Recognize, EveryNetwork, testing::ValuesIn(network_names()),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(EveryNetwork, IsRecognizedFromItsOwnState) {
  for (const std::int64_t width : {1, 8, 16, 64}) {
    const auto network = make_network({GetParam(), width});
    for (const std::int64_t classes : {2, 10, 100}) {
      network->replace_head(classes);
      const Recognition found = recognize(shapes_in(*network));
      ASSERT_TRUE(found.network) << text_of(found);
      EXPECT_EQ(found.network->name, GetParam());
      EXPECT_EQ(found.network->width, width);
      EXPECT_EQ(found.network->channels, 3);
      EXPECT_EQ(found.network->classes, classes);
      EXPECT_EQ(found.network->pixels, 32 * 32);
      EXPECT_TRUE(found.names.empty());
      EXPECT_FALSE(found.nearest);
    }
  }
}

TEST_P(EveryNetwork, IsRecognizedForGreyImages) {
  const Recognition found = recognize(shapes_in({GetParam(), 8, 1, 10, 28 * 28}));
  ASSERT_TRUE(found.network) << text_of(found);
  EXPECT_EQ(found.network->channels, 1);
  if (GetParam() == "mlp") {
    EXPECT_EQ(found.network->pixels, 28 * 28);
  }
}

TEST_P(EveryNetwork, IsNotTakenForItWithOneTensorMoreOrLess) {
  const Shapes whole = shapes_in({GetParam(), 8});
  for (std::size_t i = 0; i < whole.size(); ++i) {
    Shapes less = whole;
    less.erase(less.begin() + static_cast<std::ptrdiff_t>(i));
    const Recognition found = recognize(less);
    if (is_batch_counter(whole[i].name)) {
      EXPECT_TRUE(found.network) << whole[i].name;
    } else {
      EXPECT_FALSE(found.network) << whole[i].name;
      ASSERT_TRUE(found.nearest) << whole[i].name;
      // Without its stem, nobody can tell which one it had.
      if (whole[i].name != "conv1.weight") {
        EXPECT_EQ(found.nearest->name, GetParam());
      }
      EXPECT_EQ(found.all_differences, 1u) << text_of(found);
    }
    if (i > 20) break;
  }
  Shapes more = whole;
  more.push_back({"mask.weight", {3}});
  const Recognition found = recognize(more);
  ASSERT_TRUE(found.nearest);
  EXPECT_THAT(found.differences, testing::ElementsAre("mask is not part of the network"));
  more.back().name = "elsewhere.num_batches_tracked";
  EXPECT_TRUE(recognize(more).network);
}

/// Loads `model`'s weights under the names that `rename` gives them, and expects its outputs.
void expect_equal_outputs(const std::string& architecture, const Rename& rename) {
  at::Generator generator = make_generator(1);
  const Architecture wanted{architecture, 4, 3, 7};
  const Normalization normalization{{0.5, 0.4, 0.3}, {0.2, 0.25, 0.3}};
  Classifier model(wanted, normalization, Compute{}, generator);
  Classifier other(wanted, normalization, Compute{}, generator);
  State state = model.state();
  for (auto& item : state) item.first = rename(item.first);
  const Recognition found = recognize(shapes_of(state));
  ASSERT_TRUE(found.network) << text_of(found);
  EXPECT_EQ(text_of(found), architecture + ", width 4, 7 classes");
  State back = state;
  for (auto& item : back)
    if (const auto name = found.names.find(item.first); name != found.names.end())
      item.first = name->second;
  const auto same = [&](const State& a, const State& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
      if (a[i].first != b[i].first) return false;
    return true;
  };
  EXPECT_TRUE(same(back, model.state()));
  other.load_state(state, "suspect");
  const at::Tensor images = at::rand({2, 3, 32, 32});
  EXPECT_TRUE(other.forward(images).equal(model.forward(images)));
}

TEST(Recognize, KnowsTheNamesOfKuangliu) {
  const Rename rename = [](std::string name) {
    return replaced(replaced(std::move(name), "downsample", "shortcut"), "fc.", "linear.");
  };
  expect_equal_outputs("resnet18", rename);
  expect_equal_outputs("resnet50", rename);
  expect_equal_outputs("preact-resnet18", rename);
}

TEST(Recognize, KnowsTorchvisionsNamesInNetworksForCifar) {
  expect_equal_outputs("resnet20-b", [](std::string name) {
    return replaced(replaced(std::move(name), "shortcut", "downsample"), "linear.", "fc.");
  });
  expect_equal_outputs(
      "resnet20", [](std::string name) { return replaced(std::move(name), "linear.", "fc."); });
}

TEST(Recognize, KnowsStemsAndBlocksThatAreSequences) {
  const Rename rename = [](std::string name) {
    if (name.starts_with("conv1.")) return "conv1.0." + name.substr(6);
    if (name.starts_with("bn1.")) return "conv1.1." + name.substr(4);
    if (!name.starts_with("layer")) return name;
    name = replaced(name, "downsample", "shortcut");
    const char* names[] = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"};
    const int places[] = {0, 1, 3, 4, 6, 7};
    for (int i = 0; i < 6; ++i)
      name = replaced(name, names[i], fmt::format("residual_function.{}", places[i]));
    return fmt::format("conv{}_x{}", name[5] - '0' + 1, name.substr(6));
  };
  expect_equal_outputs("resnet18", rename);
  expect_equal_outputs("resnet50", rename);
}

TEST(Recognize, KnowsHeadsOfManyNames) {
  for (const char* head : {"linear.", "classifier.", "head.", "last_linear.", "fc.1."})
    expect_equal_outputs("resnet18-7x7", [&](std::string name) {
      return name.starts_with("fc.") ? head + name.substr(3) : name;
    });
}

TEST(Recognize, SaysInWordsWhatDiffers) {
  const auto text_with = [](const std::string& network, const std::function<void(Shapes&)>& edit) {
    Shapes shapes = shapes_in({network, 8});
    edit(shapes);
    return text_of(recognize(shapes));
  };
  EXPECT_EQ(text_with("resnet18",
                      [](Shapes& s) {
                        named(s, "conv1.weight").shape = {8, 3, 5, 5};
                      }),
            "nearest is resnet18, but conv1 is 5x5, not 3x3");
  EXPECT_EQ(text_with("resnet18", [](Shapes& s) { drop(s, "layer4"); }),
            "nearest is resnet18, but layer4 is missing");
  EXPECT_EQ(text_with("resnet18", [](Shapes& s) { drop(s, "layer3.1"); }),
            "nearest is resnet18, but layer3 has 1 block, not 2");
  EXPECT_EQ(text_with("resnet18",
                      [](Shapes& s) {
                        named(s, "layer2.0.conv2.weight").shape = {12, 16, 3, 3};
                        named(s, "layer2.1.conv1.weight").shape = {16, 12, 3, 3};
                        named(s, "fc.weight").shape = {10, 65};
                        named(s, "layer3.0.bn1.weight").shape = {33};
                        named(s, "layer3.0.bn2.bias").shape = {33};
                        s.push_back({"layer4.0.conv1.bias", {64}});
                        drop(s, "fc.bias");
                      }),
            "nearest is resnet18, but layer2.0.conv2 has 12 channels, not 16; layer2.1.conv1 takes "
            "12 channels, not 16; layer3.0.bn1 has 33 channels, not 32; layer3.0.bn2.bias is [33], "
            "not [32]; layer4.0.conv1 has a bias; and 1 more difference");
  EXPECT_EQ(text_with("small-cnn", [](Shapes& s) { drop(s, "linear.bias"); }),
            "nearest is small-cnn, but linear has no bias");
  EXPECT_EQ(text_with("small-cnn",
                      [](Shapes& s) {
                        named(s, "conv1.weight").shape = {8, 4, 3, 3};
                      }),
            "nearest is small-cnn, but conv1 takes 4 channels, not 3");
  EXPECT_EQ(text_with("small-cnn",
                      [](Shapes& s) {
                        named(s, "conv1.weight").shape = {8, 4};
                      }),
            "nearest is small-cnn, but conv1.weight is [8, 4], not [8, 3, 3, 3]");
  EXPECT_EQ(text_with("mlp",
                      [](Shapes& s) {
                        named(s, "fc2.weight").shape = {64, 32};
                      }),
            "nearest is mlp, but fc2 has 32 inputs, not 64");
  EXPECT_EQ(text_with("preact-resnet18", [](Shapes& s) { add_norm(s, "bn", 64); }),
            "nearest is preact-resnet18, but bn is not part of the network");
  EXPECT_EQ(text_with("preact-resnet18", [](Shapes& s) { add_norm(s, "layer2.0.shortcut.1", 16); }),
            "nearest is preact-resnet18, but layer2.0.shortcut has 2 layers, not 1");
}

TEST(Recognize, TellsTheWidthOfAFileWithAnotherStem) {
  Shapes shapes = shapes_in({"resnet34", 16, 3, 43});
  drop(shapes, "conv1");
  const Recognition found = recognize(shapes);
  ASSERT_TRUE(found.nearest);
  EXPECT_EQ(text_of(*found.nearest), "resnet34, width 16, 43 classes");
  EXPECT_EQ(text_of(found), "nearest is resnet34, but conv1 is missing");
}

TEST(Recognize, ComparesADeeperNetworkWithTheNearest) {
  Shapes shapes = shapes_in({"resnet50-7x7", 8});
  const Shapes stage = shapes;
  for (int block = 6; block < 23; ++block)
    for (const TensorShape& tensor : stage)
      if (tensor.name.starts_with("layer3.5."))
        shapes.push_back({replaced(tensor.name, "3.5", fmt::format("3.{}", block)), tensor.shape});
  EXPECT_EQ(text_of(recognize(shapes)), "nearest is resnet50-7x7, but layer3 has 23 blocks, not 6");
}

TEST(Recognize, SaysThatOtherFamiliesAreLikeNoNetwork) {
  Shapes vgg, mobilenet, vit;
  for (const int i : {0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40}) {
    vgg.push_back({fmt::format("features.{}.weight", i), {64, 64, 3, 3}});
    vgg.push_back({fmt::format("features.{}.bias", i), {64}});
    add_norm(vgg, fmt::format("features.{}", i + 1), 64);
  }
  for (const int i : {0, 3, 6}) {
    vgg.push_back({fmt::format("classifier.{}.weight", i), {4096, 4096}});
    vgg.push_back({fmt::format("classifier.{}.bias", i), {4096}});
  }
  mobilenet.push_back({"features.0.0.weight", {32, 3, 3, 3}});
  add_norm(mobilenet, "features.0.1", 32);
  for (int block = 1; block < 18; ++block)
    for (const int i : {0, 1}) {
      mobilenet.push_back({fmt::format("features.{}.conv.{}.0.weight", block, i), {32, 1, 3, 3}});
      add_norm(mobilenet, fmt::format("features.{}.conv.{}.1", block, i), 32);
    }
  mobilenet.push_back({"classifier.1.weight", {10, 1280}});
  mobilenet.push_back({"classifier.1.bias", {10}});
  vit.push_back({"class_token", {1, 1, 768}});
  vit.push_back({"conv_proj.weight", {768, 3, 16, 16}});
  vit.push_back({"conv_proj.bias", {768}});
  for (int i = 0; i < 12; ++i)
    vit.push_back({fmt::format("encoder.layers.encoder_layer_{}.ln_1.weight", i), {768}});
  vit.push_back({"heads.head.weight", {1000, 768}});
  for (const Shapes& shapes : {vgg, mobilenet, vit, Shapes{}, Shapes{{"", {}}}}) {
    const Recognition found = recognize(shapes);
    EXPECT_FALSE(found.network);
    EXPECT_FALSE(found.nearest);
    EXPECT_EQ(text_of(found), "no built-in network is like it");
  }
}

TEST(Recognize, TakesNoNameForAnotherThatLooksLikeIt) {
  for (const char* name : {".conv1.weight", "conv1..weight", "conv1.weight.", "conv1.2.weight",
                           "Conv1.weight", "conv1.weight.0", "conv6_x.weight"}) {
    Shapes shapes = shapes_in({"resnet18", 8});
    named(shapes, "conv1.weight").name = name;
    EXPECT_FALSE(recognize(shapes).network) << name;
  }
}

TEST(Recognize, MakesNoNetworkOfHostileSizes) {
  for (const std::int64_t size :
       {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min(),
        std::int64_t{-1}, std::int64_t{0}, std::int64_t{1} << 40, std::int64_t{8200}}) {
    for (const std::string& name : network_names()) {
      Shapes shapes = shapes_in({name, 8});
      for (TensorShape& tensor : shapes)
        for (std::int64_t& side : tensor.shape)
          if (side == 8 || side == 10 || side == 3072) side = size;
      const Recognition found = recognize(shapes);
      // An mlp may have so many inputs and classes.
      EXPECT_EQ(found.network.has_value(), name == "mlp" && size == 8200) << name << " " << size;
      if (!found.nearest) continue;
      EXPECT_LE(found.nearest->width, 1024);
      EXPECT_GE(found.nearest->width, 1);
      EXPECT_LE(found.nearest->classes, 65536);
      EXPECT_GE(found.nearest->classes, 1);
      EXPECT_LE(found.nearest->pixels, 3 << 20);
      EXPECT_GE(found.nearest->pixels, 1);
    }
  }
}

TEST(Recognize, SurvivesWhateverNamesAndShapesThereAre) {
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  const std::vector<std::string> networks = network_names();
  const std::string letters("abc.0123_\0\xff\n ", 14);
  std::size_t recognized = 0;
  for (int round = 0; round < 500; ++round) {
    const Architecture made{networks[below(networks.size())], 2};
    Shapes shapes = shapes_in(made);
    std::size_t counters = 0;
    const std::size_t edits = below(6);
    for (std::size_t edit = 0; edit < edits; ++edit) {
      TensorShape& tensor = shapes[below(shapes.size())];
      const std::string before = tensor.name;
      switch (below(6)) {
        case 0:
          tensor.name.insert(below(tensor.name.size() + 1), 1, letters[below(14)]);
          break;
        case 1:
          if (!tensor.name.empty()) tensor.name.erase(below(tensor.name.size()), 3);
          break;
        case 2:
          tensor.name = shapes[below(shapes.size())].name;
          break;
        case 3:
          tensor.shape.assign(below(12), -static_cast<std::int64_t>(below(5)));
          break;
        case 4:
          tensor.name = std::string(below(3000), '.');
          break;
        default:
          std::swap(tensor.name, shapes[below(shapes.size())].name);
          break;
      }
      counters += is_batch_counter(before) ? 1U : 0U;
    }
    const Recognition found = recognize(shapes);
    EXPECT_FALSE(found.network && found.nearest);
    EXPECT_EQ(found.all_differences > 0, found.nearest.has_value());
    EXPECT_LE(found.differences.size(), kNamedDifferences);
    EXPECT_LE(text_of(found).size(), 2000u);
    if (edits == 0) {
      EXPECT_TRUE(found.network) << text_of(found);
    }
    recognized += found.network ? 1U : 0U;
  }
  EXPECT_LT(recognized, 400u);
}

TEST(Recognize, TakesTimeInProportion) {
  Shapes shapes = shapes_in({"resnet18", 8});
  for (int i = 0; i < 100'000; ++i)
    shapes.push_back({fmt::format("layer1.{}.conv1.{}.weight", i % 300, i), {1, 2, 3}});
  const auto start = std::chrono::steady_clock::now();
  const Recognition found = recognize(shapes);
  EXPECT_FALSE(found.network);
  const Differences differing = differences(shapes, shapes_in({"resnet18", 8}));
  EXPECT_GT(differing.all, 0u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

}  // namespace
}  // namespace backstop::engine
