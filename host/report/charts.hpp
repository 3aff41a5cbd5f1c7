// Charts as SVG: plain data in, a text out. The text is a file of its own, in which colors are
// plain and the paper white, or a part of a page: there `chart_style()` gives it the page's colors,
// the dark ones too. Series differ in color, dashes and marks. Names are escaped.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace backstop::report {

struct Axis {
  std::string label = {};    ///< with its unit: "wall time (s)"
  bool logarithmic = false;  ///< values of 0 or less are left out
  bool whole = false;        ///< ticks at whole numbers only, as for epochs
  /// The axis begins and ends there, or further out where a point lies; intervals are cut off. As
  /// the data are where nothing is said.
  std::optional<double> minimum = {}, maximum = {};
};

struct Interval {
  double low = 0, high = 0;
};

/// One whose x or y is not finite is left out.
struct Point {
  double x = 0, y = 0;
  std::optional<Interval> x_interval = {}, y_interval = {};
  std::string label = {};  ///< beside the point, in scatter_chart
};

struct Series {
  std::string name;  ///< in the legend
  std::vector<Point> points;
};

/// What surrounds the data of all kinds of charts.
struct ChartFrame {
  std::string title = {};        ///< not shown: the caption is the page's or the paper's
  std::string description = {};  ///< for those who do not see the chart: what it shows
  Axis x = {}, y = {};           ///< shared by all panels
  std::size_t columns = 3;       ///< panels beside each other
  /// Series of these names are drawn in the first colors, dashes and marks, in this order, even
  /// where some are absent: a name looks the same in several charts. Others follow as they come.
  std::vector<std::string> styles = {};
};

struct Panel {
  std::string title;  ///< above the panel
  std::vector<Series> series;
};
struct Chart {
  ChartFrame frame;
  std::vector<Panel> panels;
};
/// The points of a series are joined in their order. Intervals of y are a shaded band.
std::string line_chart(const Chart& chart);
/// Intervals are error bars.
std::string scatter_chart(const Chart& chart);

struct BoxSeries {
  std::string name;                         ///< in the legend
  std::vector<std::vector<double>> values;  ///< for each category; may be empty
};
struct BoxPanel {
  std::string title;
  std::vector<BoxSeries> series;
};
/// Boxes lie, so that long names of categories can be read: x is the axis of the values. A box is
/// from the lower to the upper quartile with a line at the median; whiskers reach to the furthest
/// values within 1.5 times the box's length, and values beyond are marked. Fewer than five values
/// are marked one by one, with a line at the median.
struct BoxChart {
  ChartFrame frame;
  std::vector<std::string> categories;  ///< from top to bottom
  std::vector<BoxPanel> panels;
};
std::string box_chart(const BoxChart& chart);

/// CSS for a page with charts in it.
std::string chart_style();

/// Draws an SVG file as PDF with `rsvg-convert`, if it is there. Returns why not, as a clause; empty
/// when the PDF is written.
std::string write_pdf(const std::filesystem::path& svg, const std::filesystem::path& pdf);

}  // namespace backstop::report
