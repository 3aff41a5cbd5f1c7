// Files of torch.save and torch.jit.save: where the tensors of a model lie in them.
#pragma once

#include <string>
#include <string_view>

#include "host/engine/formats/input_file.hpp"
#include "host/engine/formats/model_header.hpp"
#include "host/engine/formats/zip_archive.hpp"

namespace backstop::engine {

/// The folder in which all of a checkpoint or of TorchScript lies, with a slash: "archive/". Empty when
/// that is the root, or there is no data.pkl.
std::string root_of(const ZipArchive& zip);

/// A checkpoint that torch.save has written since PyTorch 1.6, or TorchScript.
ModelHeader read_checkpoint(const InputFile& file, const ZipArchive& zip, FileFormat format);

/// What torch.save wrote before: begins with kLegacyMagic.
ModelHeader read_legacy_checkpoint(const InputFile& file);
inline constexpr std::string_view kLegacyMagic{
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8"
    "\x50\x19.",
    15};

}  // namespace backstop::engine
