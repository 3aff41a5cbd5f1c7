// Run folders for the tests of reports over many runs.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "host/report/sample_results.hpp"

namespace backstop::report {

class StudyTest : public ::testing::Test {
 protected:
  StudyTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "backstop-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
    path_ = std::filesystem::canonical(pattern);
  }
  ~StudyTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  /// A run with "no defense", "tuned" and "pruned".
  struct Sample {
    std::string attack = "badnets", dataset = "cifar10", status = "finished";
    int seed = 0;
    double tuned_accuracy = 0.88, tuned_success = 0.2;
    std::string tuned = "tuned";
    std::string parameters = {};  ///< more lines of [attack]
  };

  static nlohmann::json results_of(const Sample& sample) {
    nlohmann::json rows = {sample_row("no defense", 0.9, 0.98),
                           sample_row(sample.tuned, sample.tuned_accuracy, sample.tuned_success),
                           sample_row("pruned", 0.85, 0.5)};
    rows[1]["plugin"] = "fine-tuning";
    rows[2]["plugin"] = "fine-pruning";
    return {{"schema", 1},
            {"name", "x"},
            {"seed", sample.seed},
            {"precision", "float32"},
            {"rows", rows}};
  }

  static std::string recipe_of(const Sample& sample) {
    std::ostringstream text;
    text << "schema = 1\nname = \"x\"\nscenario = \"standalone\"\nseed = " << sample.seed
         << "\n[dataset]\nplugin = \"" << sample.dataset << "\"\nroot = \"/somewhere/"
         << sample.seed
         << "\"\n[model]\narchitecture = \"small-cnn\"\nwidth = 16\n[attack]\nplugin = \""
         << sample.attack << "\"\npoison_ratio = 0.1\n"
         << sample.parameters
         << "[[defense]]\nname = \"tuned\"\nplugin = \"fine-tuning\"\nscheduler = { plugin = "
            "\"super-fine-tuning\" }\n[[defense]]\nname = \"pruned\"\nplugin = \"fine-pruning\"\n"
            "[compute]\nthreads = "
         << sample.seed + 1 << '\n';
    return text.str();
  }

  std::filesystem::path write_run(const std::string& folder, const Sample& sample) {
    return write_run(folder, sample, results_of(sample));
  }
  std::filesystem::path write_run(const std::string& folder, const Sample& sample,
                                  const nlohmann::json& results) {
    const std::filesystem::path run = path_ / folder;
    std::filesystem::create_directories(run);
    write(run / "results.json", results.dump());
    write(run / "recipe.toml", recipe_of(sample));
    write(run / "run.json", nlohmann::json{{"status", sample.status},
                                           {"backstop", {{"version", "0.1.0"}}},
                                           {"hardware", {{"processor", "CPU"}}},
                                           {"compute", {{"device", "cpu"}, {"threads", 2}}}}
                                .dump());
    return run;
  }

  static void write(const std::filesystem::path& file, std::string_view text) {
    std::ofstream(file, std::ios::binary) << text;
  }
  static std::string read(const std::filesystem::path& file) {
    std::ostringstream text;
    text << std::ifstream(file, std::ios::binary).rdbuf();
    return text.str();
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Names that would do something in a page, a spreadsheet, LaTeX, Markdown or a terminal.
inline constexpr const char* kHostileNames[] = {
    "<script>alert(1)</script>",
    "\" onmouseover=\"alert(1)",
    "=HYPERLINK(\"http://example.org\")",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tcmd",
    "a | b | c",
    "**bold** _it_ `code` [x](http://example.org) ![y](z)",
    "\\input{/etc/passwd} $x$ %comment & # ^ ~ {",
    "\033[31mred\033[0m \007",
    "left\u202eright",
    "new\nline\r\n| x |",
    "--><img src=x onerror=alert(1)>"};

}  // namespace backstop::report
