// Sizes, offsets and numbers of everything that plugins and the host pass to each other. Changing
// one makes another ABI (see ABI-CHANGES.md) and does not compile until this file is changed too.
// They are checked with the real LibTorch and standard library; abidiff checks the order of virtual
// functions.
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "backstop/abi.h"
#include "backstop/attack.hpp"
#include "backstop/context.hpp"
#include "backstop/dataset.hpp"
#include "backstop/defense.hpp"
#include "backstop/error.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/model.hpp"
#include "backstop/model_detector.hpp"
#include "backstop/params.hpp"
#include "backstop/scheduler.hpp"
#include "backstop/trainer.hpp"
#include "backstop/training_state.hpp"

// NOLINTBEGIN(cppcoreguidelines-macro-usage): offsetof takes a name
#define SIZE(Type, size) static_assert(sizeof(Type) == (size))
#define AT(Struct, member, offset) static_assert(offsetof(Struct, member) == (offset))
#define INTERFACE(Type)                         \
  static_assert(sizeof(Type) == sizeof(void*)); \
  static_assert(std::is_polymorphic_v<Type> && !std::has_virtual_destructor_v<Type>)
#define VALUE(constant, number) static_assert(static_cast<unsigned>(constant) == (number))
// NOLINTEND(cppcoreguidelines-macro-usage)

// -- C --

VALUE(BACKSTOP_PLUGIN_MAGIC, 0x504B4342);
VALUE(BACKSTOP_KIND_ATTACK, 1);
VALUE(BACKSTOP_KIND_DEFENSE, 2);
VALUE(BACKSTOP_KIND_SCHEDULER, 3);
VALUE(BACKSTOP_KIND_DATASET, 4);
VALUE(BACKSTOP_OK, 0);
VALUE(BACKSTOP_ERROR_PLUGIN, 1);
VALUE(BACKSTOP_ERROR_PARAMETER, 2);
VALUE(BACKSTOP_ERROR_ENVIRONMENT, 3);
VALUE(BACKSTOP_ERROR_CANCELLED, 4);

SIZE(backstop_error, 1544);
AT(backstop_error, struct_size, 0);
AT(backstop_error, code, 4);
AT(backstop_error, message, 8);
AT(backstop_error, hint, 1032);

SIZE(backstop_plugin_descriptor, 32);
AT(backstop_plugin_descriptor, struct_size, 0);
AT(backstop_plugin_descriptor, magic, 4);
AT(backstop_plugin_descriptor, abi_major, 8);
AT(backstop_plugin_descriptor, abi_minor, 10);
AT(backstop_plugin_descriptor, kind, 12);
AT(backstop_plugin_descriptor, create, 16);
AT(backstop_plugin_descriptor, destroy, 24);

// -- types of the standard library and LibTorch --

SIZE(std::string, 32);
SIZE(std::string_view, 16);
SIZE(std::span<const int>, 16);
SIZE(std::runtime_error, 16);
SIZE(at::Tensor, 8);

namespace backstop {
inline namespace v1 {

// -- interfaces: the side that creates an object destroys it, so no destructor is virtual --

INTERFACE(ActivationSink);
INTERFACE(Attack);
INTERFACE(Context);
INTERFACE(Services);
INTERFACE(SampleSink);
INTERFACE(FileSink);
INTERFACE(Dataset);
INTERFACE(DefenderData);
INTERFACE(Defense);
INTERFACE(ImageSet);
INTERFACE(InputDetector);
INTERFACE(LoopKeeper);
INTERFACE(Model);
INTERFACE(ModelDetector);
INTERFACE(ModelVerdict);
INTERFACE(Params);
INTERFACE(Scheduler);
INTERFACE(StateReader);
INTERFACE(StateWriter);
INTERFACE(Trainer);
INTERFACE(TrainingSetEditor);
INTERFACE(TrainingState);
INTERFACE(TrainingStep);

// -- structures --

SIZE(StructSize<Layer>, 4);

SIZE(TrainingPosition, 32);
AT(TrainingPosition, struct_size, 0);
AT(TrainingPosition, reserved, 4);
AT(TrainingPosition, iteration, 8);
AT(TrainingPosition, iterations_per_epoch, 16);
AT(TrainingPosition, epochs, 24);

SIZE(OptimizerOptions, 128);
AT(OptimizerOptions, struct_size, 0);
AT(OptimizerOptions, kind, 4);
AT(OptimizerOptions, momentum, 8);
AT(OptimizerOptions, weight_decay, 16);
AT(OptimizerOptions, beta1, 24);
AT(OptimizerOptions, beta2, 32);
AT(OptimizerOptions, epsilon, 40);
AT(OptimizerOptions, nesterov, 48);
AT(OptimizerOptions, reserved, 52);
AT(OptimizerOptions, reserved_numbers, 56);

SIZE(TrainingOptions, 176);
AT(TrainingOptions, struct_size, 0);
AT(TrainingOptions, trainable, 4);
AT(TrainingOptions, epochs, 8);
AT(TrainingOptions, batch_size, 16);
AT(TrainingOptions, scheduler, 24);
AT(TrainingOptions, step, 32);
AT(TrainingOptions, batch_norm, 40);
AT(TrainingOptions, augment, 44);
AT(TrainingOptions, optimizer, 48);

SIZE(Threat, 32);
AT(Threat, struct_size, 0);
AT(Threat, all_to_all, 4);
AT(Threat, target, 8);
AT(Threat, classes, 16);
AT(Threat, poison_ratio, 24);

SIZE(Batch, 56);
AT(Batch, struct_size, 0);
AT(Batch, reserved, 4);
AT(Batch, images, 8);
AT(Batch, labels, 16);
AT(Batch, positions, 24);
AT(Batch, epoch, 32);
AT(Batch, iteration, 40);
AT(Batch, rate, 48);

SIZE(Layer, 96);
AT(Layer, struct_size, 0);
AT(Layer, kind, 4);
AT(Layer, name, 8);
AT(Layer, weight, 24);
AT(Layer, bias, 32);
AT(Layer, running_mean, 40);
AT(Layer, running_var, 48);
AT(Layer, epsilon, 56);
AT(Layer, groups, 64);
AT(Layer, stride, 72);
AT(Layer, padding, 80);
AT(Layer, dilation, 88);

SIZE(Error, 48);  // message and hint
SIZE(ParameterError, sizeof(Error));
SIZE(EnvironmentError, sizeof(Error));
SIZE(Cancelled, sizeof(Error));

// -- enumerations --

VALUE(OptimizerKind::sgd, 0);
VALUE(OptimizerKind::adam, 1);
VALUE(OptimizerKind::adamw, 2);
VALUE(LayerKind::convolution, 0);
VALUE(LayerKind::batch_norm, 1);
VALUE(LayerKind::linear, 2);
VALUE(Part::none, 0);
VALUE(Part::head, 1);
VALUE(Part::body, 2);
VALUE(Part::whole, 3);
VALUE(Part::chosen, 4);
VALUE(Precision::run, 0);
VALUE(Precision::float32, 1);
VALUE(Next::epoch, 0);
VALUE(Next::stop, 1);
VALUE(BatchNormMode::normal, 0);
VALUE(BatchNormMode::frozen_statistics, 1);
VALUE(BatchNormMode::frozen, 2);
VALUE(LogLevel::debug, 0);
VALUE(LogLevel::info, 1);
VALUE(LogLevel::warning, 2);
VALUE(Phase::train, 0);
VALUE(Phase::test, 1);
VALUE(Role::poison, 1);
VALUE(Role::cover, 2);
VALUE(Split::train, 0);
VALUE(Split::test, 1);
VALUE(Split::extra, 2);
VALUE(Split::unlabeled, 3);

}  // namespace v1
}  // namespace backstop
