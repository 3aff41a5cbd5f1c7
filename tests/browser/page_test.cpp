// report.html as Chromium shows it, in windows of 1200 and 400 pixels, light and dark.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "host/report/html.hpp"
#include "host/report/sample_results.hpp"
#include "tests/support/program.hpp"

namespace backstop::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

/// A PNG file of stripes, 1000 pixels wide and 40 high.
constexpr char kStripes[] =
    "\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x03\xe8\x00\x00\x00"
    "\x28"
    "\x01\x00\x00\x00\x00\x45\xd8\xed\x60\x00\x00\x00\x2d\x49\x44\x41\x54\x78\xda\xed\xcd\x31\x01"
    "\x00"
    "\x00\x0c\x02\x20\xfb\xa7\x35\x82\xef\x1a\xec\x81\x02\xa4\x9f\x62\xb7\xdb\xed\x76\xbb\xdd\x6e"
    "\xb7"
    "\xdb\xed\x76\xbb\xdd\x6e\xb7\xdb\x8f\x01\x37\xf7\x50\x8f\xd8\xe4\xcb\x9f\x00\x00\x00\x00\x49"
    "\x45"
    "\x4e\x44\xae\x42\x60\x82";

/// With names that are long, wide or hostile, and everything that a page may have.
ReportContent content() {
  ReportContent page;
  page.results = sample_results();
  const std::string long_name(200, 'x'), hostile = "</script><script>throw 1</script>";
  const auto set_row = [&](std::size_t i, const std::string& name, double seconds, json robust) {
    auto& row = page.results["rows"][i];
    row["name"] = name;
    row["cost"]["wall_seconds"] = seconds;
    row["metrics"]["robust_accuracy"] = std::move(robust);
  };
  set_row(0, "no defense", 7200, 0.5);
  set_row(1, "b", 9, 0.75);
  set_row(2, "a", 100, nullptr);
  page.results["rows"].push_back(sample_row(long_name, 0.5, 0.5));
  page.results["rows"].push_back(sample_row(hostile, 0.5, 0.5));
  page.results["rows"][1]["curves"] = {
      {{"name", long_name}, {"x", {1, 10, 100}}, {"y", {0.5, 0.75, 1.0}}}};
  page.results["detectors"] = {
      {{"name", hostile},
       {"inputs", {{"auroc", 0.75}, {"roc", {{"x", {0.0, 0.5, 1.0}}, {"y", {0.0, 1.0, 1.0}}}}}}}};
  for (int i = 0; i < 9; ++i)
    for (int epoch = 0; epoch < 3; ++epoch)
      page.metrics += json({{"event", "epoch"},
                            {"stage", "defense"},
                            {"name", i == 0 ? long_name : "defense " + std::to_string(i)},
                            {"epoch", epoch},
                            {"clean_accuracy", 0.9},
                            {"attack_success_rate", 1.0 / (1 + epoch * i)}})
                          .dump() +
                      "\n";
  page.triggers = {{"badnets", std::string(kStripes, sizeof kStripes - 1)}};
  page.recipe = "name = \"" + long_name + long_name + "\"\n";
  page.environment = {{"command", long_name},
                      {"plugins", {{{"name", long_name}, {"sha256", long_name}}}}};
  return page;
}

std::string chromium() {
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"}) {
    const auto found =
        testing::Process({"/bin/sh", {"-c", std::string("command -v ") + name}}).wait();
    if (found.code == 0) return found.out.substr(0, found.out.find('\n'));
  }
  return "";
}

class Browser : public ::testing::Test {
 protected:
  void SetUp() override {
    program_ = chromium();
    if (program_.empty()) GTEST_SKIP() << "chromium is not installed";
    folder_ =
        fs::canonical(::testing::TempDir()) / ("backstop-browser-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    std::ofstream(folder_ / "report.html") << html_report(content());
    fs::copy_file(BACKSTOP_PROBE, folder_ / "probe.html");
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  /// What probe.html finds in a window of this width.
  [[nodiscard]] json look(int width, bool dark) const {
    const auto outcome =
        testing::Process(
            {program_,
             {"--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
              "--enable-logging=stderr", "--disable-background-networking", "--no-first-run",
              "--user-data-dir=" + (folder_ / "profile").string(), "--window-size=1400,1000",
              dark ? "--blink-settings=preferredColorScheme=0"
                   : "--blink-settings=preferredColorScheme=1",
              "--virtual-time-budget=10000", "--dump-dom",
              "file://" + (folder_ / "probe.html").string() + "#" + std::to_string(width)},
             {{"HOME", folder_.string()}}})
            .wait();
    EXPECT_THAT(outcome.err, Not(HasSubstr("CONSOLE"))) << "an error or a warning of the page";
    const auto begin = outcome.out.find("<pre id=\"found\">");
    const auto end = outcome.out.find("</pre>", begin);
    if (begin == std::string::npos || end == std::string::npos) {
      ADD_FAILURE() << outcome.out << outcome.err;
      return {};
    }
    const std::string text = outcome.out.substr(begin + 16, end - begin - 16);
    json found = json::parse(text, nullptr, false);
    EXPECT_TRUE(found.is_object()) << text << outcome.err;
    return found;
  }

  std::string program_;
  fs::path folder_;
};

TEST_F(Browser, ShowsThePageInWideAndNarrowWindowsLightAndDark) {
  for (const int width : {1200, 400})
    for (const bool dark : {false, true}) {
      SCOPED_TRACE(std::to_string(width) + (dark ? " dark" : " light"));
      const json found = look(width, dark);
      if (!found.is_object()) continue;
      EXPECT_EQ(found["width"], width);
      EXPECT_EQ(found["page_width"], found["room"]);
      EXPECT_EQ(found["too_wide"], json::array());
      EXPECT_EQ(found["charts"].size(), 4U);
      for (const double chart : found["charts"]) EXPECT_TRUE(chart > 350 && chart < width) << chart;
      EXPECT_EQ(found["chart_names"][1], "img [defense] clean accuracy");
      EXPECT_EQ(found["pictures"],
                json({{"badnets: test images as they are, with the trigger, and the difference",
                       1000, 1000}}));
      for (const auto& address : found["fetched"]) EXPECT_EQ(address, "data:");
      EXPECT_EQ(found["dark"], dark);
      EXPECT_EQ(found["pale_texts"], json::array());
      for (const double contrast : found["curves"]) EXPECT_GE(contrast, dark ? 4.5 : 2);
      EXPECT_EQ(found["untitled"], 0);
      EXPECT_EQ(found["unreachable"], 0);
    }
}

TEST_F(Browser, SortsTables) {
  const json found = look(1200, false);
  ASSERT_TRUE(found.is_object());
  EXPECT_GT(found["columns"], 10);
  EXPECT_EQ(found["buttons"], found["columns"]);
  const auto of = [&](const char* key) {
    auto names = found[key].get<std::vector<std::string>>();
    for (auto& name : names)
      if (name.size() > 20) name = name[0] == 'x' ? "long" : "hostile";
    return names;
  };
  EXPECT_THAT(of("by_time"), ElementsAre("ascending", "b", "a", "long", "hostile", "no defense"));
  EXPECT_THAT(of("by_time_again"),
              ElementsAre("descending", "no defense", "long", "hostile", "a", "b"));
  EXPECT_THAT(of("by_robustness"),
              ElementsAre("ascending", "no defense", "b", "long", "hostile", "a"))
      << "what is missing comes last, in the order of before";
  EXPECT_THAT(of("by_name"), ElementsAre("ascending", "hostile", "a", "b", "no defense", "long"));
  EXPECT_EQ(found["sorted_columns"], 1);
}

}  // namespace
}  // namespace backstop::report
