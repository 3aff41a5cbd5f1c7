#include "host/engine/model/torchscript.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include <unistd.h>

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
#include "host/base/files.hpp"
#include "host/engine/formats/testing.hpp"
#include "host/engine/model/classifier.hpp"
#include "host/engine/model/registry.hpp"
#include "host/engine/model/torchscript_safety.hpp"
#include "host/engine/plugins/stage_context.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/store/model_file.hpp"
#include "host/engine/train/trainer.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;
namespace jit = torch::jit;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Its own folder is the current one, so that what a hostile script writes lands there.
class TorchScript : public ::testing::Test {
 protected:
  TorchScript() {
    fs::create_directories(folder_);
    fs::current_path(folder_);
  }
  ~TorchScript() override {
    fs::current_path(before_);
    fs::remove_all(folder_);
  }

  fs::path save(const jit::Module& module, const std::string& name = "model.pt") const {
    module.save((folder_ / name).string());
    return folder_ / name;
  }

  const fs::path before_ = fs::current_path();
  const fs::path folder_ =
      fs::path(::testing::TempDir()) / ("torchscript-" + std::to_string(getpid()));
};

at::Tensor drawn(at::IntArrayRef shape, std::uint64_t seed) {
  at::Generator generator = make_generator(seed);
  return at::randn(shape, generator) * 0.3;
}

jit::Module part(const std::string& kind) {
  return jit::Module("__torch__.parts." + kind);
}

jit::Module convolution(std::int64_t in, std::int64_t out, std::int64_t stride,
                        std::uint64_t seed) {
  jit::Module module("__torch__.parts.___torch_mangle_" + std::to_string(seed) + ".Conv2d");
  module.register_parameter("weight", drawn({out, in, 3, 3}, seed), false);
  module.define("def forward(self, x):\n  return torch.conv2d(x, self.weight, None, [" +
                std::to_string(stride) + ", " + std::to_string(stride) + "], [1, 1])\n");
  return module;
}

jit::Module batch_norm(std::int64_t channels, std::uint64_t seed) {
  jit::Module module("__torch__.parts.___torch_mangle_" + std::to_string(seed) + ".BatchNorm2d");
  module.register_parameter("weight", drawn({channels}, seed).abs() + 0.5, false);
  module.register_parameter("bias", drawn({channels}, seed + 1), false);
  module.register_buffer("running_mean", drawn({channels}, seed + 2));
  module.register_buffer("running_var", drawn({channels}, seed + 3).abs() + 0.5);
  module.register_buffer("num_batches_tracked", at::zeros({}, at::kLong));
  module.register_attribute("training", c10::BoolType::get(), true);
  module.define(
      "def forward(self, x):\n"
      "  if self.training:\n"
      "    self.num_batches_tracked = self.num_batches_tracked + 1\n"
      "  return torch.batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var,\n"
      "                          self.training, 0.1, 1e-05, False)\n");
  return module;
}

jit::Module linear(std::int64_t in, std::int64_t out, std::uint64_t seed) {
  jit::Module module = part("Linear");
  module.register_parameter("weight", drawn({out, in}, seed), false);
  module.register_parameter("bias", drawn({out}, seed + 1), false);
  module.define("def forward(self, x):\n  return torch.linear(x, self.weight, self.bias)\n");
  return module;
}

constexpr const char* kPlainForward = "def forward(self, x):\n  return self.scores(x)\n";

/// The layers of small-cnn of width 4 for five classes, under the same names. `forward` may call
/// `scores`.
jit::Module small_network(const std::string& forward = kPlainForward) {
  jit::Module module("__torch__.parts.SmallNetwork");
  module.register_attribute("training", c10::BoolType::get(), true);
  module.register_module("conv1", convolution(3, 4, 1, 10));
  module.register_module("bn1", batch_norm(4, 20));
  module.register_module("conv2", convolution(4, 8, 2, 30));
  module.register_module("bn2", batch_norm(8, 40));
  module.register_module("conv3", convolution(8, 16, 2, 50));
  module.register_module("bn3", batch_norm(16, 60));
  module.register_module("linear", linear(16, 5, 70));
  module.define(
      "def features(self, x):\n"
      "  x = torch.relu(self.bn1.forward(self.conv1.forward(x)))\n"
      "  x = torch.relu(self.bn2.forward(self.conv2.forward(x)))\n"
      "  x = torch.relu_(self.bn3.forward(self.conv3.forward(x)))\n"
      "  return torch.mean(x, [2, 3])\n"
      "def scores(self, x):\n"
      "  return self.linear.forward(self.features(x))\n" +
      forward);
  return module;
}

const Normalization kNormalization{{0.5, 0.4, 0.3}, {0.2, 0.25, 0.3}};

Architecture architecture_of(const fs::path& file, std::int64_t classes = 5) {
  return {"torchscript", 0, 3, classes, 16 * 16, load_script(file)};
}

Classifier model_of(const fs::path& file, bool bfloat16 = false) {
  const Architecture architecture = architecture_of(file);
  at::Generator generator = make_generator(1);
  Compute compute;
  compute.bfloat16 = bfloat16;
  Classifier model(architecture, kNormalization, compute, generator);
  model.load_state(state_of(*architecture.script), file);
  return model;
}

/// The same network of the engine's own kind.
Classifier own_model(const std::vector<std::pair<std::string, at::Tensor>>& state) {
  at::Generator generator = make_generator(2);
  Classifier model({"small-cnn", 4, 3, 5, 16 * 16}, kNormalization, {}, generator);
  model.load_state(state, "the script");
  return model;
}

at::Tensor some_images(std::int64_t n = 6) {
  at::Generator generator = make_generator(5);
  return at::rand({n, 3, 16, 16}, generator);
}

Layer layer(Classifier& model, std::string_view name) {
  for (const Layer& l : model.layers())
    if (l.name == name) return l;
  throw std::out_of_range(std::string(name));
}

template <typename Act>
base::HostError error_of(const Act& act) {
  try {
    act();
  } catch (const base::HostError& e) {
    return e;
  }
  return {base::ExitCode::done, "there was no error"};
}

using Records = std::map<std::string, std::string>;

Records records_of(const fs::path& file) {
  Records records;
  caffe2::serialize::PyTorchStreamReader reader(file.string());
  for (const std::string& name : reader.getAllRecords()) {
    const auto [data, size] = reader.getRecord(name);
    records[name].assign(static_cast<const char*>(data.get()), size);
  }
  return records;
}

void replace_in(std::string& text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  ASSERT_NE(at, text.npos) << text;
  text.replace(at, from.size(), to);
}

/// The archive with another text in its code, as somebody else's program could write it.
void edit(const fs::path& file, const std::string& entry, const std::string& from,
          const std::string& to, bool compress = false, std::uint64_t version = 0) {
  Records records = records_of(file);
  replace_in(records.at(entry), from, to);
  caffe2::serialize::PyTorchStreamWriter writer(file.string());
  writer.setMinVersion(version);
  for (const auto& [name, content] : records)
    if (name != "version") writer.writeRecord(name, content.data(), content.size(), compress);
  writer.writeEndOfFile();
}

constexpr const char* kCode = "code/__torch__/parts.py";
constexpr const char* kCall = "torch.mul(x, x)";

jit::Module harmless() {
  jit::Module module = part("Layer");
  module.define("def forward(self, x):\n  return torch.mul(x, x)\n");
  return module;
}

TEST_F(TorchScript, ComputesWhatTheSameNetworkComputes) {
  Classifier script = model_of(save(small_network()));
  Classifier own = own_model(script.state());
  const at::Tensor images = some_images();
  EXPECT_TRUE(script.forward(images).allclose(own.forward(images), 1e-4, 1e-5));
  EXPECT_TRUE(script.features(images).allclose(own.features(images), 1e-4, 1e-5));
  EXPECT_TRUE(script.classify(script.features(images)).equal(script.forward(images)));
  EXPECT_EQ(script.feature_size(), 16);
  // Not only in evaluation mode.
  script.set_training(true);
  own.set_training(true);
  EXPECT_TRUE(script.forward(images).allclose(own.forward(images), 1e-4, 1e-5));
  const auto a = script.state(), b = own.state();
  const std::map<std::string, at::Tensor> expected(b.begin(), b.end());
  for (const auto& [name, tensor] : a)
    EXPECT_TRUE(tensor.allclose(expected.at(name), 1e-4, 1e-5)) << name;
}

TEST_F(TorchScript, GivesTheGradientsOfTheSameNetwork) {
  Classifier script = model_of(save(small_network()));
  Classifier own = own_model(script.state());
  const at::Tensor labels = at::arange(6, at::kLong).remainder(5);
  at::Tensor images[2];
  Classifier* const models[2] = {&script, &own};
  for (std::size_t i = 0; i < 2; ++i) {
    images[i] = some_images().set_requires_grad(true);
    models[i]->set_training(true);
    at::cross_entropy_loss(models[i]->forward(images[i]), labels).backward();
  }
  EXPECT_GT(images[0].grad().abs().max().item<double>(), 0);
  EXPECT_TRUE(images[0].grad().allclose(images[1].grad(), 1e-3, 1e-5));
  for (const char* name : {"conv1", "bn2", "linear"})
    EXPECT_TRUE(
        layer(script, name).weight.grad().allclose(layer(own, name).weight.grad(), 1e-3, 1e-5))
        << name;
}

TEST_F(TorchScript, OffersItsLayersAndStages) {
  Classifier model = model_of(save(small_network()));
  std::vector<std::string_view> layers;
  for (const Layer& l : model.layers()) layers.push_back(l.name);
  EXPECT_THAT(layers, ElementsAre("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "linear"));
  EXPECT_EQ(layer(model, "bn1").kind, LayerKind::batch_norm);
  EXPECT_EQ(layer(model, "conv1").kind, LayerKind::convolution);
  EXPECT_THAT(std::vector<std::string_view>(model.stages().begin(), model.stages().end()),
              ElementsAre("conv1", "conv2", "conv3"));
  struct Sink final : ActivationSink {
    at::Tensor activation(std::string_view, const at::Tensor& map) override {
      channels.push_back(map.size(1));
      return map;
    }
    std::vector<std::int64_t> channels;
  } sink;
  const at::Tensor images = some_images();
  EXPECT_TRUE(model.observe(images, sink).equal(model.forward(images)));
  EXPECT_THAT(sink.channels, ElementsAre(4, 8, 16));
  struct Replacing final : ActivationSink {
    at::Tensor activation(std::string_view, const at::Tensor& map) override { return map * 2; }
  } replacing;
  EXPECT_THROW(model.observe(images, replacing), Error);  // a script's stages cannot be replaced
}

TEST_F(TorchScript, LooksForStagesInsideOfTheOnlyContainer) {
  jit::Module outer("__torch__.parts.Wrapper");
  outer.register_module("net", small_network());
  outer.define("def forward(self, x):\n  return self.net.forward(x)\n");
  Classifier model = model_of(save(outer));
  EXPECT_THAT(std::vector<std::string_view>(model.stages().begin(), model.stages().end()),
              ElementsAre("net.conv1", "net.conv2", "net.conv3"));
  at::Generator generator = make_generator(3);
  model.replace_head(7, generator);  // a layer of a submodule
  EXPECT_EQ(model.forward(some_images()).size(1), 7);
  EXPECT_EQ(layer(model, "net.linear").weight.size(0), 7);
}

TEST_F(TorchScript, FollowsTheModesOfBatchNormalization) {
  Classifier model = model_of(save(small_network()));
  const at::Tensor images = some_images();
  const at::Tensor before = layer(model, "bn1").running_mean.clone();
  const at::Tensor still = model.forward(images);
  EXPECT_TRUE(layer(model, "bn1").running_mean.equal(before));
  model.set_batch_norm(BatchNormMode::frozen_statistics);
  model.set_training(true);
  EXPECT_TRUE(model.forward(images).equal(still));
  EXPECT_TRUE(layer(model, "bn1").running_mean.equal(before));
  EXPECT_TRUE(layer(model, "bn1").weight.requires_grad());
  model.set_batch_norm(BatchNormMode::frozen);
  EXPECT_FALSE(layer(model, "bn1").weight.requires_grad());
  model.set_batch_norm(BatchNormMode::normal);
  EXPECT_FALSE(model.forward(images).equal(still));
  EXPECT_FALSE(layer(model, "bn1").running_mean.equal(before));
}

TEST_F(TorchScript, CopiesShareNothing) {
  Classifier model = model_of(save(small_network()));
  Classifier copy(model);
  const at::Tensor images = some_images();
  const at::Tensor before = model.forward(images);
  EXPECT_TRUE(copy.forward(images).equal(before));
  const at::NoGradGuard no_grad;
  for (const Layer& l : copy.layers()) at::Tensor(l.weight).fill_(0);
  EXPECT_FALSE(copy.forward(images).equal(before));
  EXPECT_TRUE(model.forward(images).equal(before));
}

TEST_F(TorchScript, ReplacesResetsAndTrainsTheHead) {
  Classifier model = model_of(save(small_network()));
  at::Generator generator = make_generator(3);
  const at::Tensor body = layer(model, "conv1").weight.detach().clone();
  model.set_trainable(Part::head);
  EXPECT_EQ(model.trainable_parameters().size(), 2u);
  const at::Tensor head = layer(model, "linear").weight.detach().clone();
  model.reset(Part::head, generator);
  EXPECT_FALSE(layer(model, "linear").weight.equal(head));
  EXPECT_TRUE(layer(model, "conv1").weight.equal(body));
  model.replace_head(7, generator);
  EXPECT_EQ(model.forward(some_images()).size(1), 7);
  Classifier copy(model);
  EXPECT_TRUE(copy.forward(some_images()).equal(model.forward(some_images())));
}

TEST_F(TorchScript, MasksSilenceTheirChannels) {
  Classifier model = model_of(save(small_network()));
  at::Tensor keep = at::ones({4}, at::kBool);
  keep[2] = false;
  const at::Tensor before = model.forward(some_images());
  model.mask_channels("conv1", keep);
  EXPECT_EQ(layer(model, "conv1").weight[2].abs().sum().item<double>(), 0);
  EXPECT_FALSE(model.forward(some_images()).equal(before));
}

TEST_F(TorchScript, LeavesASoftmaxOut) {
  const at::Tensor plain = model_of(save(small_network())).forward(some_images());
  for (const char* kind : {"softmax", "log_softmax"}) {
    Classifier model = model_of(save(small_network(
        fmt::format("def forward(self, x):\n  return torch.{}(self.scores(x), 1)\n", kind))));
    EXPECT_TRUE(model.forward(some_images()).equal(plain)) << kind;
    EXPECT_EQ(model.feature_size(), 16) << kind;
  }
}

TEST_F(TorchScript, TakesTheLogarithmOfProbabilitiesThatItCannotUndo) {
  const at::Tensor plain = model_of(save(small_network())).forward(some_images());
  Classifier model =
      model_of(save(small_network("def forward(self, x):\n  p = torch.exp(self.scores(x))\n  "
                                  "return p / torch.sum(p, [1], True)\n")));
  EXPECT_TRUE(model.forward(some_images()).allclose(plain.log_softmax(1), 1e-4, 1e-5));
}

TEST_F(TorchScript, SaysWhatANetworkWithoutALinearEndCannotOffer) {
  const fs::path file =
      save(small_network("def forward(self, x):\n  return torch.mul(self.scores(x), 3.0)\n"));
  Classifier model = model_of(file);
  Classifier plain = model_of(save(small_network(), "plain.pt"));
  EXPECT_TRUE(model.forward(some_images()).allclose(plain.forward(some_images()) * 3));
  EXPECT_EQ(model.feature_size(), 0);
  at::Generator generator = make_generator(1);
  EXPECT_THROW(model.features(some_images()), Error);
  EXPECT_THROW(model.classify(at::zeros({1, 16})), Error);
  EXPECT_THROW(model.set_trainable(Part::head), Error);
  EXPECT_THROW(model.reset(Part::head, generator), Error);
  try {
    model.replace_head(3, generator);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "the network does not end in a linear layer, so it has no head to replace");
  }
  const base::HostError error = error_of([&] {
    make_network({"torchscript", 0, 3, 10, 256, load_script(file)});
  });
  EXPECT_EQ(error.code(), base::ExitCode::usage);
  EXPECT_THAT(error.what(), HasSubstr("model.pt has 5 classes, the images have 10"));
}

/// A head whose output is changed in place is no head.
TEST_F(TorchScript, SeesWhatHappensToTheScoresInPlace) {
  Classifier model = model_of(save(small_network(
      "def forward(self, x):\n  y = self.scores(x)\n  torch.mul_(y, 3.0)\n  return y\n")));
  Classifier plain = model_of(save(small_network(), "plain.pt"));
  EXPECT_EQ(model.feature_size(), 0);
  EXPECT_TRUE(model.forward(some_images()).allclose(plain.forward(some_images()) * 3));
}

TEST_F(TorchScript, DoesNotChangeItsInput) {
  Classifier model = model_of(save(
      small_network("def forward(self, x):\n  torch.mul_(x, 2.0)\n  return self.scores(x)\n")));
  const at::Tensor images = some_images();
  const at::Tensor normalized = model.normalize(images);
  const at::Tensor before = normalized.clone();
  model.forward_normalized(normalized);
  EXPECT_TRUE(normalized.equal(before));
}

TEST_F(TorchScript, DrawsDropoutFromNumbersOfItsOwn) {
  const fs::path file = save(small_network(
      "def forward(self, x):\n  return torch.dropout(self.scores(x), 0.5, self.training)\n"));
  Classifier first = model_of(file), again = model_of(file);
  first.set_training(true);
  again.set_training(true);
  const TorchState before = TorchState::now();
  const at::Tensor one = first.forward(some_images()), two = first.forward(some_images());
  EXPECT_EQ(before.differences(TorchState::now()), std::vector<std::string>{});
  EXPECT_FALSE(one.equal(two));
  at::rand({3});  // what others draw does not matter
  EXPECT_TRUE(again.forward(some_images()).equal(one));
  EXPECT_TRUE(again.forward(some_images()).equal(two));
}

TEST_F(TorchScript, RunsInBfloat16) {
  const fs::path file = save(small_network());
  const at::Tensor exact = model_of(file).forward(some_images());
  const at::Tensor rounded = model_of(file, true).forward(some_images());
  EXPECT_EQ(rounded.scalar_type(), at::kFloat);
  EXPECT_FALSE(rounded.equal(exact));
  EXPECT_LT((rounded - exact).norm().item<double>() / exact.norm().item<double>(), 5e-2);
}

TEST_F(TorchScript, LearnsInTheTrainer) {
  struct Constant final : Scheduler {
    double rate(const TrainingPosition&) const override { return 0.05; }
  } const scheduler;
  at::Generator generator = make_generator(3);
  const at::Tensor labels = at::arange(60, at::kLong).remainder(5);
  const at::Tensor images =
      at::randint(0, 50, {60, 3, 16, 16}, generator, at::kLong) + labels.view({60, 1, 1, 1}) * 40;
  const ImageStore data(images.to(at::kByte), labels, 5, c10::kCPU);
  const fs::path file = save(small_network());
  std::vector<std::pair<std::string, at::Tensor>> results[2];
  for (auto& result : results) {
    StageContext context({"defense", "test"}, 0, {}, {1, true}, nullptr, nullptr);
    Classifier model = model_of(file);
    context.set_model(model.architecture(), kNormalization);
    const auto loss = [&] {
      return at::cross_entropy_loss(context.trainer().logits(model, data), labels).item<double>();
    };
    const double before = loss();
    TrainingOptions options;
    options.scheduler = &scheduler;
    options.epochs = 6;
    options.batch_size = 20;
    context.trainer().fit(model, data, options);
    EXPECT_LT(loss(), 0.8 * before);
    result = model.state();
  }
  for (std::size_t i = 0; i < results[0].size(); ++i)
    EXPECT_TRUE(results[0][i].second.equal(results[1][i].second)) << results[0][i].first;
}

TEST_F(TorchScript, ATriggerCanBeSearchedForByGradients) {
  Classifier model = model_of(save(small_network()));
  const at::Tensor images = some_images();
  at::Tensor pattern = at::full({1, 3, 16, 16}, 0.5).set_requires_grad(true);
  const at::Tensor target = at::zeros({6}, at::kLong);
  const auto loss = [&] {
    return at::cross_entropy_loss(model.forward(images * 0.5 + pattern * 0.5), target);
  };
  const double before = loss().item<double>();
  for (int step = 0; step < 10; ++step) {
    const at::Tensor now = loss();
    now.backward();
    const at::NoGradGuard no_grad;
    pattern.sub_(pattern.grad().sign(), 0.02);
    pattern.mutable_grad().zero_();
  }
  EXPECT_LT(loss().item<double>(), before);
}

TEST_F(TorchScript, IsWrittenBackWithOtherWeightsAndTypes) {
  jit::Module module = small_network();
  jit::Module layer1 = module.attr("linear").toModule();
  layer1.setattr("weight", layer1.attr("weight").toTensor().to(at::kDouble));
  layer1.setattr("bias", layer1.attr("bias").toTensor().to(at::kDouble));
  module.save("double.pt", {{"labels.txt", "cat dog"}});
  Classifier model = model_of("double.pt");
  at::Generator generator = make_generator(3);
  model.reset(Part::whole, generator);
  write_like("double.pt", "changed.pt", model.state());
  jit::ExtraFilesMap extra{{"labels.txt", ""}};
  const jit::Module back = jit::load("changed.pt", c10::nullopt, extra);
  EXPECT_EQ(extra["labels.txt"], "cat dog");
  EXPECT_EQ(back.attr("linear").toModule().attr("weight").toTensor().scalar_type(), at::kDouble);
  EXPECT_TRUE(model_of("changed.pt").forward(some_images()).equal(model.forward(some_images())));
}

TEST_F(TorchScript, DescribesItself) {
  const ScriptFacts facts = describe_script(load_script(save(small_network())));
  EXPECT_EQ(facts.classes, 5);
  EXPECT_EQ(facts.channels, 3);
  EXPECT_EQ(facts.side, 32);
  EXPECT_TRUE(facts.has_head && facts.batch_norm && facts.feature_maps);
  EXPECT_TRUE(facts.training_mode_can_change);
  EXPECT_EQ(facts.parameters, 3 * 4 * 9 + 4 * 8 * 9 + 8 * 16 * 9 + 2 * (4 + 8 + 16) + 16 * 5 + 5);
  EXPECT_EQ(facts.dtype, "float32");
  EXPECT_TRUE(facts.notes.empty()) << facts.notes[0];
  const ScriptFacts other = describe_script(load_script(
      save(small_network("def forward(self, x):\n  return torch.mul(torch.dropout(self.scores(x), "
                         "0.5, False), 3.0)\n"))));
  EXPECT_FALSE(other.has_head);
  EXPECT_THAT(other.notes, ElementsAre(HasSubstr("does not end in a linear layer"),
                                       HasSubstr("its dropout was switched off")));
}

TEST_F(TorchScript, IsPartOfTheKeyOfAStage) {
  // inputs_test.cpp changes every other member.
  const auto script = load_script(save(small_network()));
  EXPECT_EQ(sha256_of(*script).size(), 64u);
  EXPECT_NE(sha256_of(*script),
            sha256_of(*load_script(save(small_network("def forward(self, x):\n  return "
                                                      "self.features(x)\n"),
                                        "other.pt"))));
}

TEST_F(TorchScript, RefusesImagesThatItCannotTake) {
  jit::Module module("__torch__.parts.Flat");
  module.register_module("linear", linear(3 * 8 * 8, 5, 3));
  module.define("def forward(self, x):\n  return self.linear.forward(torch.flatten(x, 1))\n");
  const fs::path file = save(module);
  const base::HostError error = error_of([&] { model_of(file); });
  EXPECT_EQ(error.code(), base::ExitCode::usage);
  EXPECT_THAT(error.what(),
              HasSubstr("model.pt does not take images of 16 x 16 pixels in 3 channels: mat1 and "
                        "mat2 shapes cannot be multiplied"));
}

TEST_F(TorchScript, SaysWhyANetworkDoesNotRunAtAll) {
  const ScriptFacts facts = describe_script(load_script(save(
      small_network("def forward(self, x):\n  return torch.reshape(self.scores(x), [1, 7])\n"))));
  EXPECT_FALSE(facts.classes || facts.side);
  EXPECT_THAT(
      facts.notes,
      ElementsAre(HasSubstr("it does not run on square images of 28 to 384 pixels: shape")));
}

TEST_F(TorchScript, RefusesCodeThatUnpacksToTooMuch) {
  const fs::path file = save(harmless(), "bomb.pt");
  edit(file, kCode, kCall, "x" + std::string(80 << 20, ' '), /*compress=*/true);
  ASSERT_LT(fs::file_size(file), 1u << 20);
  EXPECT_THAT(error_of([&] { load_script(file); }).what(),
              HasSubstr("bomb.pt: the code of the network takes more than 64 MiB"));
}

TEST_F(TorchScript, RefusesOtherSignatures) {
  const std::pair<const char*, const char*> kCases[] = {
      {"def other(self, x):\n  return x\n", "has no method forward, so it is no network"},
      {"def forward(self, n: int):\n  return n\n",
       "has a forward whose first argument is not a tensor of images"},
      {"def forward(self, x, y):\n  return x + y\n",
       "has a forward that needs `y` besides the images"},
  };
  for (const auto& [source, message] : kCases) {
    jit::Module module("__torch__.parts.Odd");
    module.define(source);
    const base::HostError error = error_of([&] { load_script(save(module)); });
    EXPECT_EQ(error.code(), base::ExitCode::environment);
    EXPECT_THAT(error.what(), HasSubstr(message));
  }
}

// What a hostile file does not do. In each of them the call would write the file "written", or map
// one, if it ran; all that lies in the folder afterwards is the archive itself.

struct Hostile {
  const char* name;
  const char* source;  ///< methods of a submodule and of the network, which calls it
  const char* operation;
};

class HostileScript : public TorchScript, public ::testing::WithParamInterface<Hostile> {};

constexpr const char* kSave = "aten::save";
constexpr const char* kFromFile = "aten::from_file";

INSTANTIATE_TEST_SUITE_P(
    TorchScript, HostileScript,
    ::testing::Values(
        Hostile{"InForward", "def forward(self, x):\n  torch.save(x, 'written')\n  return x\n",
                kSave},
        Hostile{"MapsAFile",
                "def forward(self, x):\n"
                "  return torch.from_file('written', True, 100, dtype=None, layout=None, "
                "device=None, pin_memory=False)\n",
                kFromFile},
        Hostile{"InAMethodThatForwardCalls",
                "def helper(self, x):\n  torch.save(x, 'written')\n  return x\n"
                "def forward(self, x):\n  return self.helper(x)\n",
                kSave},
        Hostile{"InAMethodThatNobodyCalls",
                "def helper(self, x):\n  torch.save(x, 'written')\n  return x\n"
                "def forward(self, x):\n  return x\n",
                kSave},
        Hostile{"InABranchThatIsNeverTaken",
                "def forward(self, x):\n  if x.dim() > 100:\n    torch.save(x, 'written')\n  "
                "return x\n",
                kSave},
        Hostile{
            "InALoop",
            "def forward(self, x):\n  for i in range(3):\n    torch.save(x, 'written')\n  return "
            "x\n",
            kSave},
        Hostile{"ChangesTheSeed", "def forward(self, x):\n  torch.manual_seed(1)\n  return x\n",
                "aten::manual_seed"},
        Hostile{"ChangesGradientMode",
                "def forward(self, x):\n  torch.set_grad_enabled(False)\n  return x\n",
                "aten::set_grad_enabled"},
        Hostile{"TakesForeignMemory",
                "def forward(self, x):\n  return torch.as_strided(x, [100, 100], [1, 1])\n",
                "aten::as_strided"},
        Hostile{"SharesStorage", "def forward(self, x):\n  return x.set_(x)\n", "aten::set_"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_P(HostileScript, DoesNothing) {
  jit::Module hostile("__torch__.parts.Layer");
  hostile.define(GetParam().source);
  jit::Module nested("__torch__.parts.Network");
  nested.register_module("layer", hostile);
  nested.define("def forward(self, x):\n  return self.layer.forward(x)\n");
  for (const jit::Module& module : {hostile, nested}) {
    const fs::path file = save(module, "hostile.pt");
    const base::HostError error = error_of([&] { load_script(file); });
    EXPECT_EQ(error.code(), base::ExitCode::environment);
    EXPECT_THAT(error.what(), HasSubstr("hostile.pt calls "));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().operation));
    EXPECT_THAT(error.what(),
                HasSubstr("which is not among the operators that a classifier needs"));
    // The second look, at the graphs of what is loaded, finds it too.
    const base::HostError second = error_of([&] { check_graphs(jit::load(file.string()), "it"); });
    EXPECT_THAT(second.what(), HasSubstr(GetParam().operation));
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
  }
}

struct Edited {
  const char* name;
  const char* from;
  const char* to;
  const char* message;
};

class EditedScript : public TorchScript, public ::testing::WithParamInterface<Edited> {};

INSTANTIATE_TEST_SUITE_P(
    TorchScript, EditedScript,
    ::testing::Values(
        Edited{"SetState", "  def forward",
               "  def __setstate__(self, state: Tensor) -> NoneType:\n"
               "    torch.save(1, \"written\")\n    return None\n"
               "  def __getstate__(self) -> Tensor:\n    return torch.zeros([1])\n  def forward",
               "has a method __setstate__, which would run while the file is loaded"},
        Edited{"DefaultValue", "x: Tensor)",
               "x: Tensor, y: Tensor=torch.from_file(\"written\", True, 10))",
               "calls aten::from_file in forward"},
        Edited{"Function", "class Layer",
               "def helper(x: Tensor) -> Tensor:\n  torch.save(x, \"written\")\n  return x\n"
               "class Layer",
               "calls aten::save in helper"},
        Edited{"Operator", kCall, "ops.image.write_file(\"written\", x)",
               "calls image::write_file in forward"},
        Edited{"OperatorOfAten", kCall, "ops.aten.save(x, \"written\")",
               "calls aten::save in forward"},
        Edited{"Autograd", kCall, "torch.autograd.save(x, \"written\")",
               "calls aten::autograd in forward"},
        Edited{"AttributeByName", kCall, "getattr(x, \"sa\\166e\")(\"written\")",
               "calls aten::save in forward"},
        Edited{"OfAValue", kCall, "(torch.mul(x, x)).save(\"written\")",
               "calls aten::save in forward"},
        Edited{"ByAnotherName", kCall, "getattr(ops, \"image\")", "hands `ops` on in forward"},
        Edited{"Fork", kCall, "fork(self.forward, x)", "calls fork in forward"},
        Edited{"Python", kCall, "^Evil(1)(x)", "calls the Python function Evil in forward"},
        Edited{"ForeignClass", kCall,
               "__torch__.torch.classes.quantized.LinearPackedParamsBase.__new__(x)",
               "uses the class"},
        Edited{"ForeignClassByTorch", kCall, "torch.classes.a.B(x)", "calls torch.classes in"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_P(EditedScript, DoesNothing) {
  const fs::path file = save(harmless(), "hostile.pt");
  ASSERT_NO_THROW(load_script(file));
  edit(file, kCode, GetParam().from, GetParam().to);
  const base::HostError error = error_of([&] { load_script(file); });
  EXPECT_EQ(error.code(), base::ExitCode::environment);
  EXPECT_THAT(error.what(), HasSubstr("hostile.pt "));
  EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

/// That there is something to protect from.
TEST_F(TorchScript, LibTorchItselfRunsWhatAnArchiveHoldsWhileItLoads) {
  const fs::path file = save(harmless(), "hostile.pt");
  edit(file, kCode, "x: Tensor)", "x: Tensor, y: Tensor=torch.from_file(\"written\", True, 10))");
  try {
    jit::load(file.string());
  } catch (const std::exception&) {  // it does not matter how this ends
  }
  EXPECT_TRUE(fs::exists("written"));
}

TEST_F(TorchScript, ConstructsNoForeignClass) {
  const fs::path file = save(harmless(), "hostile.pt");
  edit(file, "data.pkl", "__torch__.parts\nLayer\n", "os\nsystem\n");
  EXPECT_THAT(error_of([&] { load_script(file); }).what(),
              HasSubstr("holds an object of the class os.system, which a network does not need"));
  const fs::path other = save(harmless(), "other.pt");
  edit(other, "data.pkl", "__torch__.parts\nLayer\n",
       "__torch__.torch.classes.quantized\nLinearPackedParamsBase\n");
  EXPECT_THAT(error_of([&] { load_script(other); }).what(),
              HasSubstr("__torch__.torch.classes.quantized.LinearPackedParamsBase"));
}

TEST_F(TorchScript, FindsHarmlessNamesHarmless) {
  // Strings and submodules may be called like operators; only calls count.
  jit::Module module("__torch__.parts.Words");
  module.register_attribute("text", c10::StringType::get(), std::string("torch.save"));
  module.register_module("linear", linear(3 * 16 * 16, 5, 3));
  module.define(
      "def forward(self, x):\n"
      "  assert x.dim() == 4, 'torch.save(x) needs four dimensions'\n"
      "  print(self.text)\n"
      "  return self.linear.forward(torch.flatten(x, 1))\n");
  const fs::path file = save(module);
  ::testing::internal::CaptureStdout();
  Classifier model = model_of(file);
  EXPECT_EQ(model.forward(some_images()).size(1), 5);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
}

TEST_F(TorchScript, RefusesProgramsThatGrowWithoutBound) {
  jit::Module module = part("Layer");
  std::string source = "def f0(self, x):\n  return x * 2\n";
  for (int i = 1; i < 40; ++i)
    source += fmt::format("def f{0}(self, x):\n  return self.f{1}(self.f{1}(x))\n", i, i - 1);
  module.define(source + "def forward(self, x):\n  return self.f39(x)\n");
  EXPECT_THAT(error_of([&] { load_script(save(module)); }).what(),
              HasSubstr("is a program of more than 1000000 steps"));
}

TEST_F(TorchScript, AllowsWhatNetworksUse) {
  for (const char* kind : {"aten::conv2d", "aten::relu_", "aten::batch_norm", "prim::If",
                           "aten::layer_norm", "prim::GetAttr"})
    EXPECT_TRUE(is_allowed(kind)) << kind;
  for (const char* kind :
       {"aten::save", "aten::from_file", "aten::set_", "aten::as_strided", "aten::resize_",
        "aten::native_batch_norm", "aten::native_group_norm", "aten::_tensor_to_list",
        "aten::upsample_bilinear2d", "prim::PythonOp", "prim::fork", "prim::rpc_async",
        "image::read_file", "c10d::send", "save", "aten::", ""})
    EXPECT_FALSE(is_allowed(kind)) << kind;
}

TEST_F(TorchScript, RefusesDamagedArchives) {
  const fs::path file = save(small_network());
  const std::string whole = base::read_file(file);
  std::size_t refused = 0;
  for (std::size_t i = 0; i < 40; ++i) {
    base::write_file("cut.pt", std::string_view(whole).substr(0, whole.size() * i / 40));
    const base::HostError error = error_of([&] { load_script("cut.pt"); });
    EXPECT_EQ(error.code(), base::ExitCode::environment) << i;
    EXPECT_THAT(error.what(), HasSubstr("cut.pt")) << i;
  }
  at::Generator generator = make_generator(8);
  for (int i = 0; i < 150; ++i) {
    std::string changed = whole;
    const at::Tensor at = at::randint(static_cast<std::int64_t>(whole.size()), {4}, generator);
    for (int k = 0; k < 4; ++k)
      changed[static_cast<std::size_t>(at[k].item<std::int64_t>())] = static_cast<char>(i + k);
    base::write_file("changed.pt", changed);
    const base::HostError error = error_of([&] { load_script("changed.pt"); });
    if (error.code() == base::ExitCode::done) continue;  // only a number has changed
    ++refused;
    EXPECT_EQ(error.code(), base::ExitCode::environment) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("changed.pt"));
  }
  EXPECT_GT(refused, 0u);
}

TEST_F(TorchScript, RefusesDamagedPickles) {
  const fs::path file = save(harmless(), "whole.pt");
  for (const char* to : {"", "R", "b", "e", "h\x7f", "c__torch__", "\xff"}) {
    fs::copy_file(file, "changed.pt", fs::copy_options::overwrite_existing);
    edit("changed.pt", "data.pkl", "c__torch__.parts\nLayer\n", to);
    EXPECT_EQ(error_of([&] { load_script("changed.pt"); }).code(), base::ExitCode::environment)
        << to;
  }
}

TEST_F(TorchScript, SaysThatAnArchiveIsNewer) {
  const fs::path file = save(harmless(), "newer.pt");
  edit(file, kCode, kCall, kCall, false, 99);
  const base::HostError error = error_of([&] { load_script(file); });
  EXPECT_EQ(error.code(), base::ExitCode::environment);
  EXPECT_THAT(error.what(), HasSubstr("newer.pt was written by a newer PyTorch"));
}

/// A class that writes a file while it is loaded.
constexpr const char* kWriter =
    "class Writer(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
    "  def __setstate__(self, state: Tuple[bool]) -> NoneType:\n"
    "    _0 = torch.save([torch.ones([3])], \"written\")\n    return None\n"
    "  def __getstate__(self) -> Tuple[bool]:\n    return (False,)\n";

/// An attribute `hidden` of that class, which lies in `module`.
Records with_writer(const std::string& module) {
  jit::Module network = part("Layer");
  network.register_attribute("hidden", c10::BoolType::get(), true);
  network.define("def forward(self, x):\n  return torch.mul(x, x)\n");
  network.save("template.pt");
  Records records = records_of("template.pt");
  fs::remove("template.pt");
  replace_in(records.at(kCode), "hidden : bool", "hidden : " + module + ".Writer");
  // The value is the last of the pickle but for its memo: "\x88" is true.
  std::string& pickle = records.at("data.pkl");
  const std::size_t value = pickle.rfind('\x88');
  EXPECT_NE(value, pickle.npos);
  pickle.replace(value, 1, "c" + module + "\nWriter\n)\x81\x89\x85" + "b");
  std::string entry = "code/" + module + ".py";
  std::replace(entry.begin(), entry.end() - 3, '.', '/');
  records[entry] = kWriter;
  return records;
}

/// The archive as somebody else's program could write it, with all entries in the folder `root`.
void write_archive(const fs::path& file, const Records& records, const std::string& root = "m") {
  std::vector<testing::Entry> entries;
  for (const auto& [name, content] : records) entries.push_back({root + "/" + name, content});
  base::write_file(file, testing::zip(entries));
}

TEST_F(TorchScript, FindsSourcesWithLongNames) {
  const Records plain = with_writer("__torch__.hidden");
  write_archive("plain.pt", plain);
  write_archive("root.pt", plain, std::string(502, 'R'));
  write_archive("long.pt", with_writer("__torch__." + std::string(600, 'A')));
  const std::pair<const char*, const char*> kCases[] = {
      {"plain.pt", "has a method __setstate__"},
      {"root.pt", "has an entry with too long a name: code/__t"},
      {"long.pt", "has an entry with too long a name: code/__torch__/AAAA"}};
  for (const auto& tested : kCases) {
    const std::string file = tested.first;
    EXPECT_THAT(error_of([&] { load_script(file); }).what(), HasSubstr(tested.second));
    EXPECT_FALSE(fs::exists("written")) << file;
    jit::load(file);  // runs it
    EXPECT_TRUE(fs::remove("written")) << file;
  }
}

/// harmless() with an attribute `weight` of three numbers that forward uses, as records.
Records with_weight() {
  jit::Module module = part("Layer");
  module.register_buffer("weight", at::ones({3}));
  module.define("def forward(self, x):\n  return torch.mul(x, self.weight)\n");
  module.save("template.pt");
  Records records = records_of("template.pt");
  fs::remove("template.pt");
  return records;
}

TEST_F(TorchScript, RefusesTensorsBeyondTheirStorage) {
  const std::string kNumbers =
                        "K\x03"
                        "tQ",
                    kSizes = "(K\x03t", kStrides = "(K\x01t";
  const std::string kMany("J\0\0\0\1", 5);
  const std::pair<std::string, std::string> kCases[] = {
      {kNumbers, kMany + "tQ"},                           // the entry has fewer than the storage
      {kSizes + kStrides, "(" + kMany + "t" + kStrides},  // the storage has fewer than the tensor
      {kSizes + kStrides, kSizes + "(K\x02t"},
      {"(K\x03t(K\x01t", "(J\xff\xff\xff\xfft(K\x01t"},
  };
  for (const auto& tested : kCases) {
    Records records = with_weight();
    write_archive("whole.pt", records);
    ASSERT_NO_THROW(load_script("whole.pt"));
    replace_in(records.at("data.pkl"), tested.first, tested.second);
    write_archive("beyond.pt", records);
    EXPECT_THAT(error_of([&] { load_script("beyond.pt"); }).what(),
                HasSubstr("beyond.pt holds a tensor that reaches beyond its storage"));
  }
}

TEST_F(TorchScript, RefusesValuesOfOtherTypesThanDeclared) {
  const std::pair<std::string, std::string> kCases[] = {
      {"__torch__.parts.Large", "c__torch__.parts\nSmall\n)\x81}b"},
      {"Tensor", "K\x01"},
      {"List[int]", "](K\x01Ne"},
      {"Tuple[int, int]", "K\x01\x85"},
      {"Dict[str, int]", std::string("}(X\1\0\0\0yNu", 10)},
  };
  for (const auto& tested : kCases) {
    jit::Module network = part("Layer");
    network.register_attribute("other", c10::BoolType::get(), true);
    network.define("def forward(self, x):\n  return torch.mul(x, x)\n");
    network.save("template.pt");
    Records records = records_of("template.pt");
    std::string& code = records.at(kCode);
    replace_in(code, "other : bool", "other : " + tested.first);
    code =
        "class Small(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        "class Large(Module):\n  __parameters__ = []\n  __buffers__ = []\n  a : Tensor\n" +
        code;
    std::string& pickle = records.at("data.pkl");
    pickle.replace(pickle.rfind('\x88'), 1, tested.second);
    write_archive("confused.pt", records);
    EXPECT_THAT(error_of([&] { load_script("confused.pt"); }).what(),
                HasSubstr("confused.pt holds something else where its code has a "))
        << tested.first;
  }
}

TEST_F(TorchScript, RefusesDeeplyNestedValues) {
  Records records = with_weight();
  std::string& constants = records.at("constants.pkl");
  const std::string whole = constants;
  for (const std::string& nested :
       {std::string("N") + std::string(200, '\x85'), "N" + std::string(2'000'000, '\x85')}) {
    constants = "\x80\x02" + nested + ".";
    write_archive("nested.pt", records);
    EXPECT_THAT(error_of([&] { load_script("nested.pt"); }).what(),
                HasSubstr("nested.pt holds values nested more than 100 deep"));
  }
  // A list that is filled while another holds it.
  constants = "\x80\x02]q" + std::string(1, '\0') + "\x85h" + std::string(1, '\0') + "Na0.";
  write_archive("filled.pt", records);
  EXPECT_THAT(error_of([&] { load_script("filled.pt"); }).what(), HasSubstr("damaged"));
  constants = whole;
  write_archive("whole.pt", records);
  EXPECT_NO_THROW(load_script("whole.pt"));
}

/// Which LibTorch's reader would crash on when it formats the error that running this gives.
TEST_F(TorchScript, DoesNotReadWhereItsCodeCameFrom) {
  Records records = with_weight();
  replace_in(records.at(kCode), "torch.mul(x,", "torch.matmul(torch.zeros([7]),");
  records[std::string(kCode) + ".debug_pkl"] = "\x80\x02RRRRRRRRRR.";
  write_archive("debug.pt", records);
  const ScriptFacts facts = describe_script(load_script("debug.pt"));
  EXPECT_THAT(facts.notes, ElementsAre(HasSubstr("it does not run on square images")));
  records[std::string(kCode) + ".Debug_pkl"] = "\x80\x02RRRRRRRRRR.";
  records.erase(std::string(kCode) + ".debug_pkl");
  write_archive("debug.pt", records);
  EXPECT_THAT(error_of([&] { load_script("debug.pt"); }).what(),
              HasSubstr("debug.pt has an entry with an odd name: code/__torch__/parts.py.Debug"));
}

TEST_F(TorchScript, RefusesToTakeOneObjectForAnother) {
  Records records = with_weight();
  std::string& code = records.at(kCode);
  replace_in(code, "    return ",
             "    y = __torch__.parts.Small.__new__(__torch__.parts.Small)\n"
             "    z = unchecked_cast(__torch__.parts.Large, y)\n"
             "    return ");
  replace_in(code, ", weight)", ", z.a)");
  code = "class Small:\n  a : Tensor\nclass Large:\n  a : Tensor\n" + code;
  write_archive("cast.pt", records);
  EXPECT_THAT(error_of([&] { load_script("cast.pt"); }).what(),
              HasSubstr("cast.pt takes a __torch__.parts.Small for a __torch__.parts.Large in"));
}

TEST_F(TorchScript, RefusesCodeThatOverflowsTheParser) {
  const std::size_t kMany = 20'000;
  std::string sum = "x";
  for (std::size_t i = 0; i < kMany; ++i) sum += "+x";
  const std::pair<std::string, const char*> kCases[] = {
      {std::string(kMany, '(') + "x" + std::string(kMany, ')'),
       "has code nested more than 200 deep"},
      {std::string(kMany, '[') + "x" + std::string(kMany, ']'),
       "has code nested more than 200 deep"},
      {sum, "has a statement of more than 5000 words"},
      {std::string(kMany, '-') + "x", "has a statement of more than 5000 words"}};
  for (const auto& tested : kCases) {
    const fs::path file = save(harmless(), "deep.pt");
    edit(file, kCode, kCall, tested.first);
    EXPECT_THAT(error_of([&] { load_script(file); }).what(), HasSubstr(tested.second));
  }
}

TEST_F(TorchScript, RefusesTheFormBeforeTypes) {
  Records records = with_weight();
  records["version"] = "2\n";
  write_archive("old.pt", records);
  EXPECT_THAT(error_of([&] { load_script("old.pt"); }).what(),
              HasSubstr("old.pt was written before PyTorch 1.5, in a form that is not read"));
}

TEST_F(TorchScript, RefusesLongChainsOfCalls) {
  jit::Module module = part("Layer");
  std::string source = "def f0(self, x):\n  return x * 2\n";
  for (int i = 1; i < 1100; ++i)
    source += fmt::format("def f{}(self, x):\n  return self.f{}(x)\n", i, i - 1);
  module.define(source + "def forward(self, x):\n  return self.f1099(x)\n");
  EXPECT_THAT(error_of([&] { load_script(save(module)); }).what(),
              HasSubstr("calls more than 1000 deep"));
}

/// Python's own archives and outputs, where python3-torch is installed.
TEST_F(TorchScript, AgreesWithPythonToTheImage) {
  base::write_file("make.py", R"py(
import torch, torchvision
torch.manual_seed(0)
x = torch.rand(8, 3, 64, 64)
for name in ["resnet18", "mobilenet_v2"]:
    net = getattr(torchvision.models, name)(num_classes=10)
    net.train()
    with torch.no_grad():
        net(x)  # statistics that have an effect
    net.eval()
    torch.jit.script(net).save(name + "-script.pt")
    torch.jit.trace(net, x[:1]).save(name + "-trace.pt")
    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.x, self.y = x, net(x).detach()
    torch.jit.script(Outputs()).save(name + "-outputs.pt")
)py");
  if (std::system("/usr/bin/python3 make.py > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "/usr/bin/python3 has no torch and torchvision";
  for (const std::string name : {"resnet18", "mobilenet_v2"})
    for (const std::string kind : {"script", "trace"}) {
      const jit::Module expected = jit::load(name + "-outputs.pt");
      const at::Tensor x = expected.attr("x").toTensor(), y = expected.attr("y").toTensor();
      const auto script = load_script(name + "-" + kind + ".pt");
      at::Generator generator = make_generator(1);
      Classifier model({"torchscript", 0, 3, 10, 64 * 64, script}, {}, {}, generator);
      model.load_state(state_of(*script), name);
      const at::Tensor found = model.forward_normalized(x).detach();
      EXPECT_TRUE(found.allclose(y, 1e-4, 1e-5)) << name << " " << kind;
      EXPECT_TRUE(found.argmax(1).equal(y.argmax(1))) << name << " " << kind;
      EXPECT_EQ(model.feature_size(), name == "resnet18" ? 512 : 1280);
      EXPECT_FALSE(model.stages().empty());
      const ScriptFacts facts = describe_script(script);
      EXPECT_TRUE(facts.has_head && facts.batch_norm && facts.training_mode_can_change);
      // A trace follows the modes of batch normalization as well.
      model.set_training(true);
      const at::Tensor trained = model.forward_normalized(x).detach();
      EXPECT_FALSE(trained.allclose(y, 1e-2, 1e-2)) << name << " " << kind;
      model.set_batch_norm(BatchNormMode::frozen_statistics);
      EXPECT_FALSE(model.forward_normalized(x).allclose(trained, 1e-2, 1e-2)) << name;
    }
}

}  // namespace
}  // namespace backstop::engine
