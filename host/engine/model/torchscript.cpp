#include "host/engine/model/torchscript.hpp"

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <ATen/Context.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/csrc/jit/serialization/import.h>

#include "backstop/error.hpp"
#include "host/base/error.hpp"
#include "host/base/hash.hpp"
#include "host/base/text.hpp"
#include "host/engine/formats/zip_archive.hpp"
#include "host/engine/model/bytes_reader.hpp"
#include "host/engine/model/torchscript_safety.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

namespace jit = torch::jit;
namespace nn = torch::nn;

namespace {

/// More than any network has, and less than it takes to fill the memory with nodes.
constexpr std::size_t kMostNodes = 1'000'000;
/// SECURITY.md states these bounds.
constexpr std::size_t kMostCalls = 1'000;
constexpr std::uint64_t kMostCompressed = 64u << 20;

[[noreturn]] void refuse(const std::string& file, const std::string& what,
                         const std::string& hint = {}) {
  throw base::HostError(base::ExitCode::environment, fmt::format("{} {}", file, what), hint);
}

/// What an error of LibTorch says, without the stack of its interpreter and the place in its source.
std::string reason_in(std::string_view error) {
  constexpr std::string_view kRaised = "RuntimeError: ", kBlank = " \n";
  if (const auto at = error.rfind(kRaised); at != error.npos) {
    error.remove_prefix(at + kRaised.size());
  } else if (error.starts_with("The following operation failed in the TorchScript")) {
    error = error.substr(0, error.find_last_not_of(kBlank) + 1);
    error.remove_prefix(error.rfind('\n') + 1);
  }
  error.remove_prefix(std::min(error.find_first_not_of(kBlank), error.size()));
  error = error.substr(0, error.find('\n'));
  return base::printable(base::shortened(error, 200));
}

/// The values of one program with the features, or the network's output, as its first output.
struct Program {
  jit::Code run;      ///< that output only
  jit::Code observe;  ///< and all of `maps`
};

/// What the network's forward is made of.
struct Forward {
  std::vector<std::string> maps;      ///< submodules whose outputs may be feature maps
  Program whole;                      ///< ends in the network's output, without a final softmax
  std::optional<Program> body;        ///< ends in the head's input
  std::string head;                   ///< the linear layer that body leaves out
  std::vector<jit::IValue> defaults;  ///< of what forward takes besides the images
  std::optional<std::int64_t> channels;
  bool random = false;           ///< draws random numbers when it trains
  bool sets_attributes = false;  ///< replaces buffers instead of changing them
  bool counts = false;           ///< changes attributes that are no tensors
  bool frozen_batch_norm = false;
  bool frozen_dropout = false;
  bool softmax = false, log_softmax = false;  ///< after the head, and left out
};

}  // namespace

class Script {
 public:
  std::string file;
  std::string sha256;
  jit::Module module;
  Forward forward;
};

namespace {

/// "layer1.0.conv1" of a value that is an attribute of an attribute of `self`; "" is `self`.
std::optional<std::string> path_of(const jit::Value* value, const jit::Value* self) {
  std::string path;
  for (; value != self; value = value->node()->input(0)) {
    const jit::Node* const node = value->node();
    if (node->kind() != c10::prim::GetAttr) return std::nullopt;
    path = node->s(c10::attr::name) + (path.empty() ? "" : "." + path);
  }
  return path;
}

jit::GraphFunction* callee_of(jit::Node* node) {
  if (node->kind() == c10::prim::CallFunction) return jit::tryToGraphFunction(node);
  if (node->kind() != c10::prim::CallMethod) return nullptr;
  const auto type = node->input(0)->type()->cast<c10::ClassType>();
  if (type == nullptr) return nullptr;
  jit::Function* const method = type->findMethod(node->s(c10::attr::name));
  return method == nullptr ? nullptr : jit::tryToGraphFunction(*method);
}

template <typename Visit>
void for_each_node(jit::Block& block, const Visit& visit) {
  for (auto it = block.nodes().begin(); it != block.nodes().end();) {
    jit::Node* const node = *it++;  // which `visit` may destroy
    for (jit::Block* const inner : node->blocks()) for_each_node(*inner, visit);
    visit(node);
  }
}

/// The number of nodes when all calls are replaced by what they call, which can double with every
/// line of a hostile file. Refuses what calls too deep, for LibTorch follows calls by recursion.
class InlinedSize {
 public:
  explicit InlinedSize(const std::string& file) : file_(file) {}

  std::size_t of(jit::Graph& graph) { return look(graph, 0).nodes; }

 private:
  struct Size {
    std::size_t nodes = 0, calls = 0;  ///< within one another
  };

  Size look(jit::Graph& graph, std::size_t depth) {
    if (const auto known = sizes_.find(&graph); known != sizes_.end()) return known->second;
    Size size;
    for_each_node(*graph.block(), [&](jit::Node* node) {
      jit::GraphFunction* const callee = callee_of(node);
      if (depth >= kMostCalls || size.calls > kMostCalls)
        refuse(file_, fmt::format("calls more than {} deep", kMostCalls));
      const Size inner = callee == nullptr ? Size{} : look(*callee->graph(), depth + 1);
      size.nodes = std::min(kMostNodes + 1, size.nodes + 1 + inner.nodes);
      if (callee != nullptr) size.calls = std::max(size.calls, inner.calls + 1);
    });
    return sizes_[&graph] = size;
  }

  const std::string& file_;
  std::unordered_map<const jit::Graph*, Size> sizes_;
};

bool is_training_attribute(const jit::Value* module) {
  const auto type = module->type()->cast<c10::ClassType>();
  return type != nullptr && type->hasAttribute("training") &&
         type->getAttribute("training") == c10::BoolType::get();
}

/// Makes the network's forward into graphs that no longer call anything.
class ForwardReader {
 public:
  ForwardReader(const std::string& file, const jit::Module& module)
      : file_(file), module_(module) {}

  Forward read() {
    const auto method = module_.find_method("forward");
    if (!method) refuse(file_, "has no method forward, so it is no network");
    jit::GraphFunction* const function = jit::tryToGraphFunction(method->function());
    if (function == nullptr) refuse(file_, "has a forward that is no TorchScript");
    check_signature(function->getSchema());
    if (InlinedSize(file_).of(*function->graph()) > kMostNodes)
      refuse(file_, fmt::format("is a program of more than {} steps", kMostNodes));
    graph_ = function->graph()->copy();
    inline_own_calls();
    mark_maps();
    jit::Inline(*graph_);
    look_at_nodes();
    find_head();
    return std::move(forward_);
  }

 private:
  [[nodiscard]] jit::Value* self() const { return graph_->inputs()[0]; }

  void check_signature(const c10::FunctionSchema& schema) {
    const auto& arguments = schema.arguments();
    if (arguments.size() < 2 || !arguments[1].type()->isSubtypeOf(*c10::TensorType::get()))
      refuse(file_, "has a forward whose first argument is not a tensor of images");
    for (std::size_t i = 2; i < arguments.size(); ++i) {
      if (!arguments[i].default_value())
        refuse(file_, fmt::format("has a forward that needs `{}` besides the images",
                                  base::printable(arguments[i].name())));
      forward_.defaults.push_back(*arguments[i].default_value());
    }
  }

  /// Until the submodules are called by the graph itself.
  void inline_own_calls() {
    for (bool found = true; found;) {
      found = false;
      for (jit::Node* const node : graph_->block()->nodes()) {
        jit::GraphFunction* const callee = callee_of(node);
        if (callee == nullptr || node->kind() != c10::prim::CallMethod || node->input(0) != self())
          continue;
        jit::inlineCallTo(node, callee, callee->graph().get());
        found = true;
        break;
      }
    }
  }

  struct Call {
    std::string name;
    jit::Node* node;
    bool convolution;
  };
  /// Submodules that are called once, by the graph itself, and that consist of others or are a
  /// convolution. Activations and normalizations are left to the module that they follow.
  [[nodiscard]] std::vector<Call> calls() const {
    std::map<std::string, int> times;
    std::vector<Call> result;
    for (jit::Node* const node : graph_->block()->nodes()) {
      if (node->kind() != c10::prim::CallMethod || node->outputs().size() != 1 ||
          !node->output()->type()->isSubtypeOf(*c10::TensorType::get()))
        continue;
      const auto name = path_of(node->input(0), self());
      const auto type = node->input(0)->type()->cast<c10::ClassType>();
      if (!name || name->empty() || type == nullptr) continue;
      ++times[*name];
      const bool convolution = is_convolution(*type);
      const bool container = has_submodules(*type);
      if (convolution || container) result.push_back({*name, node, convolution});
    }
    std::erase_if(result, [&](const Call& call) { return times[call.name] > 1; });
    return result;
  }

  static bool is_convolution(const c10::ClassType& type) {
    return type.name() && type.name()->name().find("Conv") != std::string::npos &&
           !has_submodules(type);
  }
  static bool has_submodules(const c10::ClassType& type) {
    for (const auto& attribute : type.getAttributes())
      if (attribute.getType()->is_module()) return true;
    return false;
  }

  void mark_maps() {
    std::vector<Call> found = calls();
    // A network whose layers all lie in one container has its maps inside of that.
    while (std::count_if(found.begin(), found.end(),
                         [](const Call& call) { return !call.convolution; }) > 0 &&
           found.size() <= 2) {
      const auto outer = std::find_if(found.begin(), found.end(),
                                      [](const Call& call) { return !call.convolution; });
      jit::GraphFunction* const callee = callee_of(outer->node);
      jit::inlineCallTo(outer->node, callee, callee->graph().get());
      found = calls();
    }
    for (const Call& call : found) {
      forward_.maps.push_back(call.name);
      graph_->registerOutput(call.node->output());
    }
  }

  void look_at_nodes() {
    for_each_node(*graph_->block(), [&](jit::Node* node) {
      const c10::Symbol kind = node->kind();
      // Neither may write on a terminal, where the tables are.
      if (kind == c10::prim::Print || kind == c10::aten::warn) return node->destroy();
      if (kind == c10::prim::CallMethod || kind == c10::prim::CallFunction)
        refuse(file_,
               fmt::format("calls {} through an interface, so it is not known what would run",
                           kind == c10::prim::CallMethod ? base::printable(node->s(c10::attr::name))
                                                         : "a function"));
      if (kind == c10::prim::SetAttr) {
        forward_.sets_attributes = true;
        if (!node->input(1)->type()->isSubtypeOf(*c10::TensorType::get())) forward_.counts = true;
      }
      if (kind == c10::aten::batch_norm) free_batch_norm(*node);
      const std::string name = kind.toUnqualString();
      if (name.find("dropout") != std::string::npos) {
        forward_.random = true;
        if (node->inputs().size() == 3 && jit::constant_as<bool>(node->input(2)) == false)
          forward_.frozen_dropout = true;
      }
      if (node->isNondeterministic()) forward_.random = true;
      const bool first = name.find("conv") != std::string::npos && !std::exchange(convolves_, true);
      if (first) read_channels(*node);
    });
  }

  /// A trace has the mode that it was made in as a constant. The module still knows its own.
  void free_batch_norm(jit::Node& node) {
    jit::Value* const training = node.input(5);
    if (training->node()->kind() != c10::prim::Constant) return;
    jit::Node* const statistics = node.input(3)->node();
    if (statistics->kind() != c10::prim::GetAttr || !is_training_attribute(statistics->input(0))) {
      forward_.frozen_batch_norm = true;
      return;
    }
    const jit::WithInsertPoint point(&node);
    node.replaceInput(5, graph_->insertGetAttr(statistics->input(0), "training"));
  }

  void read_channels(const jit::Node& node) {
    const auto path = path_of(node.input(1), self());
    const bool plain = node.kind() == c10::aten::conv2d;
    const auto groups =
        plain && node.inputs().size() > 6        ? jit::constant_as<std::int64_t>(node.input(6))
        : node.kind() == c10::aten::_convolution ? jit::constant_as<std::int64_t>(node.input(8))
                                                 : c10::nullopt;
    if (!path || !groups) return;
    const std::size_t dot = path->rfind('.');
    jit::Module part = module_;
    if (dot != path->npos)
      for (const std::string& name : split(path->substr(0, dot))) part = part.attr(name).toModule();
    const at::Tensor weight =
        part.attr(dot == path->npos ? *path : path->substr(dot + 1)).toTensor();
    if (weight.dim() == 4) forward_.channels = weight.size(1) * *groups;
  }

  static std::vector<std::string> split(const std::string& path) {
    std::vector<std::string> names;
    std::istringstream stream(path);
    for (std::string name; std::getline(stream, name, '.');) names.push_back(name);
    return names;
  }

  /// The last linear layer, if what follows is at most a softmax.
  void find_head() {
    jit::Value* value = graph_->outputs()[0];
    const bool tuple = value->node()->kind() == c10::prim::TupleConstruct;
    if (tuple) value = value->node()->input(0);
    jit::Value* scores = value;
    // What else uses it might change it in place.
    const auto users = [&](const jit::Value* v) {
      return std::count_if(v->uses().begin(), v->uses().end(),
                           [&](const jit::Use& use) { return use.user != graph_->return_node(); });
    };
    bool alone = users(value) == (tuple ? 1 : 0);
    while (alone) {
      jit::Node* const node = value->node();
      const bool soft = node->kind() == c10::aten::softmax;
      const bool log_soft = node->kind() == c10::aten::log_softmax;
      const bool same = node->kind() == c10::aten::contiguous ||
                        (node->kind() == c10::aten::flatten &&
                         jit::constant_as<std::int64_t>(node->input(1)) == std::int64_t{1});
      if (!(soft || log_soft || same)) break;
      forward_.softmax = forward_.softmax || soft;
      forward_.log_softmax = forward_.log_softmax || log_soft;
      if (!same && scores == value) scores = node->input(0);
      value = node->input(0);
      alone = users(value) == 1;
    }
    forward_.whole = program(scores);
    jit::Node* const node = value->node();
    const bool linear = node->kind() == c10::aten::linear;
    const bool product =
        node->kind() == c10::aten::addmm && node->input(2)->node()->kind() == c10::aten::t;
    if (!alone || node->owningBlock() != graph_->block() || !(linear || product)) return;
    const jit::Value* const weight = linear ? node->input(1) : node->input(2)->node()->input(0);
    if (weight->node()->kind() != c10::prim::GetAttr) return;
    const auto layer = path_of(weight->node()->input(0), self());
    const auto bias = path_of(node->input(linear ? 2 : 0), self());
    const bool no_bias = linear && node->input(2)->mustBeNone();
    if (!layer || layer->empty() || path_of(weight, self()) != *layer + ".weight" ||
        !(no_bias || bias == *layer + ".bias"))
      return;
    forward_.head = *layer;
    forward_.body = program(linear ? node->input(0) : node->input(1));
  }

  /// Ends in `value`, and without what does not lead to it.
  Program program(jit::Value* value) const {
    jit::Value* const before = graph_->outputs()[0];
    graph_->return_node()->replaceInput(0, value);
    const auto observed = graph_->copy();
    graph_->return_node()->replaceInput(0, before);
    const auto plain = observed->copy();
    while (plain->outputs().size() > 1) plain->eraseOutput(plain->outputs().size() - 1);
    jit::EliminateDeadCode(observed);
    jit::EliminateDeadCode(plain);
    return {jit::Code(plain, "forward"), jit::Code(observed, "forward")};
  }

  const std::string& file_;
  const jit::Module& module_;
  std::shared_ptr<jit::Graph> graph_;
  bool convolves_ = false;
  Forward forward_;
};

at::Tensor tensor_in(const jit::IValue& value) {
  if (value.isTensor()) return value.toTensor();
  if (value.isTuple() && !value.toTupleRef().elements().empty() &&
      value.toTupleRef().elements()[0].isTensor())
    return value.toTupleRef().elements()[0].toTensor();
  throw std::runtime_error("RuntimeError: forward returns no tensor of scores");
}

/// The outputs of a program for images that are normalized. The interpreter runs the graph as it
/// is: what LibTorch's own executors would compile, and when, depends on what ran before.
std::vector<at::Tensor> run(const Forward& forward, const jit::Code& code, const jit::IValue& self,
                            const at::Tensor& images) {
  // A script may change its input.
  jit::Stack stack{self, images.to(at::kFloat).clone(at::MemoryFormat::Contiguous)};
  stack.insert(stack.end(), forward.defaults.begin(), forward.defaults.end());
  jit::InterpreterState(code).run(stack);
  std::vector<at::Tensor> outputs;
  for (const jit::IValue& value : stack) outputs.push_back(tensor_in(value));
  return outputs;
}

at::Tensor in_float(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().to(at::kCPU).clone(at::MemoryFormat::Contiguous);
  return plain.is_floating_point() ? plain.to(at::kFloat) : plain;
}

/// What the network gives for images of a size, in evaluation mode.
struct Probe {
  at::Tensor logits;
  at::Tensor features;           ///< undefined if there is no head
  std::vector<at::Tensor> maps;  ///< of Forward::maps
  bool probabilities = false;    ///< its output sums to 1
};

Probe probe(const Forward& forward, const jit::Module& self, std::int64_t channels,
            std::int64_t height, std::int64_t width) {
  const at::NoGradGuard no_grad;
  at::Generator generator = make_generator(1);
  const at::Tensor images = at::randn({2, channels, height, width}, generator);
  Probe result;
  std::vector<at::Tensor> all = run(forward, forward.whole.observe, self._ivalue(), images);
  result.logits = all[0].to(at::kFloat);
  result.maps.assign(all.begin() + 1, all.end());
  if (result.logits.dim() != 2 || result.logits.size(0) != 2)
    throw std::runtime_error(
        fmt::format("RuntimeError: forward returns scores of the shape [{}] for two images",
                    fmt::join(result.logits.sizes(), ", ")));
  const at::Tensor sums = result.logits.sum(1);
  result.probabilities =
      result.logits.ge(0).all().item<bool>() && sums.sub(1).abs().max().item<double>() < 1e-4;
  if (forward.body)
    result.features = run(forward, forward.body->run, self._ivalue(), images)[0].to(at::kFloat);
  return result;
}

bool is_map(const at::Tensor& output) {
  return output.dim() == 4 && output.size(2) * output.size(3) > 1;
}

class ScriptNetwork final : public Network {
 public:
  explicit ScriptNetwork(const Architecture& a)
      : script_(a.script), module_(a.script->module.deepcopy()) {
    module_.eval();
    mirror(*this, module_, "");
    const Probe seen = probe_size(a);
    if (seen.features.defined() && seen.features.dim() == 2) take_head(seen);
    program_ = head_.is_empty() ? &forward().whole : &*forward().body;
    probabilities_ = head_.is_empty() && seen.probabilities;
    for (std::size_t i = 0; i < seen.maps.size(); ++i) {
      if (!is_map(seen.maps[i])) continue;
      stages_.push_back(forward().maps[i]);
      outputs_.push_back(i + 1);
    }
    const std::int64_t classes = seen.logits.size(1);
    if (classes == a.classes) return;
    if (head_.is_empty())
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("{} has {} classes, the images have {}", script_->file, classes, a.classes));
    replace_head(a.classes);  // as in the model that this one is made for
  }

  const char* head_name() const override { return head_.is_empty() ? "" : forward().head.c_str(); }

  at::Tensor body(at::Tensor images, ActivationSink* sink) override {
    set_modes();
    std::vector<at::Tensor> outputs;
    try {
      outputs = run_seeded(sink == nullptr ? program_->run : program_->observe, images);
    } catch (const std::exception& e) {
      if (out_of_memory(e.what())) throw;
      refuse(script_->file, fmt::format("fails in its forward: {}", reason_in(e.what())));
    }
    if (forward().sets_attributes) adopt_buffers();
    if (sink != nullptr)
      for (std::size_t i = 0; i < stages_.size(); ++i) {
        const at::Tensor& map = outputs[outputs_[i]];
        if (!sink->activation(stages_[i], map).is_same(map))
          throw Error(fmt::format("the output of stage `{}` cannot be replaced: the network is a "
                                  "TorchScript archive",
                                  stages_[i]),
                      "use a built-in network, or return what the sink is given");
      }
    // The logarithms of probabilities are logits.
    return probabilities_ ? outputs[0].to(at::kFloat).clamp_min(kSmallest).log() : outputs[0];
  }

  void replace_head(std::int64_t classes) override {
    const DefaultGeneratorGuard guard;
    nn::Linear head(
        nn::LinearOptions(head_->options.in_features(), classes).bias(head_->options.bias()));
    const std::string& name = forward().head;
    const std::size_t dot = name.rfind('.');
    nn::Module* parent = this;
    if (dot != name.npos) parent = named_modules("", false)[name.substr(0, dot)].get();
    head_ = parent->replace_module(dot == name.npos ? name : name.substr(dot + 1), head);
  }

 private:
  static constexpr double kSmallest = 1e-30;

  [[nodiscard]] const Forward& forward() const { return script_->forward; }

  Probe probe_size(const Architecture& a) const {
    auto height = static_cast<std::int64_t>(std::sqrt(static_cast<double>(a.pixels)));
    while (a.pixels % height != 0) --height;
    const std::int64_t width = a.pixels / height;
    try {
      return probe(forward(), module_, a.channels, height, width);
    } catch (const std::exception& e) {
      if (out_of_memory(e.what())) throw;
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("{} does not take images of {} x {} pixels in {}: {}", script_->file, width,
                      height,
                      a.channels == 1 ? "one channel" : fmt::format("{} channels", a.channels),
                      reason_in(e.what())),
          "give the size of the images that the network was made for");
    }
  }

  /// A tensor that the script and this network share from now on; undefined if they already do.
  at::Tensor share(jit::Module& script, const std::string& name) {
    const at::Tensor given = script.attr(name).toTensor();
    if (const auto known = shared_.find(given.unsafeGetTensorImpl()); known != shared_.end()) {
      script.setattr(name, known->second);
      return {};
    }
    return put(script, name, in_float(given));
  }
  at::Tensor put(jit::Module& script, const std::string& name, const at::Tensor& tensor) {
    kept_.push_back(script.attr(name).toTensor());  // so that its address stays taken
    shared_[kept_.back().unsafeGetTensorImpl()] = tensor;
    shared_[tensor.unsafeGetTensorImpl()] = tensor;
    script.setattr(name, tensor);
    return tensor;
  }

  /// Gives `own` the parameters, buffers and submodules of `script`, as the same tensors.
  void mirror(nn::Module& own, jit::Module& script, const std::string& path) {
    std::vector<std::string> parameters, buffers;
    for (const auto& item : script.named_parameters(/*recurse=*/false))
      parameters.push_back(item.name);
    for (const auto& item : script.named_buffers(/*recurse=*/false)) buffers.push_back(item.name);
    for (const std::string& name : parameters) {
      if (own.named_parameters(false).contains(name)) {
        const at::Tensor tensor = own.named_parameters(false)[name];
        const at::NoGradGuard no_grad;
        tensor.copy_(script.attr(name).toTensor());
        put(script, name, tensor);
      } else if (const at::Tensor tensor = share(script, name); tensor.defined()) {
        own.register_parameter(name, tensor, tensor.is_floating_point());
      }
    }
    for (const std::string& name : buffers) {
      if (own.named_buffers(false).contains(name)) {
        const at::Tensor tensor = own.named_buffers(false)[name];
        tensor.copy_(script.attr(name).toTensor());
        put(script, name, tensor);
      } else if (const at::Tensor tensor = share(script, name); tensor.defined()) {
        own.register_buffer(name, tensor);
      }
      buffers_.push_back({script, name, script.attr(name).toTensor()});
    }
    for (const auto& item : script.named_children()) {
      jit::Module child = item.value;
      const std::string inner = path.empty() ? item.name : path + "." + item.name;
      const std::shared_ptr<nn::Module> made = module_for(child, inner);
      own.register_module(item.name, made);
      if (seen_.insert(child._ivalue().get()).second && child.type()->hasAttribute("training") &&
          child.type()->getAttribute("training") == c10::BoolType::get())
        modes_.push_back({made, child});
      mirror(*made, child, inner);
    }
  }

  /// LibTorch's module of the same kind, where masks, heads and modes need one, or an empty one.
  std::shared_ptr<nn::Module> module_for(const jit::Module& script, const std::string& path) const {
    std::map<std::string, at::Tensor> own;
    for (const auto& item : script.named_parameters(/*recurse=*/false)) own[item.name] = item.value;
    const std::size_t parameters = own.size();
    for (const auto& item : script.named_buffers(/*recurse=*/false)) own[item.name] = item.value;
    for (const auto& [name, tensor] : own)
      if (shared_.contains(tensor.unsafeGetTensorImpl())) own.clear();
    const auto sizes = [&](const char* name) {
      const auto item = own.find(name);
      return item == own.end() ? std::vector<std::int64_t>() : item->second.sizes().vec();
    };
    const std::vector<std::int64_t> weight = sizes("weight"), bias = sizes("bias");
    const std::string kind = script.type()->name() ? script.type()->name()->name() : "";
    const bool has_bias = own.contains("bias");
    const bool bias_fits = !has_bias || (!weight.empty() && bias == std::vector{weight[0]});
    const std::size_t expected = has_bias ? 2 : 1;
    const bool plain = own.size() == expected && parameters == expected && bias_fits;
    if (weight.size() == 4 && plain && kind.find("Conv") != kind.npos &&
        kind.find("Transpose") == kind.npos)
      return nn::Conv2d(
                 nn::Conv2dOptions(weight[1], weight[0], {weight[2], weight[3]}).bias(has_bias))
          .ptr();
    if (weight.size() == 2 && plain && (kind.find("Linear") != kind.npos || path == forward().head))
      return nn::Linear(nn::LinearOptions(weight[1], weight[0]).bias(has_bias)).ptr();
    if (weight.size() == 1 && parameters == 2 && bias == weight &&
        sizes("running_mean") == weight && sizes("running_var") == weight)
      return nn::BatchNorm2d(weight[0]).ptr();
    return std::make_shared<nn::Module>();
  }

  /// Makes the last linear layer the head, if it gives what the network gives.
  void take_head(const Probe& seen) {
    const auto modules = named_modules("", false);
    const auto* const found = modules.find(forward().head);
    const auto linear =
        found == nullptr ? nullptr : std::dynamic_pointer_cast<nn::LinearImpl>(*found);
    if (linear == nullptr || linear->weight.size(1) != seen.features.size(1)) return;
    const at::NoGradGuard no_grad;
    if (linear->forward(seen.features).allclose(seen.logits, 1e-3, 1e-4))
      head_ = nn::Linear(linear);
  }

  void set_modes() {
    for (auto& [own, script] : modes_) {
      const std::size_t slot = script.type()->getAttributeSlot("training");
      if (script._ivalue()->getSlot(slot).toBool() != own->is_training())
        script._ivalue()->setSlot(slot, own->is_training());
    }
    if (module_.type()->hasAttribute("training")) module_.setattr("training", is_training());
  }

  /// Random numbers of its own: the global ones are everybody's.
  std::vector<at::Tensor> run_seeded(const jit::Code& code, const at::Tensor& images) {
    const auto run_code = [&] { return run(forward(), code, module_._ivalue(), images); };
    if (!forward().random) return run_code();
    at::Generator generator = at::globalContext().defaultGenerator(images.device());
    struct Restore {
      at::Generator& generator;
      at::Tensor state;
      ~Restore() { generator.set_state(state); }
    } const restore{generator, generator.get_state()};
    generator.set_current_seed(++draws_);
    return run_code();
  }

  /// A script may put a new tensor in the place of a buffer; its content goes into the shared one.
  void adopt_buffers() {
    const at::NoGradGuard no_grad;
    for (auto& [script, name, tensor] : buffers_) {
      const at::Tensor now = script.attr(name).toTensor();
      if (now.is_same(tensor)) continue;
      tensor.copy_(now);
      script.setattr(name, tensor);
    }
  }

  std::shared_ptr<const Script> script_;
  jit::Module module_;
  const Program* program_ = nullptr;
  bool probabilities_ = false;
  std::vector<std::size_t> outputs_;  ///< of the program, one for each stage
  std::vector<std::pair<std::shared_ptr<nn::Module>, jit::Module>> modes_;
  struct Buffer {
    jit::Module script;
    std::string name;
    at::Tensor tensor;  ///< of this network, too
  };
  std::vector<Buffer> buffers_;
  std::unordered_set<const void*> seen_;
  std::unordered_map<const void*, at::Tensor> shared_;
  std::vector<at::Tensor> kept_;
  std::uint64_t draws_ = 0;
};

[[noreturn]] void refuse_archive(const std::string& file, std::string_view error) {
  const std::string reason = reason_in(error);
  if (error.find("maximum supported version") != error.npos)
    refuse(file, "was written by a newer PyTorch",
           fmt::format("this is LibTorch {}; load a state dict of the network instead",
                       libtorch_version()));
  refuse(file, fmt::format("is damaged or no TorchScript archive: {}", reason),
         "torch.jit.save of PyTorch writes such archives");
}

/// Refuses an archive that is too large: LibTorch takes as much memory as a compressed entry asks
/// for; the others lie in the file as they are.
void require_small(const InputFile& file) {
  std::uint64_t sum = 0;
  const ZipArchive archive(file);
  for (const ZipEntry& entry : archive.entries()) {
    if (entry.deflated) sum += std::min(entry.size, kMostCompressed + 1);
    if (sum > kMostCompressed)
      file.refuse(fmt::format("the code of the network takes more than {} MiB when it is unpacked",
                              kMostCompressed >> 20),
                  kDamaged);
  }
}

/// Whole sentences, for `check` and `inspect`.
std::vector<std::string> notes_of(const Forward& forward, const ScriptFacts& facts) {
  std::vector<std::string> notes;
  if (facts.parameters == 0)
    notes.emplace_back(
        "its weights are frozen into its graph, so nothing in it can be trained; "
        "export it without torch.jit.freeze and optimize_for_inference");
  if (!facts.has_head)
    notes.emplace_back(
        "it does not end in a linear layer, so it has no features, and its head "
        "cannot be trained alone or replaced");
  if (!facts.feature_maps) notes.emplace_back("it offers no feature maps");
  if (forward.softmax)
    notes.emplace_back("it ends in a softmax, which is left out: its input are the logits");
  if (forward.frozen_batch_norm)
    notes.emplace_back(
        "some of its batch normalization has its mode frozen in, so it keeps that "
        "mode while the network is trained");
  if (forward.frozen_dropout)
    notes.emplace_back(
        "its dropout was switched off when it was traced, and stays off while the "
        "network is trained");
  return notes;
}

const char* type_name(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

}  // namespace

std::shared_ptr<const Script> load_script(const std::filesystem::path& path) {
  const InputFile file(path);
  ScriptArchive archive{path.string(), file.text(0, file.size())};
  auto script = std::make_shared<Script>();
  require_small(file);
  script->file = archive.name;
  script->sha256 = base::sha256_of_text(archive.bytes);
  hide_debug_entries(archive);
  const DefaultGeneratorGuard guard;
  try {
    check_text(archive);
    script->module =
        jit::load(std::make_shared<BytesReader>(archive.bytes), c10::Device(c10::kCPU));
    check_graphs(script->module, script->file);
    script->forward = ForwardReader(script->file, script->module).read();
  } catch (const base::HostError&) {
    throw;
  } catch (const std::exception& e) {  // of LibTorch
    if (out_of_memory(e.what())) throw;
    refuse_archive(script->file, e.what());
  }
  return script;
}

const std::string& sha256_of(const Script& script) {
  return script.sha256;
}

bool has_other_state(const Script& script) {
  return script.forward.random || script.forward.counts;
}

std::int64_t parameters_of(const Script& script) {
  std::int64_t count = 0;
  for (const at::Tensor& parameter : script.module.parameters()) count += parameter.numel();
  return count;
}

std::vector<std::pair<std::string, at::Tensor>> state_of(const Script& script) {
  std::vector<std::pair<std::string, at::Tensor>> state;
  std::unordered_set<const void*> known;  // a tensor may have two names
  const auto add = [&](const auto& items) {
    for (const auto& item : items)
      if (known.insert(item.value.unsafeGetTensorImpl()).second)
        state.emplace_back(item.name, in_float(item.value));
  };
  add(script.module.named_parameters());
  add(script.module.named_buffers());
  return state;
}

ScriptFacts describe_script(const std::shared_ptr<const Script>& script) {
  const Forward& forward = script->forward;
  ScriptFacts facts;
  facts.parameters = parameters_of(*script);
  facts.channels = forward.channels;
  facts.training_mode_can_change = !forward.frozen_batch_norm;
  std::map<at::ScalarType, std::int64_t> types;
  for (const at::Tensor& tensor : script->module.parameters())
    types[tensor.scalar_type()] += tensor.numel();
  const auto most = std::max_element(
      types.begin(), types.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  facts.dtype = type_name(most == types.end() ? at::kFloat : most->first);
  const std::vector<std::int64_t> channels =
      forward.channels ? std::vector{*forward.channels} : std::vector<std::int64_t>{3, 1};
  std::string failure;
  // Small ones first: they cost least. A network with a fixed size takes one of them only.
  for (const std::int64_t side : {32, 28, 64, 96, 128, 224, 256, 299, 384})
    for (const std::int64_t depth : channels) {
      if (facts.classes) continue;
      try {
        const Probe seen = probe(forward, script->module, depth, side, side);
        const DefaultGeneratorGuard guard;
        ScriptNetwork network({"torchscript", 0, depth, seen.logits.size(1), side * side, script});
        facts.classes = seen.logits.size(1);
        facts.channels = depth;
        facts.side = side;
        facts.has_head = !network.head().is_empty();
        facts.feature_maps = !network.stages().empty();
        for (const auto& module : network.modules(/*include_self=*/false))
          if (module->as<nn::BatchNorm2dImpl>() != nullptr) facts.batch_norm = true;
      } catch (const std::exception& e) {
        failure = reason_in(e.what());
      }
    }
  if (!facts.classes) {
    facts.notes = {"it does not run on square images of 28 to 384 pixels: " + failure};
    return facts;
  }
  facts.notes = notes_of(forward, facts);
  return facts;
}

std::shared_ptr<Network> make_script_network(const Architecture& architecture) {
  return std::make_shared<ScriptNetwork>(architecture);
}

}  // namespace backstop::engine
