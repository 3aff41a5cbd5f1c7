// The processors that this process may use.
#pragma once

namespace backstop::base {

/// At least 1. Those that the process is bound to, as by `taskset`, a container or a batch system; on
/// a machine with more of them than a mask has bits, all.
int available_cores();

}  // namespace backstop::base
