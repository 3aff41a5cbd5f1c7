#include <gtest/gtest.h>

#include "backstop/testing/defense_promises.hpp"
#include "backstop/testing/fakes.hpp"
BACKSTOP_TEST_DEFENSE(AutoFineTuning, {}, {.recipe = "phase_1_steps = 30\nphase_2_steps = 2"});
