#include "host/report/report_folder.hpp"

#include <set>

#include <gmock/gmock.h>

#include "host/base/error.hpp"
#include "host/report/study_fixture.hpp"

namespace backstop::report {
namespace {

using ::testing::UnorderedElementsAre;

class ReportFolder : public StudyTest {
 protected:
  static ReportFiles files(const std::string& text) {
    return {
        {kReportMark, "{\"backstop_report\": 1}"}, {"report.html", text}, {"figures/a.svg", text}};
  }
  static std::set<std::string> names_in(const std::filesystem::path& folder) {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      names.insert(entry.path().filename().string());
    return names;
  }
};

TEST_F(ReportFolder, IsWrittenAndReplacedWhole) {
  const auto folder = path() / "below" / "report";
  write_report_folder(folder, files("one"));
  EXPECT_EQ(read(folder / "figures" / "a.svg"), "one");
  ReportFiles fewer = files("two");
  fewer.erase("figures/a.svg");
  write_report_folder(folder.string() + "/", fewer);
  EXPECT_EQ(read(folder / "report.html"), "two");
  EXPECT_THAT(names_in(folder), UnorderedElementsAre("report.html", "report.json"));
  EXPECT_THAT(names_in(path() / "below"), UnorderedElementsAre("report"));
}

TEST_F(ReportFolder, MayBeEmpty) {
  std::filesystem::create_directory(path() / "empty");
  write_report_folder(path() / "empty", files("one"));
  EXPECT_EQ(read(path() / "empty" / "report.html"), "one");
}

TEST_F(ReportFolder, IsNothingElse) {
  const auto other = path() / "other", mixed = path() / "mixed", linked = path() / "linked";
  std::filesystem::create_directory(other);
  write(other / "thesis.tex", "x");
  write(other / kReportMark, "{}");
  write_report_folder(mixed, files("one"));
  write(mixed / "notes.txt", "x");
  write(path() / "file", "x");
  std::filesystem::create_directory_symlink(mixed, linked);
  for (const auto& folder : {other, mixed, path() / "file", linked}) {
    EXPECT_THROW(write_report_folder(folder, files("two")), base::HostError) << folder;
    EXPECT_THROW(check_report_folder(folder), base::HostError) << folder;
  }
  EXPECT_EQ(read(other / "thesis.tex"), "x");
  EXPECT_EQ(read(mixed / "notes.txt"), "x");
  EXPECT_EQ(read(mixed / "report.html"), "one");
  EXPECT_EQ(read(path() / "file"), "x");
  EXPECT_THAT(names_in(path()), UnorderedElementsAre("other", "mixed", "file", "linked"));
}

TEST_F(ReportFolder, StaysAsItIsWhenWritingFails) {
  write_report_folder(path() / "report", files("one"));
  ReportFiles broken = files("two");
  broken["report.html/x.md"] = "a folder where a file is";
  EXPECT_THROW(write_report_folder(path() / "report", broken), base::HostError);
  EXPECT_EQ(read(path() / "report" / "report.html"), "one");
  EXPECT_THAT(names_in(path()), UnorderedElementsAre("report"));
}

}  // namespace
}  // namespace backstop::report
