// What a file is, by its first bytes.
#pragma once

#include "host/engine/formats/input_file.hpp"
#include "host/engine/formats/zip_archive.hpp"

namespace backstop::engine {

/// A file that begins as a zip archive does.
bool is_zip(const InputFile& file);
/// A file that begins as safetensors does.
bool is_safetensors(const InputFile& file);

/// Throws HostError(environment) that says what the file is, as far as it can be told, and the way to
/// a format that is read.
[[noreturn]] void refuse_unknown(const InputFile& file);
[[noreturn]] void refuse_unknown(const InputFile& file, const ZipArchive& zip);

/// How a model that is in memory in Python is written so that it can be read: for hints.
inline constexpr const char* kExport =
    "in Python, where the model can be loaded, write its weights:\n"
    "    torch.save(model.state_dict(), \"model.pt\")\n"
    "or, if the network is not one of those built in, the network with them:\n"
    "    torch.jit.script(model.eval()).save(\"model.pt\")  # or torch.jit.trace(model, images)";

}  // namespace backstop::engine
