#include "host/engine/plugins/stage_context.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "host/base/interrupt.hpp"
#include "host/base/text.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/engine/store/model_file.hpp"
#include "host/report/metrics.hpp"

namespace backstop::engine {

namespace {

// What the names of these begin with among the records.
constexpr std::string_view kArtifact = "artifact.", kPicture = "picture.";

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return "debug";
    case LogLevel::info:
      return "info";
    case LogLevel::warning:
      return "warning";
  }
  return "info";
}

/// A name that a plugin gives, for files that people and programs read.
std::string checked_name(std::string_view what, std::string_view name) {
  constexpr std::size_t kMost = 200;
  const std::string shown = base::shortened(base::valid_utf8(name));
  if (name.empty()) throw Error(fmt::format("the name of the {} is empty", what));
  if (base::valid_utf8(name) != name)
    throw Error(fmt::format("the name of the {} `{}` is not UTF-8", what, shown));
  if (name.size() > kMost)
    throw Error(fmt::format("the name of the {} `{}` has {} bytes, the limit is {}", what, shown,
                            name.size(), kMost));
  return std::string(name);
}

/// The same for a tensor that is kept beside `others`.
std::string checked_name(std::string_view what, std::string_view name, const NamedTensors& others) {
  for (const auto& other : others)
    if (other.first == name) throw Error(fmt::format("two {}s are called `{}`", what, name));
  return checked_name(what, name);
}

}  // namespace

StageContext::StageContext(StageLabel label, std::uint64_t seed, const Compute& compute,
                           const Augmentation& augmentation, RunObserver* observer,
                           const std::atomic<int>* interrupted)
    : label_(std::move(label)),
      compute_(compute),
      observer_(observer),
      generator_(make_generator(seed)),
      cost_(compute.device),
      trainer_(augmentation, generator_, observer, interrupted) {}

void StageContext::log(LogLevel level, std::string_view message) noexcept try {
  if (observer_ != nullptr)
    observer_->event({{"event", "log"},
                      {"level", level_name(level)},
                      {"stage", label_.stage},
                      {"name", label_.name},
                      {"message", base::valid_utf8(message)}});
} catch (...) {  // a message that cannot be shown must not end a training
}

void StageContext::progress(std::int64_t done, std::int64_t total, std::string_view what) noexcept
    try {
  base::sign_of_life();
  if (observer_ != nullptr) observer_->progress(done, total, base::valid_utf8(what));
} catch (...) {
}

void StageContext::metric(std::string_view key, double value) {
  const std::string name = checked_name("metric", key);
  if (report::is_own_metric(name))
    throw Error(fmt::format("the metric `{}` has the name of one that the host measures", name),
                "give it another name");
  if (!std::isfinite(value))
    throw Error(fmt::format("the metric `{}` is {}, which is not a number that can be compared",
                            name, value),
                "record nothing where there is no number");
  metrics_[name] = value;
}

void StageContext::artifact(std::string_view name, const at::Tensor& tensor) {
  artifacts_.emplace_back(checked_name("artifact", name, artifacts_),
                          tensor.detach().to(at::kCPU).clone());
}

void StageContext::flag_poison(const at::Tensor& indices) {
  flagged_ = indices.detach().to(at::kCPU, at::kLong).flatten().clone();
}

void StageContext::score_poison(const at::Tensor& indices, const at::Tensor& scores) {
  if (poison_scores_.scores.defined()) throw Error("score_poison was called twice");
  if (indices.dim() != 1 || scores.sizes() != indices.sizes())
    throw Error("score_poison needs as many scores as indices, each [k]");
  poison_scores_ = {indices.detach().to(at::kCPU, at::kLong).clone(),
                    scores.detach().to(at::kCPU, at::kDouble).clone()};
  if (!at::isfinite(poison_scores_.scores).all().item<bool>())
    throw Error("score_poison got a score that is not finite");
}

const ImageSet& StageContext::subset(const ImageSet& set, const at::Tensor& positions) {
  return sets_.emplace_back(host_set(set).subset(positions));
}

const ImageSet& StageContext::image_set(const at::Tensor& images, const at::Tensor& labels) {
  if (images.dim() != 4 || labels.dim() != 1 || images.size(0) != labels.size(0))
    throw Error("an image set needs images [n, C, H, W] and labels [n]");
  if (images.size(1) != 1 && images.size(1) != 3)
    throw Error(
        fmt::format("an image set needs images of 1 or 3 channels, got {}", images.size(1)));
  if (labels.lt(0).logical_or(labels.ge(architecture_.classes)).any().item<bool>())
    throw Error(fmt::format("an image set has a label outside the dataset's {} classes",
                            architecture_.classes));
  return sets_.emplace_back(to_8_bits(images), labels.detach(), architecture_.classes,
                            compute_.device, at::full({labels.size(0)}, -1, at::kLong));
}

Model& StageContext::clone(const Model& model) {
  return models_.emplace_back(host_model(const_cast<Model&>(model)));
}

Model& StageContext::new_model(at::Generator& generator) {
  return models_.emplace_back(architecture_, normalization_, compute_, generator);
}

Model& StageContext::load_model(std::string_view path) {
  const std::string file(path);
  const ModelFile content = read_model_file(file);
  require_same_model(content.facts, architecture_, file);
  at::Generator unused = make_generator(0);
  Classifier& model = models_.emplace_back(
      architecture_, content.facts.normalization.value_or(normalization_), compute_, unused);
  model.load_state(content.weights, file);
  return model;
}

void StageContext::picture(std::string_view name, const at::Tensor& images) {
  if (images.dim() != 4 || images.size(1) != architecture_.channels)
    throw Error(fmt::format("the picture `{}` needs images [k, C, H, W] with {} channels", name,
                            architecture_.channels));
  pictures_.emplace_back(checked_name("picture", name, pictures_),
                         to_8_bits(images.detach()).to(at::kCPU));
}

void StageContext::epoch(nlohmann::json event) {
  event["event"] = "epoch";
  event["stage"] = label_.stage;
  event["name"] = label_.name;
  epochs_.push_back(event);
  if (observer_ != nullptr) observer_->event(event);
}

void StageContext::keep(Checkpoints* checkpoints) {
  checkpoints_ = checkpoints;
  if (checkpoints != nullptr) trainer_.keep(*this);
}

void* StageContext::query(std::string_view id) noexcept {
  return id == LoopKeeper::kId ? static_cast<LoopKeeper*>(this) : nullptr;
}

std::int64_t StageContext::begin(TrainingState& state) {
  return loop_.emplace(*this, state).resume();
}

void StageContext::advance(std::int64_t done, bool over) {
  if (!loop_) return;
  loop_->advance(done, over);
  if (over) loop_.reset();
}

Checkpoint StageContext::records() {
  Checkpoint kept;
  kept.record = {
      {"metrics", metrics_}, {"epochs", epochs_}, {"begun", begun_}, {"cost", cost_.so_far()}};
  kept.tensors = {{"generator", generator_.get_state()}};
  for (const auto& [name, tensor] : artifacts_)
    kept.tensors.emplace_back(std::string(kArtifact) + name, tensor);
  for (const auto& [name, tensor] : pictures_)
    kept.tensors.emplace_back(std::string(kPicture) + name, tensor);
  if (flagged_.defined()) kept.tensors.emplace_back("flagged", flagged_);
  if (poison_scores_.scores.defined()) {
    kept.tensors.emplace_back("scored", poison_scores_.indices);
    kept.tensors.emplace_back("scores", poison_scores_.scores);
  }
  return kept;
}

void StageContext::restore(const Checkpoint& records) {
  generator_.set_state(tensor_named(records.tensors, "generator"));
  metrics_ = records.record["metrics"];
  artifacts_.clear();
  pictures_.clear();
  for (const auto& [name, tensor] : records.tensors) {
    if (name.starts_with(kArtifact)) artifacts_.emplace_back(name.substr(kArtifact.size()), tensor);
    if (name.starts_with(kPicture)) pictures_.emplace_back(name.substr(kPicture.size()), tensor);
    if (name == "flagged") flagged_ = tensor;
    if (name == "scored") poison_scores_.indices = tensor;
    if (name == "scores") poison_scores_.scores = tensor;
  }
  begun_ = records.record["begun"];
  const auto& epochs = records.record["epochs"];
  for (std::size_t i = epochs_.size(); i < epochs.size(); ++i) epoch(epochs[i]);
  cost_.go_on_from(records.record["cost"]);
}

void StageContext::tell_kept(bool resumable, const std::string& where) {
  if (observer_ != nullptr)
    observer_->event({{"event", "checkpoint"},
                      {"stage", label_.stage},
                      {"name", label_.name},
                      {"resumable", resumable},
                      {"where", where}});
}

WarningSink StageContext::warnings() {
  const auto report = [](void* user, const std::string& message) {
    static_cast<StageContext*>(user)->log(LogLevel::warning, message);
  };
  return {report, this};
}

TrainingSetCopy::TrainingSetCopy(const ImageStore& clean)
    : clean_(clean), changed_(static_cast<std::size_t>(clean.size())) {}

void TrainingSetCopy::write(const at::Tensor& positions, const at::Tensor& images,
                            const at::Tensor& labels, Role role) {
  const at::Tensor p = positions.detach().to(at::kCPU, at::kLong).flatten().contiguous();
  const auto m = p.numel();
  if (images.dim() != 4 || images.size(0) != m || labels.numel() != m)
    throw Error(
        fmt::format("{} positions in the training set were given for {} images with {} "
                    "labels: there must be as many of each",
                    m, images.dim() == 4 ? images.size(0) : 0, labels.numel()));
  const auto size = [](std::int64_t c, std::int64_t h, std::int64_t w) {
    return fmt::format("{}x{}x{}", c, h, w);
  };
  const std::string given = size(images.size(1), images.size(2), images.size(3));
  const std::string wanted = size(clean_.channels(), clean_.height(), clean_.width());
  if (given != wanted)
    throw Error(
        fmt::format("an image for the training set is {}, but the others are {} (channels, "
                    "height, width)",
                    given, wanted));
  const at::Tensor l = labels.detach().to(at::kCPU, at::kLong).flatten().contiguous();
  const auto* const position = p.data_ptr<std::int64_t>();
  const auto* const label = l.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < m; ++i) {
    if (position[i] < 0 || position[i] >= clean_.size())
      throw Error(
          fmt::format("image {} of the training set was to be changed, but its images are "
                      "0 to {}",
                      position[i], clean_.size() - 1));
    if (label[i] < 0 || label[i] >= clean_.classes())
      throw Error(
          fmt::format("image {} of the training set was given label {}, but the labels are "
                      "0 to {}",
                      position[i], label[i], clean_.classes() - 1));
    if (changed_[static_cast<std::size_t>(position[i])])
      throw Error(fmt::format("image {} of the training set was changed twice", position[i]));
  }
  if (m == 0) return;
  if (std::get<0>(at::_unique(p)).numel() != m)
    throw Error("an image of the training set was changed twice in one call");
  for (std::int64_t i = 0; i < m; ++i) changed_[static_cast<std::size_t>(position[i])] = true;
  positions_.push_back(p);
  images_.push_back(to_8_bits(images).to(at::kCPU));
  labels_.push_back(l);
  roles_.push_back(at::full({m}, static_cast<std::int64_t>(role), at::kByte));
}

NamedTensors TrainingSetCopy::record() const {
  if (positions_.empty())
    return {
        {"positions", at::empty({0}, at::kLong)},
        {"images", at::empty({0, clean_.channels(), clean_.height(), clean_.width()}, at::kByte)},
        {"labels", at::empty({0}, at::kLong)},
        {"roles", at::empty({0}, at::kByte)}};
  const at::Tensor positions = at::cat(positions_);
  const auto [sorted, order] = positions.sort();
  return {{"positions", sorted},
          {"images", at::cat(images_).index_select(0, order)},
          {"labels", at::cat(labels_).index_select(0, order)},
          {"roles", at::cat(roles_).index_select(0, order)}};
}

void TrainingSetCopy::restore(const NamedTensors& record, const Threat& threat,
                              const std::string& file) try {
  const at::Tensor& positions = tensor_named(record, "positions");
  const at::Tensor& images = tensor_named(record, "images");
  const at::Tensor& labels = tensor_named(record, "labels");
  const at::Tensor& roles = tensor_named(record, "roles");
  const bool sound = positions.scalar_type() == at::kLong && labels.scalar_type() == at::kLong &&
                     images.scalar_type() == at::kByte && roles.scalar_type() == at::kByte &&
                     positions.dim() == 1 && roles.sizes() == positions.sizes() &&
                     labels.sizes() == positions.sizes() && images.dim() == 4 &&
                     images.size(0) == positions.size(0) &&
                     roles.ge(static_cast<std::int64_t>(Role::poison)).all().item<bool>() &&
                     roles.le(static_cast<std::int64_t>(Role::cover)).all().item<bool>();
  if (!sound) throw Error("positions, images, labels and roles do not match");
  for (const Role role : {Role::poison, Role::cover}) {
    const at::Tensor rows = roles.eq(static_cast<std::int64_t>(role)).nonzero().squeeze(1);
    const at::Tensor at = positions.index_select(0, rows), given = labels.index_select(0, rows);
    write(at, images.index_select(0, rows).to(at::kFloat).div(255), given, role);
    const at::Tensor true_labels = clean_.labels().to(at::kCPU).index_select(0, at);
    if (role == Role::poison && !given.equal(threat.targets(true_labels)))
      throw Error("its poisoned images have other labels than the recipe's target");
  }
} catch (const Error& e) {
  throw base::HostError(
      base::ExitCode::environment,
      fmt::format("{} does not fit the training set: {}", file, e.what()),
      "it must come from a run on the same dataset, with the same selection of images");
}

ImageStore with_poison(const ImageStore& clean, const NamedTensors& record) {
  return clean.changed(tensor_named(record, "positions"), tensor_named(record, "images"),
                       tensor_named(record, "labels"));
}

void TensorState::tensor(std::string_view name, const at::Tensor& value) {
  tensors_.emplace_back(checked_name("saved tensor", name, tensors_),
                        value.detach().to(at::kCPU).contiguous().clone());
}

bool TensorState::has(std::string_view name) const {
  for (const auto& item : tensors_)
    if (item.first == name) return true;
  return false;
}

at::Tensor TensorState::tensor(std::string_view name) const {
  if (!has(name)) throw Error(fmt::format("the saved state has no tensor `{}`", name));
  return tensor_named(tensors_, name);
}

const ImageSet& HostDefenderData::clean() const {
  if (clean_ == nullptr)
    throw Error("this defense was not given clean data",
                "add \"clean-data\" to `needs` in the manifest");
  return *clean_;
}

const ImageSet& HostDefenderData::training() const {
  if (training_ == nullptr)
    throw Error("this defense was not given the training data",
                "add \"training-data\" to `needs` in the manifest");
  return *training_;
}

const at::Tensor& tensor_named(const NamedTensors& tensors, std::string_view name) {
  for (const auto& item : tensors)
    if (item.first == name) return item.second;
  throw base::HostError(base::ExitCode::environment,
                        fmt::format("a file lacks the tensor `{}`", name));
}

}  // namespace backstop::engine
