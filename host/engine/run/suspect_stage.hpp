// The stage of a model from elsewhere, which is measured as it is.
#pragma once

#include "host/engine/run/inputs.hpp"

namespace backstop::engine {

/// Loads the model and measures it on the test images. The row has "label_order" where another
/// order of the classes fits the training images far better: {accuracy, best_accuracy, images,
/// order: [label of the images' class that fits each of the model's labels]}.
Stage measure_suspect(const SuspectInputs& inputs, const StageServices& services);

/// At most 2,000 of the images, always the same ones.
ImageStore some_images(const ImageStore& images);

/// The artifact of a stage that holds predictions_of() the test images.
inline constexpr const char* kPredictions = "predictions";
/// int64 [n], on the CPU.
at::Tensor predictions_of(HostTrainer& trainer, Classifier& model, const ImageStore& images);

}  // namespace backstop::engine
