#include "host/engine/store/model_file.hpp"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/base/error.hpp"
#include "host/engine/formats/model_source.hpp"
#include "host/engine/store/scalar_types.hpp"

namespace backstop::engine {

namespace {

/// The indices of the header's tensors by their storages.
std::map<std::size_t, std::vector<std::size_t>> by_storage(const ModelHeader& header) {
  std::map<std::size_t, std::vector<std::size_t>> all;
  for (std::size_t i = 0; i < header.tensors.size(); ++i)
    all[header.tensors[i].storage].push_back(i);
  return all;
}

/// The tensor as it lies in the bytes of its storage, which must outlive it.
at::Tensor view_of(const StoredTensor& tensor, std::string& storage) {
  return at::from_blob(storage.data() + tensor.offset * size_of(tensor.type), tensor.shape,
                       tensor.strides, at::TensorOptions().dtype(scalar_type(tensor.type)));
}

NamedTensors read_tensors(const ModelSource& source) {
  const ModelHeader& header = source.header();
  NamedTensors tensors(header.tensors.size());
  for (const auto& [storage, indices] : by_storage(header)) {
    std::string bytes = source.bytes(storage);
    for (const std::size_t i : indices)
      tensors[i] = {header.tensors[i].name,
                    view_of(header.tensors[i], bytes).clone(at::MemoryFormat::Contiguous)};
  }
  return tensors;
}

/// Writes one element where several of the view are one in memory, as expand() leaves them.
void assign(at::Tensor view, at::Tensor values) {
  for (std::int64_t d = 0; d < view.dim(); ++d)
    if (view.stride(d) == 0 && view.size(d) > 1) {
      view = view.narrow(d, 0, 1);
      values = values.narrow(d, 0, 1);
    }
  view.copy_(values);
}

}  // namespace

void require_finite(const NamedTensors& tensors, const std::filesystem::path& path) {
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.is_floating_point()) continue;
    const auto numbers =
        at::isfinite(tensor.to(at::kFloat)).logical_not().sum().item<std::int64_t>();
    if (numbers > 0)
      throw base::HostError(base::ExitCode::environment,
                            fmt::format("{}: {} of the {} numbers in `{}` are not finite",
                                        path.string(), numbers, tensor.numel(), name),
                            "the file is damaged, or its training diverged");
  }
}

ModelFile read_model_file(const std::filesystem::path& path) {
  const ModelSource source(path);
  const ModelHeader& header = source.header();
  ModelFile model{read_tensors(source), header.facts,  header.format,
                  header.location,      header.prefix, header.rest};
  require_finite(model.weights, path);
  return model;
}

void write_like(const std::filesystem::path& original, const std::filesystem::path& output,
                const NamedTensors& weights) {
  const ModelSource source(original);
  const auto& tensors = source.header().tensors;
  const auto refuse = [&](const std::string& why) {
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("cannot write a model like {}: {}", original.string(), why));
  };
  std::map<std::string_view, std::size_t> indices;
  for (std::size_t i = 0; i < tensors.size(); ++i) indices.emplace(tensors[i].name, i);
  std::vector<at::Tensor> values(tensors.size());
  for (const auto& [name, value] : weights) {
    const auto index = indices.find(name);
    // Files may leave out this counter, which a model always has.
    if (index == indices.end() && name.ends_with("num_batches_tracked")) continue;
    if (index == indices.end()) refuse(fmt::format("it has no tensor {}", shown(name)));
    const StoredTensor& stored = tensors[index->second];
    if (value.sizes() != at::IntArrayRef(stored.shape))
      refuse(fmt::format("{} is [{}] there, not [{}]", shown(name), fmt::join(stored.shape, ", "),
                         fmt::join(value.sizes(), ", ")));
    const at::Tensor exact = value.detach().to(at::kCPU);
    at::Tensor& written = values[index->second];
    written = exact.to(scalar_type(stored.type));
    if (written.is_floating_point() && exact.isfinite().all().item<bool>() &&
        !written.isfinite().all().item<bool>())
      refuse(fmt::format("the values of {} are too large for {}", shown(name),
                         to_string(stored.type)));
  }

  std::map<std::size_t, std::string> changed;
  for (const auto& [storage, members] : by_storage(source.header())) {
    const auto given = [&](const std::size_t i) { return values[i].defined(); };
    if (std::none_of(members.begin(), members.end(), given)) continue;
    std::string bytes = source.bytes(storage);
    for (const std::size_t i : members)
      if (given(i)) assign(view_of(tensors[i], bytes), values[i]);
    for (const std::size_t i : members)
      if (given(i) && !view_of(tensors[i], bytes).equal(values[i]))
        refuse(fmt::format("elements of {} that are one number there have become different",
                           shown(tensors[i].name)));
    changed[storage] = std::move(bytes);
  }
  source.write_copy(output, std::move(changed));
}

}  // namespace backstop::engine
