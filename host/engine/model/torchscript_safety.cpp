#include "host/engine/model/torchscript_safety.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <unordered_set>
#include <vector>

// clang with libstdc++ 12 fails in C++20 unless ivalue.h comes first.
#include <ATen/core/ivalue.h>

#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/parse_string_literal.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/engine/model/bytes_reader.hpp"

namespace backstop::engine {

namespace {

namespace jit = torch::jit;

// The operators of `aten::` that compute on tensors, numbers, text and containers, sorted; each
// stands also for its variant in place, whose name has an underscore at its end. Not here, among
// others: save, from_file (files); rpc, fork, wait (processes and threads); as_strided, set_,
// resize_ (views of any memory); manual_seed, set_grad_enabled (the state of the process);
// quantized and sparse tensors; backward operators, which autograd calls by itself; native_batch_norm
// and others that take the sizes of what they are given on trust, and those that classifiers of
// images have no need of, such as upsample_bilinear2d, lstm and grid_sampler.
constexpr std::string_view kTensorOperators[] = {"Bool",
                                                 "Complex",
                                                 "ComplexImplicit",
                                                 "Delete",
                                                 "Float",
                                                 "FloatImplicit",
                                                 "Int",
                                                 "IntImplicit",
                                                 "ScalarImplicit",
                                                 "Size",
                                                 "__and__",
                                                 "__contains__",
                                                 "__derive_index",
                                                 "__getitem__",
                                                 "__iand__",
                                                 "__ilshift__",
                                                 "__interpolate",
                                                 "__ior__",
                                                 "__irshift__",
                                                 "__is__",
                                                 "__isnot__",
                                                 "__ixor__",
                                                 "__lshift__",
                                                 "__not__",
                                                 "__or__",
                                                 "__range_length",
                                                 "__round_to_zero_floordiv",
                                                 "__rshift__",
                                                 "__xor__",
                                                 "_assert_async",
                                                 "_assert_tensor_metadata",
                                                 "_autocast_to_full_precision",
                                                 "_autocast_to_reduced_precision",
                                                 "_convolution",
                                                 "_convolution_mode",
                                                 "_infer_size",
                                                 "_list_to_tensor",
                                                 "_local_scalar_dense",
                                                 "_log_softmax",
                                                 "_pad_circular",
                                                 "_pad_enum",
                                                 "_scaled_dot_product_attention",
                                                 "_set_item",
                                                 "_shape_as_tensor",
                                                 "_size_if_not_equal",
                                                 "_softmax",
                                                 "_to_copy",
                                                 "_unsafe_view",
                                                 "_unwrap_optional",
                                                 "abs",
                                                 "absolute",
                                                 "acos",
                                                 "acosh",
                                                 "adaptive_avg_pool1d",
                                                 "adaptive_avg_pool2d",
                                                 "adaptive_avg_pool3d",
                                                 "adaptive_max_pool1d",
                                                 "adaptive_max_pool2d",
                                                 "adaptive_max_pool3d",
                                                 "add",
                                                 "addbmm",
                                                 "addcdiv",
                                                 "addcmul",
                                                 "addmm",
                                                 "addmv",
                                                 "addr",
                                                 "adjoint",
                                                 "alias",
                                                 "all",
                                                 "allclose",
                                                 "alpha_dropout",
                                                 "amax",
                                                 "amin",
                                                 "aminmax",
                                                 "angle",
                                                 "any",
                                                 "append",
                                                 "arange",
                                                 "arccos",
                                                 "arcsin",
                                                 "arctan",
                                                 "arctan2",
                                                 "argmax",
                                                 "argmin",
                                                 "argsort",
                                                 "as_tensor",
                                                 "asin",
                                                 "asinh",
                                                 "atan",
                                                 "atan2",
                                                 "atanh",
                                                 "atleast_1d",
                                                 "atleast_2d",
                                                 "atleast_3d",
                                                 "avg_pool1d",
                                                 "avg_pool2d",
                                                 "avg_pool3d",
                                                 "baddbmm",
                                                 "batch_norm",
                                                 "bernoulli",
                                                 "bilinear",
                                                 "bin",
                                                 "bitwise_and",
                                                 "bitwise_not",
                                                 "bitwise_or",
                                                 "bitwise_xor",
                                                 "block_diag",
                                                 "bmm",
                                                 "broadcast_tensors",
                                                 "broadcast_to",
                                                 "can_cast",
                                                 "capitalize",
                                                 "cat",
                                                 "ceil",
                                                 "celu",
                                                 "center",
                                                 "channel_shuffle",
                                                 "chr",
                                                 "chunk",
                                                 "clamp",
                                                 "clamp_max",
                                                 "clamp_min",
                                                 "clear",
                                                 "clip",
                                                 "clone",
                                                 "column_stack",
                                                 "complex",
                                                 "concat",
                                                 "concatenate",
                                                 "conj",
                                                 "constant_pad_nd",
                                                 "contiguous",
                                                 "conv1d",
                                                 "conv2d",
                                                 "conv3d",
                                                 "conv_transpose1d",
                                                 "conv_transpose2d",
                                                 "conv_transpose3d",
                                                 "convolution",
                                                 "copy",
                                                 "copysign",
                                                 "cos",
                                                 "cosh",
                                                 "cosine_similarity",
                                                 "count",
                                                 "count_nonzero",
                                                 "cpu",
                                                 "cross",
                                                 "cuda",
                                                 "cummax",
                                                 "cummin",
                                                 "cumprod",
                                                 "cumsum",
                                                 "data",
                                                 "deg2rad",
                                                 "degrees",
                                                 "detach",
                                                 "device",
                                                 "diag",
                                                 "diag_embed",
                                                 "diagonal",
                                                 "dict",
                                                 "diff",
                                                 "dim",
                                                 "dist",
                                                 "div",
                                                 "divide",
                                                 "divmod",
                                                 "dot",
                                                 "dropout",
                                                 "dsplit",
                                                 "dstack",
                                                 "einsum",
                                                 "element_size",
                                                 "elu",
                                                 "embedding",
                                                 "empty",
                                                 "empty_like",
                                                 "endswith",
                                                 "eq",
                                                 "equal",
                                                 "erf",
                                                 "erfc",
                                                 "erfinv",
                                                 "exp",
                                                 "exp2",
                                                 "expand",
                                                 "expand_as",
                                                 "expandtabs",
                                                 "expm1",
                                                 "exponential",
                                                 "extend",
                                                 "eye",
                                                 "fabs",
                                                 "factorial",
                                                 "feature_alpha_dropout",
                                                 "feature_dropout",
                                                 "fill",
                                                 "find",
                                                 "fix",
                                                 "flatten",
                                                 "flip",
                                                 "fliplr",
                                                 "flipud",
                                                 "float_power",
                                                 "floor",
                                                 "floor_divide",
                                                 "floordiv",
                                                 "fmax",
                                                 "fmin",
                                                 "fmod",
                                                 "format",
                                                 "frac",
                                                 "frexp",
                                                 "frobenius_norm",
                                                 "full",
                                                 "full_like",
                                                 "gather",
                                                 "gcd",
                                                 "ge",
                                                 "gelu",
                                                 "ger",
                                                 "get",
                                                 "get_device",
                                                 "glu",
                                                 "greater",
                                                 "greater_equal",
                                                 "group_norm",
                                                 "gt",
                                                 "hardshrink",
                                                 "hardsigmoid",
                                                 "hardswish",
                                                 "hardtanh",
                                                 "has_torch_function",
                                                 "hash",
                                                 "hex",
                                                 "hsplit",
                                                 "hstack",
                                                 "hypot",
                                                 "imag",
                                                 "index",
                                                 "index_add",
                                                 "index_copy",
                                                 "index_fill",
                                                 "index_put",
                                                 "index_select",
                                                 "inner",
                                                 "insert",
                                                 "instance_norm",
                                                 "is_autocast_cpu_enabled",
                                                 "is_autocast_enabled",
                                                 "is_complex",
                                                 "is_contiguous",
                                                 "is_floating_point",
                                                 "is_grad_enabled",
                                                 "is_leaf",
                                                 "is_nonzero",
                                                 "is_same_size",
                                                 "is_scripting",
                                                 "is_signed",
                                                 "isalnum",
                                                 "isalpha",
                                                 "isclose",
                                                 "isdecimal",
                                                 "isdigit",
                                                 "isfinite",
                                                 "isidentifier",
                                                 "isinf",
                                                 "islower",
                                                 "isnan",
                                                 "isneginf",
                                                 "isnumeric",
                                                 "isposinf",
                                                 "isreal",
                                                 "isspace",
                                                 "istitle",
                                                 "isupper",
                                                 "item",
                                                 "items",
                                                 "join",
                                                 "keys",
                                                 "kron",
                                                 "layer_norm",
                                                 "ldexp",
                                                 "le",
                                                 "leaky_relu",
                                                 "len",
                                                 "lerp",
                                                 "less",
                                                 "less_equal",
                                                 "lgamma",
                                                 "lift",
                                                 "lift_fresh",
                                                 "linalg_matmul",
                                                 "linalg_matrix_norm",
                                                 "linalg_norm",
                                                 "linalg_vector_norm",
                                                 "linear",
                                                 "linspace",
                                                 "list",
                                                 "ljust",
                                                 "local_value",
                                                 "log",
                                                 "log10",
                                                 "log1p",
                                                 "log2",
                                                 "log_sigmoid",
                                                 "log_softmax",
                                                 "logaddexp",
                                                 "logaddexp2",
                                                 "logical_and",
                                                 "logical_not",
                                                 "logical_or",
                                                 "logical_xor",
                                                 "logit",
                                                 "logspace",
                                                 "logsumexp",
                                                 "lower",
                                                 "lstrip",
                                                 "lt",
                                                 "mH",
                                                 "mT",
                                                 "masked_fill",
                                                 "masked_select",
                                                 "mathremainder",
                                                 "matmul",
                                                 "max",
                                                 "max_pool1d",
                                                 "max_pool1d_with_indices",
                                                 "max_pool2d",
                                                 "max_pool2d_with_indices",
                                                 "max_pool3d",
                                                 "max_pool3d_with_indices",
                                                 "maximum",
                                                 "mean",
                                                 "median",
                                                 "meshgrid",
                                                 "min",
                                                 "minimum",
                                                 "mish",
                                                 "mm",
                                                 "modf",
                                                 "moveaxis",
                                                 "movedim",
                                                 "mul",
                                                 "multiply",
                                                 "mv",
                                                 "nan_to_num",
                                                 "nanmean",
                                                 "nansum",
                                                 "narrow",
                                                 "ne",
                                                 "neg",
                                                 "negative",
                                                 "new_empty",
                                                 "new_full",
                                                 "new_ones",
                                                 "new_zeros",
                                                 "nonzero",
                                                 "nonzero_numpy",
                                                 "norm",
                                                 "normal",
                                                 "not_equal",
                                                 "numel",
                                                 "numpy_T",
                                                 "oct",
                                                 "one_hot",
                                                 "ones",
                                                 "ones_like",
                                                 "ord",
                                                 "outer",
                                                 "pad",
                                                 "pairwise_distance",
                                                 "partition",
                                                 "percentFormat",
                                                 "permute",
                                                 "pixel_shuffle",
                                                 "pixel_unshuffle",
                                                 "pop",
                                                 "popitem",
                                                 "pow",
                                                 "prelu",
                                                 "prod",
                                                 "promote_types",
                                                 "rad2deg",
                                                 "radians",
                                                 "rand",
                                                 "rand_like",
                                                 "randint",
                                                 "randint_like",
                                                 "randn",
                                                 "randn_like",
                                                 "randperm",
                                                 "range",
                                                 "ravel",
                                                 "real",
                                                 "reciprocal",
                                                 "reflection_pad1d",
                                                 "reflection_pad2d",
                                                 "relu",
                                                 "relu6",
                                                 "remainder",
                                                 "remove",
                                                 "repeat",
                                                 "repeat_interleave",
                                                 "replace",
                                                 "replication_pad1d",
                                                 "replication_pad2d",
                                                 "requires_grad",
                                                 "reshape",
                                                 "reshape_as",
                                                 "resolve_conj",
                                                 "resolve_neg",
                                                 "result_type",
                                                 "reverse",
                                                 "rfind",
                                                 "rindex",
                                                 "rjust",
                                                 "roll",
                                                 "rot90",
                                                 "round",
                                                 "row_stack",
                                                 "rpartition",
                                                 "rrelu",
                                                 "rsqrt",
                                                 "rstrip",
                                                 "rsub",
                                                 "scalar_tensor",
                                                 "scaled_dot_product_attention",
                                                 "scatter",
                                                 "scatter_add",
                                                 "select",
                                                 "selu",
                                                 "setdefault",
                                                 "sgn",
                                                 "sigmoid",
                                                 "sign",
                                                 "signbit",
                                                 "silu",
                                                 "sin",
                                                 "sinc",
                                                 "sinh",
                                                 "size",
                                                 "slice",
                                                 "softmax",
                                                 "softplus",
                                                 "softshrink",
                                                 "sort",
                                                 "sorted",
                                                 "special_erf",
                                                 "special_expit",
                                                 "special_gammaln",
                                                 "special_log1p",
                                                 "special_log_softmax",
                                                 "special_logsumexp",
                                                 "special_softmax",
                                                 "split",
                                                 "split_with_sizes",
                                                 "splitlines",
                                                 "sqrt",
                                                 "square",
                                                 "squeeze",
                                                 "stack",
                                                 "startswith",
                                                 "std",
                                                 "std_mean",
                                                 "storage_offset",
                                                 "str",
                                                 "stride",
                                                 "strip",
                                                 "sub",
                                                 "subtract",
                                                 "sum",
                                                 "sum_to_size",
                                                 "swapaxes",
                                                 "swapcase",
                                                 "swapdims",
                                                 "sym_numel",
                                                 "sym_size",
                                                 "t",
                                                 "tan",
                                                 "tanh",
                                                 "tensor",
                                                 "tensor_split",
                                                 "tensordot",
                                                 "threshold",
                                                 "tile",
                                                 "title",
                                                 "to",
                                                 "topk",
                                                 "transpose",
                                                 "tril",
                                                 "triu",
                                                 "true_divide",
                                                 "trunc",
                                                 "type_as",
                                                 "unbind",
                                                 "unflatten",
                                                 "unfold",
                                                 "uniform",
                                                 "unsafe_chunk",
                                                 "unsafe_split",
                                                 "unsqueeze",
                                                 "update",
                                                 "upper",
                                                 "values",
                                                 "var",
                                                 "var_mean",
                                                 "vdot",
                                                 "view",
                                                 "view_as",
                                                 "view_as_complex",
                                                 "view_as_real",
                                                 "vsplit",
                                                 "vstack",
                                                 "warn",
                                                 "where",
                                                 "xlogy",
                                                 "zero",
                                                 "zeros",
                                                 "zeros_like",
                                                 "zfill"};

// Of `prim::`, sorted: the language's own constructs, and questions about values. print and
// warnings are allowed because they are common, and never reach anybody: see remove_output().
constexpr std::string_view kLanguageOperators[] = {"BroadcastSizes",
                                                   "CallFunction",
                                                   "CallMethod",
                                                   "ConstantChunk",
                                                   "Constant",
                                                   "CreateObject",
                                                   "DictConstruct",
                                                   "EnumName",
                                                   "EnumValue",
                                                   "GetAttr",
                                                   "If",
                                                   "ListConstruct",
                                                   "ListUnpack",
                                                   "Loop",
                                                   "NumToTensor",
                                                   "Param",
                                                   "Print",
                                                   "RaiseException",
                                                   "Return",
                                                   "SetAttr",
                                                   "StringIndex",
                                                   "TupleConstruct",
                                                   "TupleIndex",
                                                   "TupleSlice",
                                                   "TupleUnpack",
                                                   "Uninitialized",
                                                   "abs",
                                                   "data",
                                                   "device",
                                                   "dtype",
                                                   "index",
                                                   "is_cpu",
                                                   "is_cuda",
                                                   "is_meta",
                                                   "is_mkldnn",
                                                   "is_nested",
                                                   "is_quantized",
                                                   "is_sparse",
                                                   "isinstance",
                                                   "layout",
                                                   "max",
                                                   "min",
                                                   "rangelist",
                                                   "requires_grad",
                                                   "shape",
                                                   "tolist",
                                                   "type",
                                                   "unchecked_cast",
                                                   "unchecked_unwrap_optional"};

bool contains(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_tensor_operator(std::string_view name) {
  return contains(kTensorOperators, name) ||
         (name.ends_with('_') && contains(kTensorOperators, name.substr(0, name.size() - 1)));
}

std::string shown(std::string_view text) {
  return base::printable(base::shortened(std::string(text)));
}

constexpr const char* kBeyondStorage = "holds a tensor that reaches beyond its storage";
constexpr const char* kNotDense = "holds a sparse or quantized tensor";
/// More than any network has; SECURITY.md states these bounds.
constexpr double kMostElements = 1'099'511'627'776;  // of a tensor, which may repeat them
constexpr std::size_t kMostHeight = 100;
constexpr std::size_t kMostNested = 200;
constexpr std::size_t kMostWords = 5000;

[[noreturn]] void refuse(const std::string& file, const std::string& what) {
  throw base::HostError(base::ExitCode::environment, fmt::format("{} {}", file, what),
                        "nothing of the file was run; load a state dict of the network instead, "
                        "or export the network without this");
}

[[noreturn]] void refuse_operator(const std::string& file, std::string_view name,
                                  std::string_view function) {
  refuse(file,
         fmt::format("calls {} in {}, which is not among the operators that a classifier needs",
                     shown(name), shown(function)));
}

/// Names that could be attributes of a tensor and so call an operator that is not allowed.
const std::set<std::string, std::less<>>& refused_names() {
  static const std::set<std::string, std::less<>> names = [] {
    std::set<std::string, std::less<>> refused = {"fork", "rpc_async", "rpc_sync", "rpc_remote"};
    for (const auto& known : jit::getAllOperators()) {
      const std::string name = known->schema().name();
      const bool tensors = name.starts_with("aten::");
      if ((tensors || name.starts_with("prim::")) && !is_allowed(name))
        refused.insert(name.substr(name.rfind(':') + 1));
    }
    return refused;
  }();
  return names;
}

/// One source file of an archive, as LibTorch's own lexer cuts it.
class SourceCheck {
 public:
  SourceCheck(const std::string& file, const std::string& text) : file_(file) {
    jit::Lexer lexer(std::make_shared<jit::Source>(text));
    while (lexer.cur().kind != jit::TK_EOF) tokens_.push_back(lexer.next());
  }

  void run() {
    check_nesting();
    for (at_ = 0; at_ < tokens_.size(); ++at_) {
      if (is('^') && next_is(1, jit::TK_IDENT) && !after_operand())
        refuse(file_,
               fmt::format("calls the Python function {} in {}", shown(text(1)), shown(function_)));
      if (is(jit::TK_DEF) && next_is(1, jit::TK_IDENT)) function_ = text(1);
      if (is(jit::TK_IDENT)) check_name();
    }
  }

 private:
  [[nodiscard]] bool next_is(std::size_t steps, int kind) const {
    return at_ + steps < tokens_.size() && tokens_[at_ + steps].kind == kind;
  }
  [[nodiscard]] bool is(int kind) const { return next_is(0, kind); }
  [[nodiscard]] bool before_is(int kind) const { return at_ > 0 && tokens_[at_ - 1].kind == kind; }
  std::string text(std::size_t steps) {
    return at_ + steps < tokens_.size() ? tokens_[at_ + steps].text() : std::string();
  }
  [[nodiscard]] bool after_operand() const {
    for (const int kind :
         {int{jit::TK_IDENT}, int{jit::TK_NUMBER}, int{jit::TK_STRINGLITERAL}, int{jit::TK_TRUE},
          int{jit::TK_FALSE}, int{jit::TK_NONE}, int{')'}, int{']'}})
      if (before_is(kind)) return true;
    return false;
  }

  /// LibTorch's parser and compiler call themselves for whatever is nested, and for each term.
  void check_nesting() const {
    std::size_t depth = 0, branches = 0, words = 0;
    for (const jit::Token& token : tokens_) {
      const int kind = token.kind;
      if (kind == '(' || kind == '[' || kind == '{' || kind == jit::TK_INDENT) ++depth;
      if ((kind == ')' || kind == ']' || kind == '}' || kind == jit::TK_DEDENT) && depth > 0)
        --depth;
      if (kind == jit::TK_ELIF) ++branches;  // of LibTorch's own archives none has any
      if (depth > kMostNested || branches > kMostNested)
        refuse(file_, fmt::format("has code nested more than {} deep", kMostNested));
      if (kind == jit::TK_NEWLINE || kind == jit::TK_INDENT || kind == jit::TK_DEDENT)
        words = 0;
      else if (kind != ',' && ++words > kMostWords)
        refuse(file_, fmt::format("has a statement of more than {} words", kMostWords));
    }
  }

  void check_name() {
    const std::string name = text(0);
    if (name == "__setstate__" || name == "__getstate__")
      refuse(file_, fmt::format("has a method {}, which would run while the file is loaded", name));
    if ((name == "torch" || name == "ops") && !before_is('.') && !next_is(1, '.'))
      refuse(file_, fmt::format("hands `{}` on in {}, so it is not known what it calls", name,
                                shown(function_)));
    const bool called = next_is(1, '(');
    if (called && (name == "getattr" || name == "hasattr")) check_strings();
    if (before_is('.')) {  // of what a call or a subscript gives
      check_member("aten::", name);
      return;
    }
    if (!next_is(1, '.') || !next_is(2, jit::TK_IDENT)) {
      if (called) check_member("", name);
      return;
    }
    std::vector<std::string> path{name};  // a name with its attributes: torch.nn.functional.relu
    while (next_is(1, '.') && next_is(2, jit::TK_IDENT)) {
      path.push_back(text(2));
      at_ += 2;
    }
    check_path(path);
  }

  void check_path(const std::vector<std::string>& path) {
    if (path[0] == "torch") {
      if (!is_allowed("aten::" + path[1]))
        refuse_operator(file_, (path[1] == "classes" ? "torch." : "aten::") + path[1], function_);
    } else if (path[0] == "ops") {
      const std::string name = path[1] + "::" + (path.size() > 2 ? path[2] : "");
      if (!is_allowed(name)) refuse_operator(file_, name, function_);
    } else if (path[0] == "__torch__" && path[1] == "torch" && path.size() > 2 &&
               path[2] == "classes") {
      refuse(file_, fmt::format("uses the class {} in {}, which is implemented outside of the file",
                                shown(path.back()), shown(function_)));
    } else if (path[0] == "__torch__") {  // functions and classes of the file, in their folders
      if (next_is(1, '(')) check_member("aten::", path.back());
      return;
    }
    for (std::size_t i = 1; i < path.size(); ++i) {
      if (path[i] == "__setstate__" || path[i] == "__getstate__")
        refuse(file_, fmt::format("calls {} in {}", path[i], shown(function_)));
      if (path[0] != "ops" || i > 2) check_member("aten::", path[i]);
    }
  }

  void check_member(const char* space, const std::string& name) {
    if (refused_names().contains(name)) refuse_operator(file_, space + name, function_);
  }

  /// getattr(x, "save")(...) is x.save(...).
  void check_strings() {
    std::size_t depth = 0;
    for (std::size_t i = at_ + 1; i < tokens_.size(); ++i) {
      const int kind = tokens_[i].kind;
      if (kind == '(') ++depth;
      if (kind == ')' && --depth == 0) return;
      if (kind == jit::TK_STRINGLITERAL)
        check_member("aten::", jit::parseStringLiteral(tokens_[i].range, tokens_[i].text()));
    }
  }

  const std::string& file_;
  std::vector<jit::Token> tokens_;
  std::size_t at_ = 0;
  std::string function_ = "its code";
};

/// Whether a tensor of these sizes and strides lies in a storage of `count` numbers.
bool within(at::IntArrayRef sizes, at::IntArrayRef strides, std::int64_t offset, double count) {
  double elements = 1, last = static_cast<double>(offset);
  if (sizes.size() != strides.size() || offset < 0) return false;
  bool empty = false;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || strides[i] < 0) return false;
    empty = empty || sizes[i] == 0;
    elements *= static_cast<double>(std::max<std::int64_t>(sizes[i], 1));
    last += static_cast<double>(sizes[i] - 1) * static_cast<double>(strides[i]);
  }
  return elements <= kMostElements && (empty || last < count);
}

/// How many bytes a number takes of which LibTorch has such a storage, or 0.
std::size_t item_size(std::string_view storage) {
  static const std::map<std::string_view, std::size_t> sizes = {
      {"torch.ByteStorage", 1},         {"torch.CharStorage", 1},
      {"torch.BoolStorage", 1},         {"torch.ShortStorage", 2},
      {"torch.HalfStorage", 2},         {"torch.BFloat16Storage", 2},
      {"torch.IntStorage", 4},          {"torch.FloatStorage", 4},
      {"torch.LongStorage", 8},         {"torch.DoubleStorage", 8},
      {"torch.ComplexFloatStorage", 8}, {"torch.ComplexDoubleStorage", 16}};
  const auto known = sizes.find(storage);
  return known == sizes.end() ? 0 : known->second;
}

/// What a pickle of an archive builds: of its own classes, and of the few of PyTorch's that
/// LibTorch's reader turns into tensors and containers. It follows how the instructions use the
/// stack, how large tensors are and how deep values, all of which that reader takes on trust.
class PickleCheck {
 public:
  using RecordSize = std::function<std::size_t(const std::string& name)>;

  /// `own_classes`: whether it may hold objects of the archive's classes.
  PickleCheck(const std::string& file, std::string_view bytes, bool own_classes,
              RecordSize size_of_tensor)
      : file_(file), rest_(bytes), own_classes_(own_classes), size_of_(std::move(size_of_tensor)) {}

  void run() {
    while (step()) {
    }
  }

 private:
  enum class Kind { other, number, text, global, storage, tuple, container };
  /// Common to all that refer to a value.
  struct Nesting {
    std::size_t height = 0;  ///< of containers within one another
    bool held = false;       ///< by another
  };
  /// A value, as far as it must be known.
  struct Item {
    Kind kind = Kind::other;
    std::int64_t number = 0;                          ///< or how many numbers a storage has
    std::string text;                                 ///< or the name of a class
    std::shared_ptr<const std::vector<Item>> values;  ///< of a tuple that is not long
    std::shared_ptr<Nesting> nesting = std::make_shared<Nesting>();
  };

  [[noreturn]] void damaged() const {
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("{} holds a damaged description of its objects", file_),
                          "the file is damaged or was changed; fetch it again");
  }
  std::string_view take(std::size_t n) {
    if (n > rest_.size()) damaged();
    const std::string_view taken = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return taken;
  }
  std::uint64_t number(std::size_t n) {
    std::uint64_t value = 0;
    const std::string_view bytes = take(n);
    for (std::size_t i = 0; i < n; ++i)
      value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
    return value;
  }
  std::string_view line() {
    const std::size_t end = rest_.find('\n');
    if (end == rest_.npos) damaged();
    const std::string_view taken = take(end);
    take(1);
    return taken;
  }

  void push(Item item) { stack_.push_back(std::move(item)); }
  void push_number(std::int64_t value) {
    Item item;
    item.kind = Kind::number;
    item.number = value;
    push(std::move(item));
  }
  void push_text(std::string_view text) {
    Item item;
    item.kind = Kind::text;
    item.text = text;
    push(std::move(item));
  }
  void push_container() {
    Item item;
    item.kind = Kind::container;
    item.nesting->height = 1;
    push(std::move(item));
  }
  /// Takes `n` values from above the last mark.
  std::vector<Item> pop(std::size_t n) {
    if (stack_.size() < n + (marks_.empty() ? 0 : marks_.back())) damaged();
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(n);
    std::vector<Item> items(std::make_move_iterator(first), std::make_move_iterator(stack_.end()));
    stack_.erase(first, stack_.end());
    return items;
  }
  Item pop() { return std::move(pop(1)[0]); }
  /// Takes all above the last mark, and the mark.
  std::vector<Item> pop_marked() {
    if (marks_.empty()) damaged();
    std::vector<Item> items = pop(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }
  /// The height of what holds `items`.
  std::size_t height_over(const std::vector<Item>& items) const {
    std::size_t height = 0;
    for (const Item& item : items) {
      height = std::max(height, item.nesting->height);
      item.nesting->held = true;
    }
    if (height >= kMostHeight)
      refuse(file_, fmt::format("holds values nested more than {} deep", kMostHeight));
    return height + 1;
  }

  void push_tuple(std::vector<Item> items) {
    Item tuple;
    tuple.nesting->height = height_over(items);
    constexpr std::size_t kMostKnown = 64;  // longer ones say nothing of tensors
    if (items.size() <= kMostKnown) {
      tuple.kind = Kind::tuple;
      tuple.values = std::make_shared<const std::vector<Item>>(std::move(items));
    }
    push(std::move(tuple));
  }
  /// Puts `items` into the list or dictionary on the stack. Nothing may hold that already, for what
  /// holds it would become higher, too.
  void fill(const std::vector<Item>& items) {
    const Item container = pop();
    if (container.kind != Kind::container || container.nesting->held) damaged();
    container.nesting->height = std::max(container.nesting->height, height_over(items));
    if (container.nesting->held) damaged();  // by itself
    push(container);
  }
  void remember(std::size_t place) {
    if (place > memo_.size() || stack_.empty()) damaged();
    if (place == memo_.size()) memo_.emplace_back();
    memo_[place] = stack_.back();
  }
  void recall(std::size_t place) {
    if (place >= memo_.size()) damaged();
    push(memo_[place]);
  }

  void push_global(std::string_view module, std::string_view name) {
    Item item;
    item.kind = Kind::global;
    item.text = fmt::format("{}.{}", module, name);
    const bool own = item.text.starts_with("__torch__.") &&
                     !item.text.starts_with("__torch__.torch.classes.") && own_classes_;
    const bool known = module == "torch.jit._pickle" || module == "torch" ||
                       module == "torch._utils" || item.text == "collections.OrderedDict" ||
                       item.text == "builtins.complex";
    if ((!own && !known) || item.text.find('\0') != item.text.npos)
      refuse(file_, fmt::format("holds an object of the class {}, which a network does not need",
                                shown(item.text)));
    push(std::move(item));
  }

  /// A persistent name: ("storage", torch.FloatStorage, "0", "cpu", 12).
  void push_storage(const Item& name) {
    if (name.kind != Kind::tuple || name.values->size() != 5) damaged();
    const Item& type = name.values->at(1);
    const Item& record = name.values->at(2);
    const Item& count = name.values->at(4);
    if (type.kind != Kind::global || record.kind != Kind::text || count.kind != Kind::number)
      damaged();
    const std::size_t size = item_size(type.text);
    if (size == 0)
      refuse(file_, fmt::format("holds a tensor of the kind {}, which a network does not need",
                                shown(type.text)));
    if (count.number != 0 && (count.number < 0 || static_cast<std::uint64_t>(count.number) >
                                                      size_of_(record.text) / size))
      refuse(file_, kBeyondStorage);
    Item storage;
    storage.kind = Kind::storage;
    storage.number = count.number;
    push(std::move(storage));
  }

  [[nodiscard]] std::vector<std::int64_t> numbers_of(const Item& tuple) const {
    if (tuple.kind != Kind::tuple) damaged();
    std::vector<std::int64_t> numbers;
    for (const Item& value : *tuple.values) {
      if (value.kind != Kind::number) damaged();
      numbers.push_back(value.number);
    }
    return numbers;
  }

  void check_tensor(const Item& arguments) const {
    if (arguments.kind != Kind::tuple || arguments.values->size() < 4) damaged();
    const Item& storage = arguments.values->at(0);
    const Item& offset = arguments.values->at(1);
    if (storage.kind != Kind::storage || offset.kind != Kind::number) damaged();
    if (!within(numbers_of(arguments.values->at(2)), numbers_of(arguments.values->at(3)),
                offset.number, static_cast<double>(storage.number)))
      refuse(file_, kBeyondStorage);
  }

  /// Makes an object or the result of a function. LibTorch calls a function by its number, for
  /// which it would also take the number of a storage's type.
  void call() {
    const std::vector<Item> items = pop(2);
    const std::string& function = items[0].text;
    if (items[0].kind != Kind::global) damaged();
    Item result;
    if (function == "torch._utils._rebuild_tensor_v2") {
      check_tensor(items[1]);
      return push(std::move(result));
    }
    if (function.starts_with("torch._utils.")) refuse(file_, kNotDense);
    if (!function.starts_with("__torch__.") && !function.starts_with("torch.jit._pickle.") &&
        function != "collections.OrderedDict" && function != "builtins.complex" &&
        function != "torch.device")
      damaged();
    result.nesting->height = height_over(items);
    push(std::move(result));
  }

  bool step() {
    const char code = take(1)[0];
    switch (code) {
      case '\x80':
        take(1);
        return true;  // PROTO
      case '.':
        pop();
        return false;  // STOP
      case '(':
        marks_.push_back(stack_.size());
        return true;  // MARK
      case 'N':
      case '\x88':
      case '\x89':
        push({});
        return true;  // None, True, False
      case ')':
        push_tuple({});
        return true;  // EMPTY_TUPLE
      case ']':
      case '}':
        push_container();
        return true;  // EMPTY_LIST, EMPTY_DICT
      case 'K':
        push_number(static_cast<std::int64_t>(number(1)));
        return true;  // BININT1
      case 'M':
        push_number(static_cast<std::int64_t>(number(2)));
        return true;  // BININT2
      case 'J':
        push_number(static_cast<std::int32_t>(number(4)));
        return true;  // BININT
      case 'G':
        take(8);
        push({});
        return true;  // BINFLOAT
      case '\x8a':
        if (number(1) != 8) damaged();  // as LibTorch writes it
        push_number(static_cast<std::int64_t>(number(8)));
        return true;  // LONG1
      case 'X':
      case 'T':
        push_text(take(number(4)));
        return true;  // BINUNICODE, BINSTRING
      case 'U':
        push_text(take(number(1)));
        return true;  // SHORT_BINSTRING
      case 'q':
        remember(number(1));
        return true;  // BINPUT
      case 'r':
        remember(number(4));
        return true;  // LONG_BINPUT
      case 'h':
        recall(number(1));
        return true;  // BINGET
      case 'j':
        recall(number(4));
        return true;  // LONG_BINGET
      case 't':
        push_tuple(pop_marked());
        return true;  // TUPLE
      case '\x85':
        push_tuple(pop(1));
        return true;  // TUPLE1
      case '\x86':
        push_tuple(pop(2));
        return true;  // TUPLE2
      case '\x87':
        push_tuple(pop(3));
        return true;  // TUPLE3
      case 'a':
        fill(pop(1));
        return true;  // APPEND
      case 's':
        fill(pop(2));
        return true;  // SETITEM
      case 'e':
        fill(pop_marked());
        return true;  // APPENDS
      case 'u': {
        const std::vector<Item> items = pop_marked();
        if (items.size() % 2 != 0) damaged();
        fill(items);
        return true;  // SETITEMS
      }
      case 'Q':
        push_storage(pop());
        return true;  // BINPERSID
      case 'R':
      case 'b':
        call();
        return true;  // REDUCE, BUILD
      case '\x81':
        pop();        // what is called then is the class
        return true;  // NEWOBJ
      case 'c': {     // GLOBAL
        const std::string_view module = line();
        push_global(module, line());
        return true;
      }
      default:
        damaged();
    }
  }

  const std::string& file_;
  std::string_view rest_;
  bool own_classes_;
  RecordSize size_of_;
  std::vector<Item> stack_;
  std::vector<std::size_t> marks_;
  std::vector<Item> memo_;
};

/// Values of a loaded module, against the types that its code has for them. LibTorch compares
/// neither, and code that takes one object for another reads foreign memory.
class ValueCheck {
 public:
  explicit ValueCheck(const std::string& file) : file_(file) {}

  void check(const c10::IValue& value, const c10::TypePtr& type, std::size_t depth = 0) {
    if (depth > kMostDepth)
      refuse(file_, fmt::format("holds values nested more than {} deep", kMostDepth));
    if (++steps_ > kMostValues)
      refuse(file_, fmt::format("holds more than {} values", kMostValues));
    if (const auto optional = type->cast<c10::OptionalType>()) {
      if (!value.isNone()) check(value, optional->getElementType(), depth + 1);
      return;
    }
    if (value.isTensor()) {
      if (!c10::TensorType::get()->isSubtypeOf(*type)) differ(type);
      return check_tensor(value.toTensor());
    }
    if (!value.isObject() && !value.isList() && !value.isTuple() && !value.isGenericDict()) {
      if (!value.type()->isSubtypeOf(*type)) differ(type);
      return;
    }
    // Types are kept, so that no other gets the same address.
    if (!visited_.emplace(value.internalToPointer(), type).second) return;
    if (value.isObject()) {
      check_object(value.toObjectRef(), type, depth);
    } else if (value.isTuple()) {
      check_tuple(value, type, depth);
    } else if (value.isList()) {
      const auto list = value.toList();
      const auto declared = type->cast<c10::ListType>();
      if (declared == nullptr && !value.type()->isSubtypeOf(*type)) differ(type);
      for (const c10::IValue& item : value.toListRef()) {
        if (declared != nullptr) check(item, declared->getElementType(), depth + 1);
        check(item, list.elementType(), depth + 1);
      }
    } else {
      const auto dict = value.toGenericDict();
      const auto declared = type->cast<c10::DictType>();
      if (declared == nullptr && !value.type()->isSubtypeOf(*type)) differ(type);
      for (const auto& entry : dict) {
        if (declared != nullptr) {
          check(entry.key(), declared->getKeyType(), depth + 1);
          check(entry.value(), declared->getValueType(), depth + 1);
        }
        check(entry.key(), dict.keyType(), depth + 1);
        check(entry.value(), dict.valueType(), depth + 1);
      }
    }
  }

  void check_constant(const c10::IValue& value) { check(value, value.type()); }

 private:
  static constexpr std::size_t kMostDepth = 200;
  static constexpr std::size_t kMostValues = 20'000'000;

  [[noreturn]] void differ(const c10::TypePtr& type) const {
    refuse(file_, fmt::format("holds something else where its code has a {}", shown(type->str())));
  }

  void check_object(const c10::ivalue::Object& object, const c10::TypePtr& type,
                    std::size_t depth) {
    const auto own = object.type();
    const bool same =
        type->cast<c10::ClassType>() != nullptr ? *own == *type : own->isSubtypeOf(*type);
    if (!same || object.slots().size() != own->numAttributes()) differ(type);
    for (std::size_t i = 0; i < own->numAttributes(); ++i)
      check(object.slots()[i], own->getAttribute(i), depth + 1);
  }

  void check_tuple(const c10::IValue& value, const c10::TypePtr& type, std::size_t depth) {
    const auto own = value.type()->cast<c10::TupleType>();
    const auto declared = type->cast<c10::TupleType>();
    const auto& items = value.toTupleRef().elements();
    if (declared == nullptr && !own->isSubtypeOf(*type)) differ(type);
    for (const auto& expected : {own, declared}) {
      if (expected == nullptr) continue;
      if (expected->elements().size() != items.size()) differ(type);
      for (std::size_t i = 0; i < items.size(); ++i)
        check(items[i], expected->elements()[i], depth + 1);
    }
  }

  void check_tensor(const at::Tensor& tensor) const {
    if (!tensor.defined()) return;
    if (tensor.layout() != at::kStrided || tensor.is_quantized()) refuse(file_, kNotDense);
    const auto bytes = static_cast<double>(tensor.storage().nbytes());
    if (!within(tensor.sizes(), tensor.strides(), tensor.storage_offset(),
                std::floor(bytes / static_cast<double>(tensor.itemsize()))))
      refuse(file_, kBeyondStorage);
  }

  const std::string& file_;
  std::size_t steps_ = 0;
  std::set<std::pair<const void*, c10::TypePtr>> visited_;
};

class GraphCheck {
 public:
  explicit GraphCheck(const std::string& file) : file_(file) {}

  void function(jit::Function& function) {
    jit::GraphFunction* const known = jit::tryToGraphFunction(function);
    if (known == nullptr) return;  // the constructor of a named tuple
    name_ = function.qualname().name();
    graph(*known->graph());
  }

  void class_type(const c10::ClassType& type) {
    for (const auto* functions :
         {&type.methods(), &type.getForwardHooks(), &type.getForwardPreHooks()})
      for (jit::Function* const item : *functions) function(*item);
  }

 private:
  void graph(jit::Graph& graph) {
    if (visited_.insert(&graph).second) block(*graph.block());
  }

  void block(jit::Block& block) {
    for (jit::Node* const node : block.nodes()) {
      const char* const kind = node->kind().toQualString();
      if (!is_allowed(kind)) refuse_operator(file_, kind, name_);
      if (node->kind() == c10::prim::unchecked_cast && !is_safe_cast(*node))
        refuse(file_, fmt::format("takes a {} for a {} in {}", shown(node->input()->type()->str()),
                                  shown(node->output()->type()->str()), shown(name_)));
      for (const c10::Symbol name : node->attributeNames()) attribute(*node, name);
      for (jit::Block* const inner : node->blocks()) this->block(*inner);
    }
  }

  /// Of an object's class nothing is asked when it runs, but of a number or tensor.
  static bool is_safe_cast(const jit::Node& node) {
    const c10::TypePtr& from = node.input()->type();
    const c10::TypePtr& to = node.output()->type();
    const auto optional = from->cast<c10::OptionalType>();
    if (from->isSubtypeOf(*to) ||
        (optional != nullptr && optional->getElementType()->isSubtypeOf(*to)))
      return true;
    switch (to->kind()) {
      case c10::TypeKind::TensorType:
      case c10::TypeKind::IntType:
      case c10::TypeKind::FloatType:
      case c10::TypeKind::BoolType:
      case c10::TypeKind::StringType:
        return true;
      default:
        return false;
    }
  }

  void attribute(const jit::Node& node, c10::Symbol name) {
    switch (node.kindOf(name)) {
      case jit::AttributeKind::g:
        return graph(*node.g(name));
      case jit::AttributeKind::gs:
        for (const auto& inner : node.gs(name)) graph(*inner);
        return;
      case jit::AttributeKind::t:
        return values_.check_constant(node.t(name));
      case jit::AttributeKind::ts:
        for (const at::Tensor& tensor : node.ts(name)) values_.check_constant(tensor);
        return;
      case jit::AttributeKind::ival:
        return values_.check_constant(node.ival(name));
      default:
        return;
    }
  }

  const std::string& file_;
  std::string name_;
  std::unordered_set<const jit::Graph*> visited_;
  ValueCheck values_{file_};
};

constexpr std::string_view kDebug = ".debug_pkl", kHiddenDebug = ".debug_pkx";

std::string record_of(caffe2::serialize::PyTorchStreamReader& reader, const std::string& name) {
  const auto [data, size] = reader.getRecord(name);
  return {static_cast<const char*>(data.get()), size};
}

std::string lower_case(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

bool is_allowed(std::string_view kind) {
  if (kind.starts_with("aten::")) return is_tensor_operator(kind.substr(6));
  if (kind.starts_with("prim::")) return contains(kLanguageOperators, kind.substr(6));
  return false;
}

void hide_debug_entries(ScriptArchive& archive) {
  for (std::size_t at = 0; (at = archive.bytes.find(kDebug, at)) != archive.bytes.npos;)
    archive.bytes.replace(at, kHiddenDebug.size(), kHiddenDebug);
}

void check_text(const ScriptArchive& archive) {
  const auto reader = std::make_unique<caffe2::serialize::PyTorchStreamReader>(
      std::make_shared<BytesReader>(archive.bytes));
  // Values of these have no types, and LibTorch's reader trusts the code's types instead.
  constexpr std::uint64_t kFirstWithTypes = 3;
  if (reader->version() < kFirstWithTypes)
    refuse(archive.name, "was written before PyTorch 1.5, in a form that is not read");
  std::set<std::string> names;
  for (const std::string& record : reader->getAllRecords()) {
    // LibTorch looks a name up without regard to case: of two that differ in it, it might read
    // another one than is checked here.
    const std::string name = lower_case(record);
    if (!names.insert(name).second)
      refuse(archive.name, fmt::format("has two entries called {}", shown(record)));
    // The list holds names only in part when they are too long or have a zero in them.
    if (!reader->hasRecord(record))
      refuse(archive.name, fmt::format("has an entry with too long a name: {}", shown(record)));
    if (name.ends_with(kDebug))
      refuse(archive.name, fmt::format("has an entry with an odd name: {}", shown(record)));
    const bool debug = name.ends_with(kHiddenDebug);
    const bool source = name.starts_with("code/") && !debug;
    const bool pickle = name == "data.pkl" || name == "constants.pkl";
    if (name == "model.json")
      refuse(archive.name, "is in the form that TorchScript had before PyTorch 1.2");
    if (!source && !pickle) continue;
    const std::string content = record_of(*reader, record);
    if (source) SourceCheck(archive.name, content).run();
    if (!pickle) continue;
    const std::string folder = name.substr(0, name.size() - 4) + "/";
    std::map<std::string, std::size_t> sizes;
    // LibTorch computes with constants already while it loads an archive, so that they must not be
    // objects that have other attributes than their class.
    PickleCheck(archive.name, content, /*own_classes=*/name == "data.pkl",
                [&](const std::string& tensor) {
                  const auto [known, added] = sizes.try_emplace(tensor);
                  if (added) known->second = std::get<1>(reader->getRecord(folder + tensor));
                  return known->second;
                })
        .run();
  }
}

void check_graphs(const jit::Module& module, const std::string& name) {
  ValueCheck(name).check(module._ivalue(), module.type());
  GraphCheck check(name);
  for (const jit::Module& part : module.modules()) check.class_type(*part.type());
  for (jit::Function* const function : module._ivalue()->compilation_unit()->get_functions())
    check.function(*function);
}

}  // namespace backstop::engine
