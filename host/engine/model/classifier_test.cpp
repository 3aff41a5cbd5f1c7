#include "host/engine/model/classifier.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/schema/architectures.hpp"

namespace backstop::engine {
namespace {

Classifier make(const std::string& name, std::int64_t width = 4, bool bfloat16 = false,
                std::uint64_t seed = 1) {
  Architecture architecture;
  architecture.name = name;
  architecture.width = width;
  architecture.pixels = 16 * 16;
  at::Generator generator = make_generator(seed);
  Compute compute;
  compute.bfloat16 = bfloat16;
  return {architecture, Normalization{{0.5, 0.4, 0.3}, {0.2, 0.25, 0.3}}, compute, generator};
}

std::vector<std::string> names(const Classifier& model) {
  std::vector<std::string> result;
  for (const auto& item : model.state()) result.push_back(item.first);
  return result;
}

bool has(const Classifier& model, const std::string& name) {
  const auto all = names(model);
  return std::find(all.begin(), all.end(), name) != all.end();
}

Layer layer(Classifier& model, std::string_view name) {
  for (const Layer& l : model.layers())
    if (l.name == name) return l;
  throw std::out_of_range(std::string(name));
}

std::vector<std::string> architecture_names() {
  std::vector<std::string> names;
  for (const schema::ArchitectureInfo& info : schema::architectures())
    names.emplace_back(info.name);
  return names;
}

class EveryArchitecture : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Classifier, EveryArchitecture, testing::ValuesIn(architecture_names()),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(EveryArchitecture, InferenceAgreesWithLibTorchsKernels) {
  Classifier model = make(GetParam(), 16, true);
  at::Generator generator = make_generator(3);
  const at::NoGradGuard no_grad;
  for (const auto& item : model.state())  // statistics that have an effect
    if (item.first.find("running_var") != std::string::npos)
      item.second.uniform_(0.5, 2, generator);
  model.set_training(false);
  const at::Tensor images = at::rand({5, 3, 16, 16}, generator);
  const AutocastGuard precision(c10::kCPU, true);
  const at::Tensor own = model.features(images);
  use_own_kernels(false);
  const at::Tensor plain = model.features(images);
  use_own_kernels(true);
  EXPECT_LT((own - plain).norm().item<double>() / plain.norm().item<double>(), 2e-2);
  if (native_bfloat16() == "AMX" && GetParam().find("resnet") != std::string::npos) {
    EXPECT_FALSE(own.equal(plain));  // rounded less often
  }
}

TEST_P(EveryArchitecture, GivesLogitsFeaturesAndStages) {
  Classifier model = make(GetParam());
  const at::Tensor images = at::rand({5, 3, 16, 16});
  EXPECT_EQ(model.forward(images).sizes(), (std::vector<std::int64_t>{5, 10}));
  EXPECT_EQ(model.features(images).sizes(), (std::vector<std::int64_t>{5, model.feature_size()}));
  EXPECT_TRUE(model.classify(model.features(images)).equal(model.forward(images)));
  struct Sink final : ActivationSink {
    at::Tensor activation(std::string_view stage, const at::Tensor& map) override {
      seen.emplace_back(stage);
      channels.push_back(map.size(1));
      return map;
    }
    std::vector<std::string_view> seen;
    std::vector<std::int64_t> channels;
  } sink;
  EXPECT_TRUE(model.observe(images, sink).equal(model.forward(images)));
  EXPECT_EQ(sink.seen, std::vector<std::string_view>(model.stages().begin(), model.stages().end()));
  if (!sink.channels.empty()) {
    EXPECT_EQ(sink.channels.back(), model.feature_size());
  }
}

TEST_P(EveryArchitecture, GoesOnWithWhatReplacesAStage) {
  Classifier model = make(GetParam());
  if (model.stages().empty()) GTEST_SKIP() << "it has no stages";
  const at::Tensor images = at::rand({3, 3, 16, 16});
  struct Silence final : ActivationSink {
    explicit Silence(std::string_view stage) : stage(stage) {}
    at::Tensor activation(std::string_view at, const at::Tensor& map) override {
      return at == stage ? map * factor : map;
    }
    std::string_view stage;
    at::Tensor factor = at::zeros({1}).set_requires_grad(true);
  } silence(model.stages().back());
  const at::Tensor logits = model.observe(images, silence);
  const Layer head = model.layers().back();
  EXPECT_TRUE(logits.allclose(head.bias.expand_as(logits)));  // no feature is left
  logits.select(1, 0).sum().backward();
  EXPECT_NE(silence.factor.grad().item<float>(), 0);  // gradients pass through
}

TEST(Classifier, RefusesAReplacementOfAnotherShape) {
  Classifier model = make("small-cnn");
  struct Shrink final : ActivationSink {
    at::Tensor activation(std::string_view, const at::Tensor& map) override {
      return map.narrow(0, 0, 1);
    }
  } shrink;
  EXPECT_THROW(model.observe(at::rand({3, 3, 16, 16}), shrink), Error);
}

TEST(Classifier, TellsWhatPruningNeedsOfALayer) {
  Classifier model = make("resnet18");
  const Layer norm = layer(model, "bn1"), convolution = layer(model, "layer2.0.conv1"),
              one_by_one = layer(model, "layer2.0.downsample.0");
  EXPECT_EQ(norm.epsilon, 1e-5);
  EXPECT_EQ(convolution.stride, 2);
  EXPECT_EQ(convolution.padding, 1);
  EXPECT_EQ(convolution.groups, 1);
  EXPECT_EQ(convolution.dilation, 1);
  EXPECT_EQ(convolution.epsilon, 0);
  EXPECT_EQ(one_by_one.padding, 0);
  EXPECT_THROW(static_cast<void>(model.layers()[model.layers().size()]), Error);
}

TEST(Classifier, ComputesInFloat32WhileAScopeSaysSo) {
  Classifier model = make("small-cnn", 16, /*bfloat16=*/true), exact = make("small-cnn", 16);
  exact.copy_from(model);
  const at::Tensor images = at::rand({2, 3, 16, 16});
  const at::Tensor coarse = model.forward(images);
  {
    const PrecisionScope scope(model, Precision::float32);
    EXPECT_TRUE(model.forward(images).equal(exact.forward(images)));
    EXPECT_TRUE(Classifier(model).forward(images).equal(exact.forward(images)));
  }
  EXPECT_TRUE(model.forward(images).equal(coarse));
  EXPECT_FALSE(coarse.equal(exact.forward(images)));
}

TEST_P(EveryArchitecture, GivesGradientsOfImagesInPixelUnits) {
  Classifier model = make(GetParam());
  // Always the same image: a step that crosses a kink of a ReLU has another slope.
  at::Generator generator = make_generator(5);
  const at::Tensor images = at::rand({1, 3, 16, 16}, generator).set_requires_grad(true);
  model.forward(images).select(1, 0).sum().backward();
  const auto value = [&](double step) {
    const at::NoGradGuard no_grad;
    at::Tensor moved = images.detach().clone();
    moved[0][1][7][7] += step;
    return model.forward(moved)[0][0].item<double>();
  };
  const double numeric = (value(1e-3) - value(-1e-3)) / 2e-3;
  EXPECT_NEAR(images.grad()[0][1][7][7].item<double>(), numeric, 1e-3);
}

TEST_P(EveryArchitecture, CopiesAreIndependent) {
  Classifier model = make(GetParam());
  Classifier copy(model);
  const at::Tensor images = at::rand({2, 3, 16, 16});
  EXPECT_TRUE(copy.forward(images).equal(model.forward(images)));
  const at::Tensor before = model.forward(images);
  {
    const at::NoGradGuard no_grad;
    for (const Layer& l : copy.layers()) at::Tensor(l.weight).fill_(0);
  }
  EXPECT_TRUE(model.forward(images).equal(before));
}

TEST_P(EveryArchitecture, KeepsBfloat16FromStageToStage) {
  Classifier model = make(GetParam(), 16, /*bfloat16=*/true);
  struct Sink final : ActivationSink {
    at::Tensor activation(std::string_view, const at::Tensor& map) override {
      EXPECT_EQ(map.scalar_type(), at::kBFloat16);
      return map;
    }
  } sink;
  EXPECT_EQ(model.observe(at::rand({2, 3, 16, 16}), sink).scalar_type(), at::kFloat);
}

TEST(Classifier, HasTheNamesThatPyTorchUsersKnow) {
  const Classifier preact = make("preact-resnet18");
  for (const char* name : {"conv1.weight", "layer1.0.conv1.weight", "layer2.0.shortcut.0.weight",
                           "layer4.1.bn2.running_var", "linear.bias"})
    EXPECT_TRUE(has(preact, name)) << name;
  EXPECT_FALSE(has(preact, "layer1.0.shortcut.0.weight"));
  const Classifier resnet = make("resnet18");
  for (const char* name :
       {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.running_mean", "fc.weight"})
    EXPECT_TRUE(has(resnet, name)) << name;
}

TEST(Classifier, PreActResNet18HasThePublishedSize) {
  // BackdoorBench's PreActResNet18 (no last batch norm): 11.171 million parameters at width 64.
  std::int64_t count = 0;
  for (const at::Tensor& p : make("preact-resnet18", 64).trainable_parameters()) count += p.numel();
  EXPECT_EQ(count, 11'171'146);
}

TEST(Classifier, DrawsTheSameWeightsFromTheSameSeed) {
  const auto first = make("small-cnn", 4, false, 7).state(),
             again = make("small-cnn", 4, false, 7).state(),
             other = make("small-cnn", 4, false, 8).state();
  for (std::size_t i = 0; i < first.size(); ++i)
    EXPECT_TRUE(first[i].second.equal(again[i].second)) << first[i].first;
  EXPECT_FALSE(first[0].second.equal(other[0].second));
}

TEST_P(EveryArchitecture, DoesNotTouchTheGlobalGenerator) {
  const TorchState before = TorchState::now();
  Classifier model = make(GetParam());
  const Classifier copy = model;
  at::Generator generator = make_generator(1);
  model.replace_head(3, generator);
  EXPECT_EQ(before.differences(TorchState::now()), std::vector<std::string>{});
}

TEST(Classifier, NormalizesWithTheDatasetsStatistics) {
  Classifier model = make("small-cnn");
  const at::Tensor images = at::rand({3, 3, 16, 16});
  const at::Tensor mean = at::tensor({0.5, 0.4, 0.3}, at::kFloat).view({1, 3, 1, 1});
  const at::Tensor deviation = at::tensor({0.2, 0.25, 0.3}, at::kFloat).view({1, 3, 1, 1});
  EXPECT_TRUE(model
                  .forward_normalized(
                      ((images - mean) / deviation).contiguous(at::MemoryFormat::ChannelsLast))
                  .allclose(model.forward(images), 1e-5, 1e-6));
}

TEST(Classifier, FreezesPartsThatAreNotTrainable) {
  Classifier model = make("small-cnn");
  model.set_trainable(Part::head);
  EXPECT_EQ(model.trainable_parameters().size(), 2u);
  model.set_training(true);
  const at::Tensor mean = layer(model, "bn1").running_mean.clone();
  model.forward(at::rand({8, 3, 16, 16}));
  EXPECT_TRUE(layer(model, "bn1").running_mean.equal(mean)) << "a frozen body keeps its statistics";
  model.set_trainable(Part::none);
  EXPECT_TRUE(model.trainable_parameters().empty());
  model.set_trainable(Part::whole);
  model.forward(at::rand({8, 3, 16, 16}));
  EXPECT_FALSE(layer(model, "bn1").running_mean.equal(mean));
}

TEST(Classifier, FreezesBatchNorm) {
  Classifier model = make("small-cnn");
  model.set_batch_norm(BatchNormMode::frozen_statistics);
  model.set_training(true);
  const at::Tensor mean = layer(model, "bn1").running_mean.clone();
  model.forward(at::rand({8, 3, 16, 16}));
  EXPECT_TRUE(layer(model, "bn1").running_mean.equal(mean));
  EXPECT_TRUE(layer(model, "bn1").weight.requires_grad());
  model.set_batch_norm(BatchNormMode::frozen);
  EXPECT_FALSE(layer(model, "bn1").weight.requires_grad());
  EXPECT_TRUE(layer(model, "conv1").weight.requires_grad());
}

TEST(Classifier, ReplacesTheHead) {
  Classifier model = make("resnet18");
  at::Generator generator = make_generator(3);
  model.replace_head(7, generator);
  EXPECT_EQ(model.classes(), 7);
  EXPECT_EQ(model.forward(at::rand({2, 3, 16, 16})).size(1), 7);
  EXPECT_EQ(layer(model, "fc").weight.size(0), 7);
}

TEST(Classifier, ResetsOnlyThePartAskedFor) {
  Classifier model = make("small-cnn");
  const at::Tensor body = layer(model, "conv1").weight.detach().clone();
  const at::Tensor head = layer(model, "linear").weight.detach().clone();
  at::Generator generator = make_generator(3);
  model.reset(Part::head, generator);
  EXPECT_TRUE(layer(model, "conv1").weight.equal(body));
  EXPECT_FALSE(layer(model, "linear").weight.equal(head));
  model.reset(Part::body, generator);
  EXPECT_FALSE(layer(model, "conv1").weight.equal(body));
}

TEST(Classifier, HoldsMasksThroughReset) {
  Classifier model = make("small-cnn");
  at::Tensor keep = at::ones({4}, at::kBool);
  keep[2] = false;
  model.mask_channels("conv1", keep);
  EXPECT_EQ(layer(model, "conv1").weight[2].abs().sum().item<double>(), 0);
  EXPECT_NE(layer(model, "conv1").weight[1].abs().sum().item<double>(), 0);
  at::Generator generator = make_generator(3);
  model.reset(Part::whole, generator);
  EXPECT_EQ(layer(model, "conv1").weight[2].abs().sum().item<double>(), 0);
  model.mask_channels("conv1", keep.logical_not());  // what was silenced remains so
  EXPECT_FALSE(layer(model, "conv1").weight.ne(0).any().item<bool>());
  EXPECT_THROW(model.mask_channels("conv9", keep), Error);
  EXPECT_THROW(model.mask_channels("conv1", at::ones({5}, at::kBool)), Error);
}

using State = std::vector<std::pair<std::string, at::Tensor>>;

base::HostError refusal(Classifier& model, const State& state) {
  const State before = model.state();
  try {
    model.load_state(state, "suspect.pth");
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::environment);
    const State after = model.state();
    for (std::size_t i = 0; i < after.size(); ++i)
      EXPECT_TRUE(after[i].second.equal(before[i].second)) << "changed a model before it refused";
    return e;
  }
  ADD_FAILURE() << "accepted weights that do not fit";
  return {base::ExitCode::done, ""};
}

TEST(Classifier, NamesTheTensorsThatDoNotFit) {
  Classifier model = make("small-cnn");
  State state = model.state();
  state[0].second = at::zeros({1, 2});
  state.emplace_back("something.else", at::zeros({1}));
  const base::HostError e = refusal(model, state);
  EXPECT_STREQ(e.what(),
               "suspect.pth does not fit small-cnn, width 4, 10 classes:\n"
               "  conv1.weight is [1, 2], not [4, 3, 3, 3]\n"
               "  something is not part of the network");
  EXPECT_EQ(e.hint(), "the network was changed; export it as TorchScript");
}

TEST(Classifier, NamesAtMostFiveDifferences) {
  Classifier model = make("small-cnn");
  State state = model.state();
  for (int i = 0; i < 9; ++i) state.emplace_back("x" + std::to_string(i), at::zeros({1}));
  const std::string text = refusal(model, state).what();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 6) << text;
  EXPECT_TRUE(text.ends_with("  x4 is not part of the network\n  and 4 more")) << text;
}

TEST(Classifier, SaysThatTheClassesDiffer) {
  Classifier model = make("resnet18"), other = make("resnet18");
  at::Generator generator = make_generator(3);
  other.replace_head(200, generator);
  const base::HostError e = refusal(model, other.state());
  EXPECT_STREQ(e.what(), "suspect.pth has 200 classes, the images have 10");
  EXPECT_EQ(e.hint(), "use images of the model's own classes, in the model's order");
}

TEST(Classifier, SaysWhichNetworkTheFileHolds) {
  Classifier model = make("resnet18");
  EXPECT_EQ(refusal(model, make("resnet18-7x7").state()).hint(),
            "the file holds resnet18-7x7, width 4, 10 classes: set [model] architecture = "
            "\"resnet18-7x7\" and width = 4");
  EXPECT_EQ(refusal(model, make("resnet18", 8).state()).hint(),
            "the file holds resnet18, width 8, 10 classes: set [model] architecture = "
            "\"resnet18\" and width = 8");
  State changed = make("resnet34").state();
  changed[0].second = at::zeros({4, 3, 5, 5});
  EXPECT_EQ(refusal(model, changed).hint(), "the nearest is resnet34, but conv1 is 5x5, not 3x3");
  EXPECT_EQ(refusal(model, {{"class_token", at::zeros({1})}}).hint(),
            "no built-in network is like it; export the model as TorchScript");
}

TEST(Classifier, LoadsFilesWithoutCountersOfBatchesAndWithOthers) {
  Classifier model = make("small-cnn");
  State state = make("small-cnn", 4, false, 2).state();
  std::erase_if(state, [](const auto& item) { return item.first == "bn1.num_batches_tracked"; });
  for (auto& [name, tensor] : state)
    if (name == "bn2.num_batches_tracked") tensor = at::zeros({1}, at::kLong);
  state.emplace_back("elsewhere.num_batches_tracked", at::zeros({}, at::kLong));
  model.load_state(state, "suspect.pth");
  EXPECT_TRUE(model.state()[0].second.equal(state[0].second));
}

TEST(Classifier, CountsItsNumbersThatAreNotFinite) {
  Classifier model = make("small-cnn");
  EXPECT_EQ(model.not_finite(), 0);
  const at::NoGradGuard no_grad;
  at::Tensor(layer(model, "conv1").weight)[0][0][0].narrow(0, 0, 2).fill_(NAN);
  at::Tensor(layer(model, "bn2").running_var)[1].fill_(INFINITY);
  EXPECT_EQ(model.not_finite(), 3);
}

TEST(Classifier, IntegersAreNoWeights) {
  Classifier model = make("small-cnn");
  auto state = model.state();
  for (auto& [name, tensor] : state)
    if (name == "conv1.weight") tensor = tensor.to(at::kInt);
  try {
    model.load_state(state, "suspect");
    FAIL();
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::environment);
    EXPECT_NE(
        std::string(e.what()).find("\n  conv1.weight has type Int, not floating-point numbers"),
        std::string::npos)
        << e.what();
  }
  for (auto& [name, tensor] : state)  // what other programs write
    tensor = tensor.to(name == "conv1.weight" ? at::kHalf : tensor.scalar_type());
  EXPECT_NO_THROW(model.load_state(state, "suspect"));
}

}  // namespace
}  // namespace backstop::engine
