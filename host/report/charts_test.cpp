#include "host/report/charts.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace backstop::report {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// The attribute of the first element that begins with `start`.
std::string attribute(const std::string& svg, const std::string& start, const std::string& name) {
  const auto element = svg.find(start);
  const auto at = svg.find(' ' + name + "=\"", element);
  if (element == std::string::npos || at == std::string::npos) return "none";
  const auto begin = at + name.size() + 3;
  return svg.substr(begin, svg.find('"', begin) - begin);
}

/// Of "X,Y X,Y".
std::vector<double> numbers_in(std::string text) {
  std::replace(text.begin(), text.end(), ',', ' ');
  std::istringstream stream(text);
  return {std::istream_iterator<double>(stream), {}};
}

Chart curves() {
  return {{.title = "attack success by epoch",
           .description = "two curves",
           .x = {.label = "epoch", .whole = true},
           .y = {.label = "attack success", .minimum = 0, .maximum = 1}},
          {{"badnets", {{"plain", {{0, 1.0}, {1, 0.75}}}, {"super", {{0, 1.0}, {1, 0.25}}}}}}};
}

/// Every chart that can be made of these points.
std::vector<std::string> charts_of(const std::vector<Point>& points) {
  std::vector<std::string> svgs;
  for (const bool logarithmic : {false, true}) {
    const Axis axis = {.label = "a", .logarithmic = logarithmic};
    const ChartFrame frame = {"title", "description", axis, axis};
    const Panel panel = {"panel", {{"series", points}}};
    BoxSeries boxes = {"series", std::vector<std::vector<double>>(1)};
    for (const Point& point : points) boxes.values[0].push_back(point.x);
    svgs.push_back(line_chart({frame, {panel, panel}}));
    svgs.push_back(scatter_chart({frame, {panel}}));
    svgs.push_back(box_chart({frame, {"category"}, {{"panel", {boxes}}}}));
  }
  return svgs;
}

TEST(Charts, JoinsThePointsOfASeries) {
  const std::string svg = line_chart(curves());
  EXPECT_EQ(count(svg, "<polyline"), 2U);
  // Both begin at one place, and end at a quarter of the height from the top and the bottom.
  const auto first = numbers_in(attribute(svg, "<polyline", "points"));
  const auto second =
      numbers_in(attribute(svg.substr(svg.find("<polyline") + 1), "<polyline", "points"));
  ASSERT_EQ(first.size(), 4U);
  ASSERT_EQ(second.size(), 4U);
  EXPECT_GT(first[2], first[0] + 300);
  EXPECT_EQ(first[1], second[1]);
  EXPECT_NEAR(second[3] - second[1], 3 * (first[3] - first[1]), 0.5);
}

TEST(Charts, TellsSeriesApartWithoutColor) {
  Chart chart = curves();
  auto& series = chart.panels[0].series;
  for (int i = 2; i < 30; ++i) series.push_back({"defense " + std::to_string(i), {{0, 0.5}}});
  const std::string svg = scatter_chart(chart);
  EXPECT_NE(attribute(line_chart(curves()), "<polyline", "stroke-dasharray"), "");
  // Color and mark together are different for each of thirty.
  std::set<std::string> looks;
  for (auto at = svg.find("<g class=\"c"); at != std::string::npos;
       at = svg.find("<g class=\"c", at + 1)) {
    const std::string rest = svg.substr(at);
    looks.insert(attribute(rest, "<g", "color") + attribute(rest, "<path class=\"mark\"", "d"));
  }
  EXPECT_EQ(looks.size(), 30U);
}

TEST(Charts, KeepsTheLookOfANameAcrossPanelsAndCharts) {
  Chart chart = curves();
  chart.panels.push_back({"blended", {{"super", {{0, 1.0}}}}});
  const auto color_of_last = [](const std::string& svg) {
    return attribute(svg.substr(svg.rfind("<g class=\"c")), "<g", "color");
  };
  const std::string super = color_of_last(line_chart(chart));
  EXPECT_EQ(super, color_of_last(line_chart(curves())));
  Chart alone = curves();
  alone.panels[0].series.erase(alone.panels[0].series.begin());
  EXPECT_NE(super, color_of_last(line_chart(alone)));
  alone.frame.styles = {"plain", "super"};
  EXPECT_EQ(super, color_of_last(line_chart(alone)));
  EXPECT_EQ(count(line_chart(alone), ">plain<"), 0U) << "no name in the legend without a series";
}

TEST(Charts, ShadesIntervalsInLinesAndDrawsThemAsBarsInScatters) {
  Chart chart = curves();
  EXPECT_THAT(line_chart(chart), Not(HasSubstr("<polygon")));
  for (auto& point : chart.panels[0].series[0].points) {
    point.y_interval = {point.y - 0.1, point.y + 0.1};
    point.x_interval = {point.x - 0.1, point.x + 0.1};
  }
  EXPECT_EQ(count(line_chart(chart), "<polygon"), 1U);
  const std::string bars = "<g stroke=\"currentColor\" stroke-width=\"1.2\"><path";
  EXPECT_EQ(count(scatter_chart(chart), bars), 2U);
}

TEST(Charts, LabelsPointsWithoutCoveringOthers) {
  Chart chart = curves();
  chart.panels[0].series = {{"", {}}};
  for (int i = 0; i < 6; ++i)
    chart.panels[0].series[0].points.push_back(
        {0.5, 0.5, std::nullopt, std::nullopt, "defense " + std::to_string(i)});
  chart.panels[0].series[0].points.push_back({0, 0});
  chart.panels[0].series[0].points.push_back({1, 1});
  const std::string svg = scatter_chart(chart);
  std::set<std::string> places;
  for (int i = 0; i < 6; ++i) {
    const auto text = svg.find(">defense " + std::to_string(i) + "</text>");
    ASSERT_NE(text, std::string::npos);
    places.insert(svg.substr(svg.rfind("<text", text), text - svg.rfind("<text", text)));
  }
  EXPECT_EQ(places.size(), 6U);
}

TEST(Charts, DrawsQuartilesWhiskersAndWhatIsBeyond) {
  const BoxChart chart = {{.title = "cost", .x = {.minimum = 0, .maximum = 100}},
                          {"anp", "fine-tuning"},
                          {{"", {{"", {{1, 2, 3, 4, 5, 6, 7, 8, 100}, {10, 20}}}}}}};
  const std::string svg = box_chart(chart);
  EXPECT_THAT(svg, HasSubstr("<title>anp: median 5, from 1 to 100, 9 values</title>"));
  EXPECT_THAT(svg, HasSubstr("<title>fine-tuning: median 15, from 10 to 20, 2 values</title>"));
  const std::string boxes = svg.substr(svg.find("<title>anp"));
  // The panel is 400 wide: from 3 to 7 of 100.
  EXPECT_EQ(attribute(boxes, "<rect", "width"), "16");
  EXPECT_EQ(count(boxes, "<rect"), 1U) << "no box for two values";
  EXPECT_EQ(count(boxes, "class=\"mark\""), 3U) << "100, 10 and 20";
}

TEST(Charts, SurvivesWhateverTheNumbersAre) {
  const std::vector<std::vector<Point>> cases = {
      {},
      {{kNan, kNan}},
      {{kNan, 1}, {1, kInfinity}, {1, 2}},
      {{0, 0}},
      {{3, 3}, {3, 3}, {3, 3}},
      {{-1e308, -1e308}, {1e308, 1e308}},
      {{1e-300, 1e300}, {5e-324, 1}},
      {{1, 1, Interval{kNan, kNan}, Interval{-kInfinity, kInfinity}, "point"}},
      {{1, 1, Interval{2, 0}, Interval{-5, 5}, ""}, {2, 2}, {-1, -2}},
      {{1e16, 1e16}, {1e16 + 2, 1e16 + 2}},
  };
  for (std::size_t i = 0; i < cases.size(); ++i)
    for (const std::string& svg : charts_of(cases[i])) {
      EXPECT_THAT(svg, AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf")))) << "case " << i;
      EXPECT_LT(svg.size(), 20000U) << "case " << i;
    }
  EXPECT_THAT(charts_of({})[0], HasSubstr("no data"));
  EXPECT_THAT(line_chart({}), HasSubstr("</svg>"));
  EXPECT_THAT(box_chart({}), HasSubstr("</svg>"));
}

TEST(Charts, EscapesEveryName) {
  const std::string backwards("\u202E\n", 3);
  const std::string hostile = "</title></svg><script>\"'&\xEF\xBF\xBF\xFF\a]]>" + backwards;
  const ChartFrame frame = {.title = hostile,
                            .description = hostile,
                            .x = {.label = hostile},
                            .y = {.label = hostile},
                            .styles = {hostile}};
  const Chart chart = {
      frame, {{hostile, {{hostile, {{1, 1, std::nullopt, std::nullopt, hostile}, {2, 2}}}}}}};
  const BoxChart boxes = {frame, {hostile}, {{hostile, {{hostile, {{1, 2, 3, 4, 5}}}}}}};
  for (const std::string& svg : {line_chart(chart), scatter_chart(chart), box_chart(boxes)}) {
    EXPECT_THAT(
        svg, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("\"'")), Not(HasSubstr("\xEF\xBF\xBF")),
                   Not(HasSubstr("\xFF")), Not(HasSubstr(backwards)), Not(HasSubstr("]]>"))));
    EXPECT_EQ(count(svg, "</svg>"), 1U);
  }
}

TEST(Charts, SaysWhatItShowsToThoseWhoDoNotSeeIt) {
  EXPECT_THAT(line_chart(curves()),
              AllOf(HasSubstr("role=\"img\" aria-label=\"attack success by epoch\""),
                    HasSubstr("<title>attack success by epoch</title>\n<desc>two curves</desc>"),
                    HasSubstr(">epoch</text>"), HasSubstr(">super</text>"),
                    HasSubstr("<title>super: attack success 0.25 at epoch 1</title>")));
}

TEST(Charts, CutsNamesThatHaveNoRoom) {
  Chart chart = curves();
  chart.panels[0].series[0].name = std::string(300, 'x');
  chart.panels[0].title = std::string(300, 'y');
  const std::string svg = line_chart(chart);
  EXPECT_THAT(svg, AllOf(HasSubstr("xx\u2026</text>"), HasSubstr("yy\u2026</text>")));
  EXPECT_LT(std::stod(attribute(svg, "<svg", "width")), 600);
}

TEST(Charts, MarksSomePointsOfALongLine) {
  Chart chart = curves();
  auto& points = chart.panels[0].series[0].points;
  for (int i = 2; i < 1000; ++i) points.push_back({static_cast<double>(i), 0.5});
  EXPECT_LT(count(line_chart(chart), "class=\"mark\""), 20U);
}

TEST(Charts, BecomePdf) {
  const fs::path folder = fs::path(::testing::TempDir()) / "backstop-charts";
  fs::create_directories(folder);
  const fs::path svg = folder / "-chart.svg", pdf = folder / "chart.pdf";
  std::ofstream(svg) << line_chart(curves());
  const std::string reason = write_pdf(svg, pdf);
  if (reason.find("not installed") != std::string::npos) {
    EXPECT_FALSE(fs::exists(pdf));
    fs::remove_all(folder);
    GTEST_SKIP() << reason;
  }
  EXPECT_EQ(reason, "");
  std::ifstream stream(pdf, std::ios::binary);
  EXPECT_THAT(std::string(std::istreambuf_iterator<char>(stream), {}), HasSubstr("%PDF-"));
  std::ofstream(svg) << "this is no SVG";
  EXPECT_THAT(write_pdf(svg, folder / "other.pdf"), HasSubstr("failed on"));
  EXPECT_FALSE(fs::exists(folder / "other.pdf"));
  ::setenv("PATH", folder.c_str(), 1);
  EXPECT_THAT(write_pdf(svg, folder / "other.pdf"), HasSubstr("librsvg2-bin"));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace backstop::report
