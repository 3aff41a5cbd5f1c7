#include "host/engine/formats/checkpoint.hpp"

#include <random>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "host/engine/formats/model_source.hpp"
#include "host/engine/formats/recognize.hpp"
#include "host/engine/formats/testing.hpp"

namespace backstop::engine {
namespace {

namespace fs = std::filesystem;
using namespace testing;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Two tensors in one storage of four floats each, with names as a model has them.
std::string state_dict(const std::string& prefix = "") {
  return dictionary({{prefix + "fc.weight", tensor({"0", {2, 2}, {2, 1}, 0, 4})},
                     {prefix + "fc.bias", tensor({"1", {2}, {1}, 0, 2})}});
}
const std::vector<std::pair<std::string, std::string>> kStorages = {{"0", floats({1, 2, 3, 4})},
                                                                    {"1", floats({5, 6})}};

class Checkpoints : public ::testing::Test {
 protected:
  [[nodiscard]] ModelHeader header(const std::string& bytes) const {
    return read_model_header(folder_.write("model.pt", bytes));
  }
  [[nodiscard]] ModelHeader of(const std::string& value) const {
    return header(checkpoint(value, kStorages));
  }
  [[nodiscard]] std::string why(const std::string& bytes) const {
    return problem([&] { static_cast<void>(header(bytes)); });
  }
  /// A state dict with this one tensor, in a storage of four floats.
  [[nodiscard]] std::string why(const Tensor& t) const {
    return why(checkpoint(dictionary({{"w", tensor(t)}}), {{"0", floats({1, 2, 3, 4})}}));
  }
  static std::vector<std::string> names(const ModelHeader& header) {
    std::vector<std::string> all;
    for (const StoredTensor& t : header.tensors) all.push_back(t.name);
    return all;
  }

  Folder folder_;
};

TEST_F(Checkpoints, AreReadInAllForms) {
  for (const std::string& bytes :
       {checkpoint(state_dict(), kStorages), checkpoint(state_dict(), kStorages, true),
        legacy(state_dict(), kStorages)}) {
    const ModelSource source(folder_.write("model.pt", bytes));
    const ModelHeader& read = source.header();
    EXPECT_THAT(names(read), ElementsAre("fc.weight", "fc.bias"));
    EXPECT_THAT(read.tensors[0].shape, ElementsAre(2, 2));
    EXPECT_THAT(read.tensors[0].strides, ElementsAre(2, 1));
    EXPECT_EQ(source.bytes(read.tensors[0].storage), floats({1, 2, 3, 4}));
    EXPECT_EQ(source.bytes(read.tensors[1].storage), floats({5, 6}));
    EXPECT_EQ(read.location + read.prefix, "");
    EXPECT_THAT(read.rest, IsEmpty());
  }
  EXPECT_EQ(header(checkpoint(state_dict(), kStorages)).format, FileFormat::checkpoint);
  EXPECT_EQ(header(legacy(state_dict(), kStorages)).format, FileFormat::legacy_checkpoint);
}

TEST_F(Checkpoints, OfTheOlderFormHaveViewsOfStorages) {
  const std::string value = dictionary(
      {{"w", call("torch._utils", "_rebuild_tensor_v2",
                  {tuple({text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"),
                          integer(4), tuple({text("0v"), integer(1), integer(3)})}) +
                       "Q",
                   integer(1), integers({2}), integers({1})})}});
  EXPECT_EQ(header(legacy(value, {{"0", floats({1, 2, 3, 4})}})).tensors[0].offset, 2U);
}

TEST_F(Checkpoints, AreLookedIntoForTheStateDict) {
  const Entries others = {{"epoch", integer(200)},
                          {"best_prec1", real(91.78000183105469)},
                          {"arch", text("resnet20")},
                          {"img_size", integers({32, 32, 3})},
                          {"args", object("argparse", "Namespace", {{"lr", real(0.1)}})},
                          {"optimizer", dictionary({{"state", "}"}, {"param_groups", "]"}})}};
  for (const std::string key : {"state_dict", "model", "net", "model_state_dict", "my_weights"}) {
    Entries all = others;
    all.insert(all.begin() + 2, {key, state_dict()});
    const ModelHeader read = of(dictionary(all));
    EXPECT_EQ(read.location, key);
    EXPECT_EQ(read.tensors.size(), 2U);
    EXPECT_THAT(read.rest, ElementsAre("epoch = 200", "best_prec1 = 91.78", "arch = \"resnet20\"",
                                       "img_size = (32, 32, 3)",
                                       "args (object of argparse.Namespace, skipped)",
                                       "optimizer (dictionary of 2 entries, skipped)"));
  }
}

TEST_F(Checkpoints, MayHaveSeveralStateDicts) {
  const std::string other = dictionary({{"w", tensor({"1", {2}, {1}, 0, 2})}});
  ModelHeader read = of(dictionary({{"ema", other}, {"state_dict", state_dict()}}));
  EXPECT_EQ(read.location, "state_dict");
  EXPECT_THAT(read.rest, ElementsAre("ema (another state dict, skipped)"));
  read = of(dictionary({{"teacher", other}, {"student", state_dict()}}));
  EXPECT_EQ(read.location, "teacher");
  read = of(dictionary({{"model", dictionary({{"state_dict", state_dict()}})}}));
  EXPECT_EQ(read.location, "model.state_dict");
  read = of(tuple({state_dict(), integer(7)}));
  EXPECT_EQ(read.location, "0");
  EXPECT_THAT(read.rest, ElementsAre("1 = 7"));
}

TEST_F(Checkpoints, MayHoldMoreThanIsSaid) {
  Entries all = {{"state_dict", state_dict()}};
  for (int i = 0; i < 50; ++i) all.emplace_back(std::to_string(i), integer(i));
  const ModelHeader read = of(dictionary(all));
  ASSERT_EQ(read.rest.size(), 41U);
  EXPECT_EQ(read.rest.back(), "and 10 more");
}

TEST_F(Checkpoints, OfAnOptimizerAloneHoldNoModel) {
  const std::string state = "}" + integer(0) + dictionary({{"momentum_buffer", tensor({})}}) + "s";
  EXPECT_THAT(
      why(checkpoint(
          dictionary({{"optimizer", dictionary({{"state", state}})}, {"epoch", integer(1)}}),
          kStorages)),
      HasSubstr("it holds no state dict, a dictionary of names and tensors, but a dictionary "
                "with `optimizer`, `epoch`"));
}

TEST_F(Checkpoints, LosePrefixesThatAllNamesHave) {
  for (const std::string prefix : {"module.", "_orig_mod.", "model.", "net.", "backbone.",
                                   "module.model.", "_orig_mod.module."}) {
    const ModelHeader read = of(state_dict(prefix));
    EXPECT_EQ(read.prefix, prefix);
    EXPECT_THAT(names(read), ElementsAre("fc.weight", "fc.bias"));
  }
  const ModelHeader read = of(dictionary({{"module.w", tensor({})}, {"w", tensor({})}}));
  EXPECT_EQ(read.prefix, "");
}

TEST_F(Checkpoints, OfBackdoorBenchRecordTheirModel) {
  const ModelHeader read = of(dictionary({{"model_name", text("preactresnet18")},
                                          {"num_classes", integer(10)},
                                          {"model", state_dict()},
                                          {"img_size", integers({32, 32, 3})},
                                          {"bd_train", dictionary({{"bd_data_container", "}"}})}}));
  EXPECT_EQ(read.facts.architecture, "preact-resnet18");
  EXPECT_EQ(read.facts.classes, 10);
  EXPECT_EQ(read.facts.channels, 3);
  EXPECT_THAT(read.rest, ::testing::Contains("bd_train (dictionary of 1 entry, skipped)"));
}

TEST_F(Checkpoints, MayRecordANormalization) {
  const auto constants = [](double value) {
    return tuple({real(value), real(value), real(value)});
  };
  const auto normalization = [&](const std::string& mean, const std::string& std) {
    return of(dictionary({{"state_dict", state_dict()}, {"mean", mean}, {"std", std}}))
        .facts.normalization;
  };
  ASSERT_TRUE(normalization(constants(0.5), constants(0.25)));
  EXPECT_EQ(normalization(constants(0.5), constants(0.25))->deviation[2], 0.25);
  EXPECT_FALSE(normalization(constants(0.5), constants(0)));
  EXPECT_FALSE(normalization(constants(0.5), text("0.25")));
}

TEST_F(Checkpoints, OfAWholeModuleAreRefusedWithTheWayOut) {
  const std::string module =
      object("torchvision.models.resnet", "ResNet", {{"_modules", "}"}, {"_parameters", "}"}});
  EXPECT_THAT(why(checkpoint(module, {})),
              EndsWith("it holds a whole module of class `torchvision.models.resnet.ResNet`, which "
                       "is Python code and not only weights"));
  EXPECT_THAT(why(legacy(dictionary({{"net", module}}), {})),
              HasSubstr("`net` is a whole module of class"));
  try {
    static_cast<void>(header(checkpoint(module, {})));
  } catch (const base::HostError& e) {
    EXPECT_THAT(e.hint(), HasSubstr("torch.save(model.state_dict(), \"model.pt\")"));
  }
}

TEST_F(Checkpoints, RunNothing) {
  const std::string file = (folder_.path() / "ran").string();
  const std::string system = call("os", "system", {text("touch " + file)});
  EXPECT_THAT(why(checkpoint(system, {})), HasSubstr("but an object of `os.system`"));
  EXPECT_THAT(why(legacy(system, {})), HasSubstr("but an object of `os.system`"));
  const ModelHeader read = of(dictionary({{"state_dict", state_dict()}, {"hook", system}}));
  EXPECT_THAT(read.rest, ElementsAre("hook (object of os.system, skipped)"));
  EXPECT_FALSE(fs::exists(file));
}

TEST_F(Checkpoints, RefuseTensorsOfAnotherKind) {
  EXPECT_THAT(why(checkpoint(dictionary({{"v", tensor({})},
                                         {"w", call("torch._utils", "_rebuild_qtensor", {})}}),
                             kStorages)),
              HasSubstr("`w` is made by `torch._utils._rebuild_qtensor`, which is not read"));
}

TEST_F(Checkpoints, RefuseTwoTensorsOfOneName) {
  EXPECT_THAT(why(checkpoint(dictionary({{"w", tensor({})}, {"w", tensor({})}}), kStorages)),
              HasSubstr("two entries of its state dict are called `w`"));
}

TEST_F(Checkpoints, RefuseImpossibleTensors) {
  EXPECT_EQ(why(Tensor{"0", {4}, {1}, 0, 4}), "none");
  EXPECT_EQ(why(Tensor{"0", {2, 2}, {1, 2}, 0, 4}), "none");
  EXPECT_EQ(why(Tensor{"0", {0, 7}, {7, 1}, 4, 4}), "none");
  EXPECT_EQ(why(Tensor{"0", {}, {}, 3, 4}), "none");
  EXPECT_THAT(why(Tensor{"0", {-1}, {1}, 0, 4}), HasSubstr("tensor `w` has the negative size -1"));
  EXPECT_THAT(why(Tensor{"0", {2}, {-1}, 3, 4}), HasSubstr("has the negative stride -1"));
  EXPECT_THAT(why(Tensor{"0", {5}, {1}, 0, 4}), HasSubstr("reaches beyond the 4 numbers"));
  EXPECT_THAT(why(Tensor{"0", {2}, {4}, 0, 4}), HasSubstr("reaches beyond the 4 numbers"));
  EXPECT_THAT(why(Tensor{"0", {2, 2}, {2, 1}, 1, 4}), HasSubstr("reaches beyond the 4 numbers"));
  EXPECT_THAT(why(Tensor{"0", {}, {}, 4, 4}), HasSubstr("reaches beyond the 4 numbers"));
  EXPECT_THAT(why(Tensor{"0", {2}, {std::int64_t{1} << 62}, 0, 4}), HasSubstr("reaches beyond"));
  EXPECT_THAT(why(Tensor{"0", {3, 3, 3}, {std::int64_t{1} << 62, std::int64_t{1} << 62, 1}, 0, 4}),
              HasSubstr("reaches beyond"));
  EXPECT_THAT(why(Tensor{"0", {1}, {1}, -1, 4}), HasSubstr("begins at number -1"));
  EXPECT_THAT(why(Tensor{"0", {1}, {1}, std::int64_t{1} << 62, 4}), HasSubstr("begins at number"));
  EXPECT_THAT(why(Tensor{"0", {2}, {1, 1}, 0, 4}), HasSubstr("has 1 sizes and 2 strides"));
  EXPECT_THAT(
      why(Tensor{"0", std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1), 0, 4}),
      HasSubstr("has more than 64 dimensions"));
  EXPECT_THAT(why(Tensor{"0", {std::int64_t{1} << 32, std::int64_t{1} << 32}, {0, 0}, 0, 4}),
              HasSubstr("has a shape of more than 1099511627776 numbers"));
}

TEST_F(Checkpoints, RefuseClaimsOfMemory) {
  // A storage of 10 GB that is not there, and one number that is repeated ten billion times.
  EXPECT_THAT(why(Tensor{"0", {2'500'000'000}, {1}, 0, 2'500'000'000}),
              HasSubstr("has a storage of 2500000000 numbers, of which 4 are in the file"));
  EXPECT_THAT(why(Tensor{"0", {2'500'000'000}, {0}, 0, 4}),
              HasSubstr("its tensors need more than 67108864 bytes"));
  EXPECT_THAT(why(Tensor{"0", {1}, {1}, 0, -4}), HasSubstr("has a storage of -4 numbers"));
  EXPECT_THAT(why(Tensor{"7", {4}, {1}, 0, 4}),
              HasSubstr("the numbers of tensor `w` are missing: there is no storage `7`"));
  std::string claims = legacy(dictionary({{"w", tensor({})}}), {{"0", floats({1, 2})}});
  claims.replace(claims.size() - 16, 8, number(2'500'000'000, 8));
  EXPECT_THAT(why(claims), HasSubstr("storage `0` claims 2500000000 numbers, but the file ends "
                                     "after 8 bytes of it"));
  // A compressed storage that takes a thousand times its place.
  EXPECT_THAT(
      why(checkpoint(dictionary({{"w", tensor({})}}), {{"0", std::string(65 << 20, '\0')}}, true)),
      HasSubstr("its compressed tensors claim more than"));
}

TEST_F(Checkpoints, MayHaveBeenZippedAgain) {
  EXPECT_EQ(header(zip({{"m/", ""},
                        {"m/data/0", floats({1, 2, 3, 4}), true},
                        {"m/data/1", floats({5, 6}), true},
                        {"m/extra/data.pkl", ""},
                        {"m/data.pkl", pickle(state_dict()), true}}))
                .tensors.size(),
            2U);
}

TEST_F(Checkpoints, RefuseBigEndianNumbers) {
  EXPECT_THAT(why(zip({{"a/data.pkl", pickle(state_dict())}, {"a/byteorder", "big"}})),
              HasSubstr("in the byte order of other machines"));
}

TEST_F(Checkpoints, RefuseTruncatedFiles) {
  for (const std::string& whole :
       {checkpoint(state_dict(), kStorages), legacy(state_dict(), kStorages)})
    for (std::size_t size = 0; size < whole.size(); ++size)
      EXPECT_NE(why(whole.substr(0, size)), "none") << size;
}

TEST_F(Checkpoints, SurviveAnyDamage) {
  std::mt19937 random(1);
  int refused = 0, rounds = 0;
  for (const std::string& whole :
       {checkpoint(state_dict(), kStorages), legacy(state_dict(), kStorages)})
    for (int i = 0; i < 1000; ++i, ++rounds) {
      std::string bytes = whole;
      if (i % 3 == 0) bytes.resize(random() % bytes.size());
      for (std::size_t n = random() % 4; n > 0 && !bytes.empty(); --n)
        bytes[random() % bytes.size()] = static_cast<char>(random());
      refused += problem([&] {
                   const ModelSource source(folder_.write("model.pt", bytes));
                   for (std::size_t s = 0; s < source.header().storages.size(); ++s)
                     static_cast<void>(source.bytes(s));
                 }) == "none"
                     ? 0
                     : 1;
    }
  EXPECT_GT(refused, rounds / 2);
  EXPECT_LT(refused, rounds);
}

TEST_F(Checkpoints, AreCopiedWithOtherNumbers) {
  for (const bool older : {false, true}) {
    const auto file = [&](const std::vector<std::pair<std::string, std::string>>& storages) {
      return older ? legacy(state_dict(), storages) : checkpoint(state_dict(), storages);
    };
    const fs::path path = folder_.write("model.pt", file(kStorages));
    ModelSource(path).write_copy(path, {{1, floats({7, 8})}});
    EXPECT_EQ(bytes_of(path), file({kStorages[0], {"1", floats({7, 8})}})) << older;
  }
}

TEST_F(Checkpoints, ThatCannotBeWrittenLeaveNothing) {
  const fs::path path = folder_.write("model.pt", checkpoint(state_dict(), kStorages, true));
  EXPECT_THAT(problem([&] {
                ModelSource(path).write_copy(folder_.path() / "out.pt", {{1, floats({7, 8})}});
              }),
              HasSubstr("is compressed, and cannot be written in place"));
  EXPECT_THAT(problem([&] {
                const fs::path good = folder_.write("good.pt", checkpoint(state_dict(), kStorages));
                ModelSource(good).write_copy(folder_.path() / "none" / "out.pt", {});
              }),
              HasSubstr("cannot write"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 2);
}

TEST_F(Checkpoints, OfTorchScriptGiveTheTensorsOfItsModules) {
  const std::string conv =
      object("__torch__.torch.nn", "Conv2d",
             {{"training", "\x89"}, {"weight", tensor({"0", {2}, {1}, 0, 2})}});
  const std::string root =
      object("__torch__", "Net", {{"scale", tensor({"1", {2}, {1}, 0, 2})}, {"conv", conv}});
  const auto archive = [](const std::string& value) {
    return zip({{"net/data.pkl", pickle(value)},
                {"net/data/0", floats({1, 2})},
                {"net/data/1", floats({3, 4})},
                {"net/code/__torch__.py", "class Net(Module):"},
                {"net/constants.pkl", pickle(")")}});
  };
  const ModelHeader read = header(archive(root));
  EXPECT_EQ(read.format, FileFormat::torchscript);
  EXPECT_THAT(names(read), ElementsAre("scale", "conv.weight"));
  EXPECT_THAT(why(archive(object("__torch__", "Net", {{"training", "\x89"}}))),
              HasSubstr("its module has no tensors"));
  // A module that is its own attribute.
  EXPECT_THAT(why(archive(global("__torch__", "Net") + ")\x81q" + std::string(1, '\1') + "}(" +
                          text("me") + "h\1ub")),
              HasSubstr("its modules are nested more than 64 deep"));
}

/// What other programs write, by its first bytes.
TEST_F(Checkpoints, OfOtherProgramsAreNamed) {
  using namespace std::string_literals;
  const std::vector<std::pair<std::string, std::string>> files = {
      {"", "it is empty"},
      {"\x89HDF\r\n\x1a\n..", "it is an HDF5 file"},
      {"GGUF\x03..", "it is a GGUF file"},
      {"\x1c\0\0\0TFL3.."s, "it is a model of TensorFlow Lite"},
      {"\x08\x01\x12\x8c\x05"s, "it is a SavedModel of TensorFlow"},
      {"\x08\x07\x12\x07pytorch"s, "it is an ONNX model"},
      {"\n\x1b\n\x05input\x12\x0bPlaceholder"s, "it is a graph of TensorFlow"},
      {"\0\0\0\0\x57\xfb\x80\x8b\x24\x75\x47\xdb"s, "it is the index of a TensorFlow checkpoint"},
      {"\x93NUMPY\x01", "it is a NumPy array"},
      {pickle("N"), "it is a pickle that torch.save has not written"},
      {"\x1f\x8b\x08", "it is a compressed archive"},
      {"\x04\0\0\0\x01\0\0\0"s, "it is a file of Torch7"},
      {"<!DOCTYPE html><html>", "it is a web page, not a model"},
      {"\n  <html lang=\"en\">", "it is a web page, not a model"},
      {"Not Found\n", "it is a text, not a model"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
       "it is a pointer of Git LFS, not the file itself"},
      {"\xff\xd8\xff\xe0"s, "it is no model file that is known; it begins with the bytes ff d8"},
      {zip({}), "it is a zip archive without data.pkl"},
      {zip({{"word/document.xml", ""}}), "it is a zip archive without data.pkl"},
      {zip({{"fc.weight.npy", ""}}), "it is an archive of NumPy arrays"},
      {zip({{"m/archive_format", "pt2"}}), "it is a program of torch.export"},
      {zip({{"serialized_exported_program.json", ""}}), "it is a program of torch.export"},
      {zip({{"config.json", ""}, {"model.weights.h5", ""}}), "it is a model of Keras"}};
  for (const auto& [bytes, sentence] : files) {
    EXPECT_THAT(why(bytes), HasSubstr(sentence));
    try {
      static_cast<void>(header(bytes));
    } catch (const base::HostError& e) {
      EXPECT_NE(e.hint(), "") << sentence;
    }
  }
  const std::string tar = "sys_info" + std::string(249, '\0') + "ustar" + std::string(250, '\0');
  EXPECT_THAT(why(tar), HasSubstr("it is a tar archive, as torch.save wrote before"));
}

TEST_F(Checkpoints, ThatAreNoFilesAreRefusedAtOnce) {
  const auto open = [](const fs::path& path) {
    return problem([&] { static_cast<void>(read_model_header(path)); });
  };
  EXPECT_THAT(open(folder_.path()), HasSubstr("it is a folder"));
  EXPECT_THAT(open(folder_.path() / "none.pt"), HasSubstr("No such file or directory"));
  const fs::path fifo = folder_.path() / "fifo.pt";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(open(fifo), HasSubstr("it is not a regular file"));
  const fs::path device = folder_.path() / "zero.pt";
  fs::create_symlink("/dev/zero", device);
  EXPECT_THAT(open(device), HasSubstr("it is not a regular file"));
}

TEST_F(Checkpoints, ThatMayNotBeReadAreNamed) {
  const fs::path path = folder_.write("model.pt", checkpoint(state_dict(), kStorages));
  fs::permissions(folder_.path(), fs::perms::owner_all | fs::perms::others_exec);
  fs::permissions(path, fs::perms::none);
  constexpr uid_t kNobody = 65534;
  const uid_t user = ::geteuid();
  ASSERT_TRUE(user != 0 || ::seteuid(kNobody) == 0);  // root reads everything
  const std::string said = problem([&] { static_cast<void>(read_model_header(path)); });
  ASSERT_TRUE(user != 0 || ::seteuid(user) == 0);
  EXPECT_THAT(said, HasSubstr("model.pt: Permission denied"));
}

/// Files of other people, where the project keeps its data.
class RealCheckpoints : public Checkpoints {
 protected:
  void open(const std::string& name) {
    const fs::path path = fs::path(BACKSTOP_SOURCE_DIR) / "data" / "models" / name;
    if (!fs::exists(path)) GTEST_SKIP() << "no " << path << ": put the file there";
    read_ = read_model_header(path);
  }
  ModelHeader read_;
};

TEST_F(RealCheckpoints, ResNet20) {
  ASSERT_NO_FATAL_FAILURE(open("resnet20-12fca82f.th"));
  if (IsSkipped()) return;
  EXPECT_EQ(read_.format, FileFormat::legacy_checkpoint);
  EXPECT_EQ(read_.location, "state_dict");
  EXPECT_EQ(read_.prefix, "module.");
  EXPECT_EQ(read_.tensors.size(), 97U);
  EXPECT_EQ(read_.tensors.front().name, "conv1.weight");
  EXPECT_THAT(read_.tensors.front().shape, ElementsAre(16, 3, 3, 3));
  EXPECT_THAT(read_.rest, ElementsAre("best_prec1 = 91.78"));
}

TEST_F(RealCheckpoints, AttackResultOfBackdoorBench) {
  ASSERT_NO_FATAL_FAILURE(open("attack_result.pt"));
  if (IsSkipped()) return;
  EXPECT_EQ(read_.format, FileFormat::checkpoint);
  EXPECT_EQ(read_.location, "model");
  EXPECT_EQ(read_.prefix, "");
  EXPECT_EQ(read_.tensors.size(), 102U);
  EXPECT_EQ(read_.facts.architecture, "preact-resnet18");
  EXPECT_EQ(read_.facts.classes, 10);
  EXPECT_THAT(read_.rest, ::testing::Contains("clean_data = \"cifar10\""));
}

}  // namespace
}  // namespace backstop::engine
