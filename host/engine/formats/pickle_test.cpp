#include "host/engine/formats/pickle.hpp"

#include <chrono>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/engine/formats/testing.hpp"

namespace backstop::engine {
namespace {

using namespace testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = Pickle::Kind;

std::string why(const std::string& bytes) {
  try {
    static_cast<void>(read_pickle(bytes));
  } catch (const PickleError& e) {
    return e.what();
  }
  return "none";
}

const Pickle::Node& root_of(const Pickle& pickle) {
  return pickle[pickle.root];
}

TEST(TorchPickle, ReadsNumbers) {
  const auto number_of = [](const std::string& value) {
    const Pickle read = read_pickle(pickle(value));
    EXPECT_EQ(root_of(read).kind, Kind::integer) << value;
    return root_of(read).integer;
  };
  EXPECT_EQ(number_of("K\xff"), 255);
  EXPECT_EQ(number_of("M" + number(0xffff, 2)), 65535);
  EXPECT_EQ(number_of("J" + number(0xffffffff, 4)), -1);
  EXPECT_EQ(number_of(integer(-5'000'000'000)), -5'000'000'000);
  EXPECT_EQ(number_of("\x8a\x01\xff"), -1);
  EXPECT_EQ(number_of(std::string("\x8a\x02\xff\x00", 4)), 255);
  EXPECT_EQ(number_of(std::string("\x8a\x00", 2)), 0);
  EXPECT_EQ(root_of(read_pickle(pickle(real(91.78)))).real, 91.78);
  EXPECT_EQ(root_of(read_pickle(pickle("\x88"))).kind, Kind::boolean);
  EXPECT_EQ(root_of(read_pickle(pickle("N"))).kind, Kind::none);
  // Longer ones are of no use, and harmless.
  EXPECT_EQ(root_of(read_pickle(pickle("\x8a\x0a" + std::string(10, 'x')))).kind, Kind::object);
}

TEST(TorchPickle, ReadsContainers) {
  const Pickle read = read_pickle(pickle(dictionary(
      {{"list", "](" + integer(1) + integer(2) + "e"},
       {"tuple", tuple({text("a")})},
       {"ordered", call("collections", "OrderedDict", {}) + "(" + text("k") + text("v") + "u"},
       {"set", call("builtins", "set", {"](" + integer(1) + "e"})}})));
  const auto at = [&](std::string_view key) { return read.find(read.root, key).value(); };
  EXPECT_EQ(read[at("list")].kind, Kind::list);
  EXPECT_EQ(read.items_of(at("list")).size(), 2U);
  EXPECT_EQ(read[at("tuple")].kind, Kind::tuple);
  EXPECT_EQ(read.text(read.find(at("ordered"), "k").value()), "v");
  EXPECT_EQ(read[at("set")].kind, Kind::set);
  EXPECT_FALSE(read.find(read.root, "absent"));
}

TEST(TorchPickle, ReadsProtocol4) {
  // pickle.dumps({'a': collections.OrderedDict(b=(1.5, b'x', {2}))}, 4)
  const std::string bytes(
      "\x80\x04\x95\x43\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01"
      "a\x94\x8c\x0b"
      "collections\x94\x8c\x0b"
      "OrderedDict\x94\x93\x94)R\x94\x8c\x01"
      "b\x94G?\xf8\x00\x00\x00\x00\x00\x00"
      "C\x01x\x94\x8f\x94(K\x02\x90\x87\x94ss.",
      78);
  const Pickle read = read_pickle(bytes);
  const auto inner = read.find(read.find(read.root, "a").value(), "b").value();
  ASSERT_EQ(read.items_of(inner).size(), 3U);
  EXPECT_EQ(read[read.items_of(inner)[0]].real, 1.5);
  EXPECT_EQ(read.text(read.items_of(inner)[1]), "x");
  EXPECT_EQ(read[read.items_of(inner)[2]].kind, Kind::set);
}

TEST(TorchPickle, ReadsTensors) {
  const Pickle read =
      read_pickle(pickle(tensor({"7", {2, 3}, {1, 2}, 4, 10, "HalfStorage"})) + "what follows");
  ASSERT_EQ(root_of(read).kind, Kind::tensor);
  const PickledTensor& found = read.tensors[root_of(read).index];
  EXPECT_THAT(found.shape, ElementsAre(2, 3));
  EXPECT_THAT(found.strides, ElementsAre(1, 2));
  EXPECT_EQ(found.offset, 4);
  const PickledStorage& storage = read.storages[found.storage];
  EXPECT_EQ(storage.key, "7");
  EXPECT_EQ(storage.type, ElementType::float16);
  EXPECT_EQ(storage.elements, 10);
  EXPECT_EQ(read.bytes.substr(read.size), "what follows");
  const std::string parameter =
      call("torch._utils", "_rebuild_parameter", {tensor({}), "\x88", "}"});
  EXPECT_EQ(root_of(read_pickle(pickle(parameter))).kind, Kind::tensor);
  const std::string derived =
      call("torch._tensor", "_rebuild_from_type_v2",
           {global("torch._utils", "_rebuild_parameter"), global("mine", "Weight"),
            tuple({tensor({}), "\x88", "}"}), "}"});
  EXPECT_EQ(root_of(read_pickle(pickle(derived))).kind, Kind::tensor);
}

TEST(TorchPickle, CallsNothing) {
  // Were it run, this would leave a file.
  const Folder folder;
  const std::string file = (folder.path() / "ran").string();
  const Pickle read = read_pickle(pickle(call("os", "system", {text("touch " + file)})));
  EXPECT_EQ(root_of(read).kind, Kind::object);
  EXPECT_EQ(read.text(read.root), "os.system");
  const Pickle more =
      read_pickle(pickle(tuple({call("builtins", "exec", {text("open('" + file + "', 'w')")}),
                                object("argparse", "Namespace", {{"lr", real(0.1)}}),
                                global("builtins", "eval") + ")}\x92"})));
  EXPECT_EQ(root_of(more).kind, Kind::tuple);
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST(TorchPickle, KeepsStorageNodesThatItDoesNotKnowAsObjects) {
  for (const std::string& value : {call("torch._utils", "_rebuild_qtensor", {tensor({})}),
                                   call("torch._utils", "_rebuild_tensor_v2", {integer(1)}),
                                   call("torch._utils", "_rebuild_tensor_v2",
                                        {integer(1), integer(0), integers({1}), integers({1})}),
                                   tensor({"0", {2}, {1}, 0, 2, "QInt8Storage"})})
    EXPECT_EQ(root_of(read_pickle(pickle(value))).kind, Kind::object) << value;
}

TEST(TorchPickle, SaysWhatIsWrong) {
  EXPECT_EQ(why(""), "the pickle is cut off after 0 bytes");
  EXPECT_EQ(why("\x80\x02}"), "the pickle is cut off after 3 bytes");
  EXPECT_THAT(why("\x80\x06N."), HasSubstr("has protocol 6; at most 5 is known"));
  EXPECT_THAT(why("NN."), HasSubstr("ends with more than one object"));
  EXPECT_THAT(why("."), HasSubstr("ends with more than one object"));
  EXPECT_THAT(why("(."), HasSubstr("ends with more than one object"));
  EXPECT_THAT(why("0."), HasSubstr("has an instruction without its operand"));
  EXPECT_THAT(why("(R."), HasSubstr("has an instruction without its operand"));
  EXPECT_THAT(why("t."), HasSubstr("has an instruction without its mark"));
  EXPECT_THAT(why("NNs."), HasSubstr("has an instruction without its operand"));
  EXPECT_THAT(why("NNNs."), HasSubstr("fills what is no container"));
  EXPECT_THAT(why("}(Nu."), HasSubstr("has a key without a value"));
  EXPECT_THAT(why("h\x01."), HasSubstr("refers to object 1, which it has not made"));
  EXPECT_THAT(why("NNR."), HasSubstr("an operand of another kind"));
  EXPECT_THAT(why("Nr\xff\xff\xff\xff."), HasSubstr("remembers more than 4000000 objects"));
  EXPECT_THAT(why("I1\n."), HasSubstr("has the instruction 0x49, which PyTorch does not write"));
  EXPECT_THAT(why("X\xff\xff\xff\xff."), HasSubstr("cut off"));
  EXPECT_THAT(why("\x8d" + std::string(8, '\xff') + "."), HasSubstr("cut off"));
  EXPECT_THAT(why("c" + std::string(2000, 'm')), HasSubstr("a name of more than 1000 bytes"));
}

TEST(TorchPickle, TakesTimeInProportion) {
  const auto start = std::chrono::steady_clock::now();
  // Deep, wide, and a tuple of many items that is given to many calls.
  EXPECT_EQ(why(std::string(3'000'000, ']') + std::string(2'999'999, 'a') + "."), "none");
  EXPECT_THAT(why(std::string(5'000'000, 'N')), HasSubstr("more than 4000000 objects"));
  EXPECT_THAT(why("Nq" + std::string(1, '\0') +
                  [] {
                    std::string many;
                    for (int i = 0; i < 5'000'000; ++i) many += std::string("h\0", 2);
                    return many;
                  }()),
              HasSubstr("more than 4000000 objects waiting"));
  std::string calls = global("torch", "Size") + "q" + std::string(1, '\1') + "0(" +
                      std::string(100'000, 'N') + "tq" + std::string(1, '\2') + "0";
  for (int i = 0; i < 100'000; ++i) calls += "h\1h\2R0";
  EXPECT_THAT(why(calls + "N."), HasSubstr("has more than 8000000 items"));
  std::string names = text(std::string(1000, 'n')) + "q" + std::string(1, '\1') + "0";
  for (int i = 0; i < 100'000; ++i)
    names +=
        "h\1h\1\x93"
        "0";
  EXPECT_THAT(why(names + "N."), HasSubstr("bytes of names"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(TorchPickle, MayHoldItself) {
  // A list in itself: "]q\0h\0a."
  const Pickle read = read_pickle(std::string("]q\0h\0a.", 7));
  EXPECT_THAT(read.items_of(read.root), ElementsAre(read.root));
}

TEST(TorchPickle, SurvivesAnyDamage) {
  const std::string whole = pickle(
      dictionary({{"a", tensor({})}, {"b", object("argparse", "Namespace", {{"lr", real(0.1)}})}}));
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string bytes = whole;
    if (i % 3 == 0) bytes.resize(random() % bytes.size());
    for (std::size_t n = random() % 4; n > 0 && !bytes.empty(); --n)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    refused += why(bytes) == "none" ? 0 : 1;
  }
  EXPECT_GT(refused, 1500);
  EXPECT_LT(refused, 5000);
}

}  // namespace
}  // namespace backstop::engine
