#include "host/engine/formats/recognize.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace backstop::engine {

namespace {

constexpr const char* kFormats =
    "files of torch.save (state dicts), of torch.jit.save and of safetensors are read";
constexpr const char* kOtherFrameworks =
    "only models of PyTorch are read: convert it, or load its weights into a PyTorch model, and "
    "then\n"
    "    torch.save(model.state_dict(), \"model.pt\")\n"
    "or, with the network:\n"
    "    torch.jit.script(model.eval()).save(\"model.pt\")  # or torch.jit.trace(model, images)";
constexpr const char* kOnnx =
    "write the model in Python from where it came:\n"
    "    torch.save(model.state_dict(), \"model.pt\")\n"
    "or, if only the ONNX file is left, through the package onnx2torch:\n"
    "    model = onnx2torch.convert(\"model.onnx\")\n"
    "    torch.jit.trace(model.eval(), torch.rand(1, 3, 32, 32)).save(\"model.pt\")";
constexpr const char* kExportedProgram =
    "in Python:\n"
    "    model = torch.export.load(\"model.pt2\").module()\n"
    "    torch.save(model.state_dict(), \"model.pt\")\n"
    "or, with the network:\n"
    "    torch.jit.trace(model, images).save(\"model.pt\")";
constexpr const char* kNumPy =
    "in Python:\n"
    "    weights = {name: torch.from_numpy(array) for name, array in "
    "numpy.load(\"model.npz\").items()}\n"
    "    torch.save(weights, \"model.pt\")";
constexpr const char* kPickle =
    "write the weights with torch.save, not with pickle.dump:\n"
    "    torch.save(model.state_dict(), \"model.pt\")";
constexpr const char* kSaveAgain =
    "load it with the PyTorch that wrote it, or a newer one, and save it again:\n"
    "    torch.save(torch.load(\"old.pt\", map_location=\"cpu\"), \"model.pt\")";
constexpr const char* kFetchAgain =
    "fetch the file again, and look at its size: a page instead of the file is often a request to "
    "log in or to confirm";

std::string start_of(const InputFile& file, std::uint64_t most) {
  return file.text(0, std::min(file.size(), most));
}

/// Whether it begins with some characters of ASCII.
bool is_text(std::string_view bytes) {
  const std::string_view first = bytes.substr(0, 64);
  return std::all_of(first.begin(), first.end(), [](const char c) {
    return (c >= 0x20 && c < 0x7f) || c == '\n' || c == '\r' || c == '\t';
  });
}

/// A message of protocol buffers that begins with a small version number and the field `next`.
bool has_version(std::string_view bytes, std::string_view versions, std::string_view next) {
  return bytes.size() > 2 && bytes[0] == 0x08 &&
         versions.find(bytes[1]) != std::string_view::npos &&
         next.find(bytes[2]) != std::string_view::npos;
}

}  // namespace

bool is_zip(const InputFile& file) {
  const std::string start = start_of(file, 4);
  return start == "PK\x03\x04" || start == "PK\x05\x06";
}

bool is_safetensors(const InputFile& file) {
  return file.path().extension() == ".safetensors" ||
         (file.size() > 8 && file.text(8, 1) == "{" && start_of(file, 8)[7] == '\0');
}

void refuse_unknown(const InputFile& file) {
  using namespace std::string_view_literals;
  const std::string start = start_of(file, 4096);
  const std::string_view bytes = start;
  const auto begins = [&](std::string_view with) { return bytes.starts_with(with); };
  const auto has_at = [&](std::size_t place, std::string_view part) {
    return bytes.size() >= place + part.size() && bytes.substr(place, part.size()) == part;
  };
  if (bytes.empty()) file.refuse("it is empty", kFetchAgain);
  if (begins("\x89HDF\r\n\x1a\n"))
    file.refuse("it is an HDF5 file, as Keras and TensorFlow write", kOtherFrameworks);
  if (begins("GGUF")) file.refuse("it is a GGUF file, of a language model", kFormats);
  if (has_at(4, "TFL3")) file.refuse("it is a model of TensorFlow Lite", kOtherFrameworks);
  if (begins("\x93NUMPY")) file.refuse("it is a NumPy array", kNumPy);
  if (has_at(257, "ustar") && bytes.find("sys_info") != std::string_view::npos)
    file.refuse("it is a tar archive, as torch.save wrote before PyTorch 0.2", kSaveAgain);
  if (has_at(257, "ustar")) file.refuse("it is a tar archive", "unpack it; the model is inside");
  if (begins("\x1f\x8b") || begins("BZh") ||
      begins("\xfd"
             "7zXZ") ||
      begins("\x28\xb5\x2f\xfd") || begins("7z\xbc\xaf") || begins("Rar!"))
    file.refuse("it is a compressed archive", "unpack it; the model is inside");
  if (begins("version https://git-lfs.github.com/spec/"))
    file.refuse("it is a pointer of Git LFS, not the file itself",
                "in the repository: git lfs pull");
  if (begins("\x04\0\0\0\x01\0\0\0"sv) || begins("\x03\0\0\0\x01\0\0\0"sv))
    file.refuse("it is a file of Torch7, which is written in Lua",
                "read it in Python with the package torchfile, and write the weights with "
                "torch.save");
  if (bytes.size() > 1 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5)
    file.refuse("it is a pickle that torch.save has not written", kPickle);
  if (has_version(bytes, "\x01"sv, "\x12"sv))
    file.refuse("it is a SavedModel of TensorFlow", kOtherFrameworks);
  if (has_version(bytes, "\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"sv,
                  "\x12\x1a\x22\x28\x32\x3a\x42\x72"sv))
    file.refuse("it is an ONNX model", kOnnx);
  if (begins("\x0a") && (bytes.find("Placeholder") != std::string_view::npos ||
                         bytes.find("Const") != std::string_view::npos))
    file.refuse("it is a graph of TensorFlow", kOtherFrameworks);
  if (file.size() >= 8 && file.text(file.size() - 8, 8) == "\x57\xfb\x80\x8b\x24\x75\x47\xdb")
    file.refuse("it is the index of a TensorFlow checkpoint", kOtherFrameworks);
  if (is_text(bytes)) {
    const std::size_t first = std::min(bytes.find_first_not_of(" \t\r\n"), bytes.size());
    file.refuse(bytes.substr(first).starts_with("<") ? "it is a web page, not a model"
                                                     : "it is a text, not a model",
                kFetchAgain);
  }
  std::string shown_bytes;
  for (const char c : bytes.substr(0, 8))
    shown_bytes += fmt::format(" {:02x}", static_cast<unsigned char>(c));
  file.refuse(
      fmt::format("it is no model file that is known; it begins with the bytes{}", shown_bytes),
      kFormats);
}

void refuse_unknown(const InputFile& file, const ZipArchive& zip) {
  const auto& entries = zip.entries();
  const auto any = [&](const auto& condition) {
    return std::any_of(entries.begin(), entries.end(),
                       [&](const ZipEntry& entry) { return condition(entry.name); });
  };
  if (any([](const std::string& name) {
        return name.ends_with("serialized_exported_program.json") ||
               name.ends_with("archive_format") || name.ends_with("models/model.json");
      }))
    file.refuse("it is a program of torch.export", kExportedProgram);
  if (any([](const std::string& name) { return name.ends_with(".npy"); }))
    file.refuse("it is an archive of NumPy arrays", kNumPy);
  if (zip.find("config.json") != nullptr &&
      any([](const std::string& name) { return name.ends_with(".weights.h5"); }))
    file.refuse("it is a model of Keras", kOtherFrameworks);
  file.refuse("it is a zip archive without data.pkl, which torch.save has not written",
              fmt::format("if the model is inside, unpack it; {}", kFormats));
}

}  // namespace backstop::engine
