// The search for a trigger of every class: the smallest change of images that moves any of them
// into the class. What a change is, and what its size is, a Form says.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "backstop/context.hpp"
#include "backstop/model_detector.hpp"
#include "outliers.hpp"
#include "penalty.hpp"

namespace backstop::trigger_search {

struct Applied {
  at::Tensor
      images;        ///< [k * n, C, H, W]: the n images with the first trigger, with the second ...
  at::Tensor sizes;  ///< [k]
};

/// Raw triggers, the numbers that the search changes, are a tensor [k, ...], a row for each class.
class Form {
 public:
  /// Where the search starts, for triggers of images like those of `images`.
  virtual at::Tensor start(const ImageSet& images, std::int64_t classes,
                           at::Generator& generator) const = 0;
  /// `images` [n, C, H, W] with each of the triggers, and the triggers' sizes, with their graph.
  virtual Applied apply(const at::Tensor& images, const at::Tensor& raw) const = 0;
  /// The same sizes, exactly: float64 [k] on the CPU, without a graph.
  virtual at::Tensor sizes(const at::Tensor& raw) const = 0;

 protected:
  Form() = default;
  Form(const Form&) = default;
  Form& operator=(const Form&) = default;
  ~Form() = default;
};

struct Settings {
  std::int64_t rounds = 80;
  std::int64_t round_steps = 0;  ///< batches of a round; 0: one pass over the images
  std::int64_t batch_size = 256;
  std::int64_t classes_at_once = 0;  ///< 0: as many as memory allows
  double rate = 0.1;
  double success_threshold = 0.99;
  /// A trigger that is smaller than the smallest so far by less than this share is kept, but counts
  /// as no progress.
  double tolerance = 0;
  Penalty::Settings penalty;
};

struct Triggers {
  at::Tensor raw;               ///< the smallest that work
  std::vector<double> sizes;    ///< theirs
  std::vector<bool> found;      ///< whether the class has a trigger that works on enough images
  std::vector<bool> converged;  ///< whether the search for it came to its end by itself
};

struct Objective {
  at::Tensor loss;  ///< scalar with a graph: the classes' objectives, added up
  at::Tensor hits;  ///< int64 [k]: on how many of the images each trigger works
};
/// The objective of the triggers `raw` on `images` [n, C, H, W], for the classes `targets` [k] and
/// the weights `costs` [k] of the triggers' sizes.
Objective objective(Model& model, const Form& form, const at::Tensor& images, const at::Tensor& raw,
                    const at::Tensor& targets, const at::Tensor& costs);

/// `model` must be in evaluation mode, with no trainable weights. `what` is what a round is called
/// where its progress is shown.
Triggers find_triggers(Context& ctx, Model& model, const ImageSet& images, const Form& form,
                       const Settings& settings, std::string_view what);

/// How the classes compare by the logarithms of their triggers' sizes, because sizes differ by
/// factors: half a median is nothing, a tenth of it is a shortcut.
struct Judgment {
  Spread spread;                ///< of the logarithms
  std::vector<double> indices;  ///< of each class
  double score = 0;             ///< the largest index of a class with a trigger that works
  std::vector<std::int64_t> suspects;
  /// Whether every search has ended, or a class stands out however the others end.
  bool conclusive = true;
};
/// A class is suspicious if it has a trigger that works and its index reaches `threshold`. Where
/// searches have not ended, that must still be so when each of them ends as low as this class (its
/// own can only end lower); if it is so for no class, `suspects` are those of the sizes so far.
Judgment judge(const Triggers& triggers, double threshold);

/// Why the triggers are no ground for a verdict, as ModelVerdict::inconclusive wants it; empty if
/// every class has one and none could be made smaller. `plural` names the triggers: "masks".
std::string unfinished(const Triggers& triggers, const Settings& settings, std::string_view plural);

/// Ends `verdict` with the score and, unless the judgment is conclusive, without a verdict: `reason`
/// is that of unfinished().
void conclude(Context& ctx, ModelVerdict& verdict, const Judgment& judgment, double threshold,
              const std::string& reason);

}  // namespace backstop::trigger_search
