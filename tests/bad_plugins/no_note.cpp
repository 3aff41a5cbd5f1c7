// A library like any other: nothing says that it is a plugin.
#include "bad_plugin.hpp"

BACKSTOP_PLUGIN(Scheduler, GoodScheduler)
