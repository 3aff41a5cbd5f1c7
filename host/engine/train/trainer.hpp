// The host's training loop and evaluation.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "backstop/trainer.hpp"
#include "host/engine/data/image_store.hpp"
#include "host/engine/engine.hpp"
#include "host/engine/model/classifier.hpp"

namespace backstop::engine {

class StageContext;

/// What a plugin passed in, as the host's own type. Throws Error if the plugin made it itself.
Classifier& host_model(Model& model);
const ImageStore& host_set(const ImageSet& images);

class HostTrainer final : public Trainer {
 public:
  /// Epochs are counted through all trainings of the subject.
  struct EpochEnd {
    std::int64_t epoch;  ///< from 1
    std::int64_t begin;  ///< the epochs before the current training
    std::int64_t end;    ///< those until it ends
    double loss;
    std::function<double(double epoch)> rate;  ///< of the step at a time from `begin` to `epoch`
  };
  /// Called after every epoch in which the subject was trained.
  using EpochHook = std::function<void(Classifier& model, const EpochEnd& end)>;

  HostTrainer(const Augmentation& augmentation, at::Generator& generator, RunObserver* observer,
              const std::atomic<int>* interrupted);

  /// Sets the model to measure while it trains: the one that the stage is about.
  void measure(const Model& subject, EpochHook hook);

  /// Lets trainings go on where the stage of `ctx` has kept them, and keeps them there.
  void keep(StageContext& ctx) { ctx_ = &ctx; }

  void fit(Model& model, const ImageSet& images, const TrainingOptions& options) override;
  at::Tensor logits(Model& model, const ImageSet& images) override;
  at::Tensor features(Model& model, const ImageSet& images) override;
  double accuracy(Model& model, const ImageSet& images) override;
  at::Tensor augment(const at::Tensor& images) override;

  [[nodiscard]] bool cancelled() const;
  void stop_if_cancelled() const;

 private:
  using Head = std::function<at::Tensor(Classifier&, const at::Tensor& normalized)>;
  /// What `head` returns for all images, [n, columns].
  at::Tensor evaluate(Model& model, const ImageSet& images, std::int64_t columns, const Head& head);

  Augmentation augmentation_;
  at::Generator& generator_;
  RunObserver* observer_;
  const std::atomic<int>* interrupted_;
  const Model* subject_ = nullptr;
  EpochHook hook_;
  std::int64_t subject_epochs_ = 0;  ///< epochs of the subject's earlier trainings
  StageContext* ctx_ = nullptr;      ///< of the stage that keeps its trainings
};

}  // namespace backstop::engine
