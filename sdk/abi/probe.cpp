// One function from which abidiff reaches everything that crosses between a plugin and the host, to
// compare it with baseline.abi. Add a parameter for every new interface or structure.
#include "backstop/abi.h"
#include "backstop/attack.hpp"
#include "backstop/context.hpp"
#include "backstop/dataset.hpp"
#include "backstop/defense.hpp"
#include "backstop/error.hpp"
#include "backstop/image_set.hpp"
#include "backstop/input_detector.hpp"
#include "backstop/model.hpp"
#include "backstop/model_detector.hpp"
#include "backstop/params.hpp"
#include "backstop/scheduler.hpp"
#include "backstop/trainer.hpp"
#include "backstop/training_state.hpp"

extern "C" void backstop_abi_probe(
    // C
    backstop_plugin_entry, backstop_plugin_descriptor*, backstop_error*,
    // implemented by plugins
    backstop::Attack*, backstop::Defense*, backstop::Scheduler*, backstop::Dataset*,
    backstop::TrainingStep*, backstop::ActivationSink*, backstop::InputDetector*,
    backstop::ModelDetector*,
    // implemented by the host
    backstop::Context*, backstop::DefenderData*, backstop::ImageSet*, backstop::Model*,
    backstop::Params*, backstop::StateReader*, backstop::StateWriter*, backstop::Trainer*,
    backstop::TrainingSetEditor*, backstop::Services*, backstop::SampleSink*, backstop::FileSink*,
    backstop::ModelVerdict*,
    // passed by either
    backstop::Batch*, backstop::Layer*, backstop::OptimizerOptions*, backstop::Threat*,
    backstop::TrainingOptions*, backstop::TrainingPosition*,
    // exceptions
    backstop::Error*, backstop::ParameterError*, backstop::EnvironmentError*, backstop::Cancelled*,
    // from 1.1 on: implemented by plugins, and by the host
    backstop::TrainingState*, backstop::LoopKeeper*) {}
