#include "host/report/charts.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include <fmt/format.h>
#include <sys/wait.h>

#include "host/base/text.hpp"
#include "host/report/page.hpp"
#include "host/report/scale.hpp"

namespace backstop::report {
namespace {

// Okabe and Ito's colors without yellow, which is too pale on paper; the most different ones first.
constexpr std::array<std::string_view, 7> kColors = {"#0072b2", "#d55e00", "#009e73", "#222222",
                                                     "#cc79a7", "#e69f00", "#56b4e9"};
constexpr std::array<std::string_view, 5> kDashes = {"", "7 3", "2 3", "9 3 2 3", "4 2"};
/// For a mark of half a unit's size around 0, 0.
constexpr std::array<std::string_view, 8> kMarks = {
    "M-4 0A4 4 0 1 1 4 0A4 4 0 1 1 -4 0Z",                           // circle
    "M-3.6 -3.6H3.6V3.6H-3.6Z",                                      // square
    "M0 -4.8L4.4 3.4H-4.4Z",                                         // triangle
    "M0 -5L5 0L0 5L-5 0Z",                                           // diamond
    "M0 4.8L4.4 -3.4H-4.4Z",                                         // triangle, upside down
    "M-1.4 -4.5H1.4V-1.4H4.5V1.4H1.4V4.5H-1.4V1.4H-4.5V-1.4H-1.4Z",  // plus
    "M-4.4 -4.4H4.4L-4.4 4.4H4.4Z",                                  // hourglass
    "M-4.4 -2L-2 -4.4L0 -2.4L2 -4.4L4.4 -2L2.4 0L4.4 2L2 4.4L0 2.4L-2 4.4L-4.4 2L-2.4 0Z",  // cross
};

constexpr double kFont = 12, kLine = 16, kGap = 8;
constexpr double kSample = 34;  ///< of a line, in the legend
constexpr double kBand = 20;    ///< height of a box with the room around it

std::string number(double value) {
  std::string text = base::fixed(value, 1);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

/// Text for XML, which cannot hold two of the characters that HTML can.
std::string escaped(std::string_view text) {
  std::string result = html_escape(text);
  for (const auto* no_character : {"\xEF\xBF\xBE", "\xEF\xBF\xBF"})
    for (auto at = result.find(no_character); at != std::string::npos;
         at = result.find(no_character))
      result.replace(at, 3, "\xEF\xBF\xBD");
  return result;
}

/// About how wide a text is drawn; nobody here has the font.
double width_of(std::string_view text) {
  double width = 0;
  while (!text.empty()) {
    const base::Character character = base::first_character(text);
    width += kFont * (character.code < 0x1100 ? 0.56 : 1.0);
    text.remove_prefix(character.size);
  }
  return width;
}

/// Cut off where it would be wider than `most`.
std::string shortened(const std::string& name, double most) {
  std::string text = base::with_visible_controls(name);
  if (width_of(text) <= most) return text;
  std::string result;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t size = base::first_character(rest).size;
    if (width_of(result) + width_of(rest.substr(0, size)) + kFont > most) break;
    result += rest.substr(0, size);
    rest.remove_prefix(size);
  }
  return result + "\xE2\x80\xA6";
}

enum class Anchor { start, middle, end };

/// One line of text, its middle at `y`.
std::string text_at(double x, double y, std::string_view text, Anchor anchor = Anchor::start,
                    std::string_view more = "") {
  constexpr std::array<std::string_view, 3> kAnchors = {"", " text-anchor=\"middle\"",
                                                        " text-anchor=\"end\""};
  return fmt::format("<text x=\"{}\" y=\"{}\"{}{}>{}</text>\n", number(x), number(y + 4),
                     kAnchors.at(static_cast<std::size_t>(anchor)), more, escaped(text));
}

std::string line(double x1, double y1, double x2, double y2, std::string_view more = "") {
  return fmt::format("<path d=\"M{} {}L{} {}\"{}/>", number(x1), number(y1), number(x2), number(y2),
                     more);
}

std::string mark(std::size_t style, double x, double y, std::string_view tooltip = "") {
  const std::string title = tooltip.empty() ? "" : "<title>" + escaped(tooltip) + "</title>";
  return fmt::format(
      "<path class=\"mark\" transform=\"translate({} {})\" d=\"{}\" fill=\"currentColor\" "
      "stroke=\"#fff\" stroke-width=\"0.8\">{}</path>",
      number(x), number(y), kMarks.at(style % kMarks.size()), title);
}

/// Opens the group of what a series draws: its color is the current one.
std::string group(std::size_t style) {
  const std::size_t color = style % kColors.size();
  return fmt::format("<g class=\"c{}\" color=\"{}\">", color, kColors.at(color));
}

std::string dashes(std::size_t style) {
  const auto dash = kDashes.at(style % kDashes.size());
  return dash.empty() ? "" : fmt::format(" stroke-dasharray=\"{}\"", dash);
}

std::string value_text(double value) {
  return fmt::format("{:.4g}", value);
}

/// The place of a panel's data.
struct Box {
  double left = 0, top = 0, width = 0, height = 0;
  [[nodiscard]] double right() const { return left + width; }
  [[nodiscard]] double bottom() const { return top + height; }
  [[nodiscard]] double x(double place) const { return left + width * place; }
  [[nodiscard]] double y(double place) const { return bottom() - height * place; }
};

/// Names of series and their styles.
class Styles {
 public:
  explicit Styles(const std::vector<std::string>& first) : names_(first) {}

  std::size_t operator[](const std::string& name) {
    const auto found = std::find(names_.begin(), names_.end(), name);
    const auto index = static_cast<std::size_t>(found - names_.begin());
    if (found == names_.end()) names_.push_back(name);
    if (std::find(used_.begin(), used_.end(), index) == used_.end()) used_.push_back(index);
    return index;
  }
  [[nodiscard]] const std::string& name(std::size_t style) const { return names_[style]; }
  /// As they were first asked for.
  [[nodiscard]] const std::vector<std::size_t>& used() const { return used_; }

 private:
  std::vector<std::string> names_;
  std::vector<std::size_t> used_;
};

enum class Kind { line, scatter, box };

std::string legend_sample(Kind kind, std::size_t style, double x, double y) {
  switch (kind) {
    case Kind::line:
      return line(x, y, x + kSample - kGap, y,
                  dashes(style) + " fill=\"none\" stroke=\"currentColor\" stroke-width=\"2\"") +
             mark(style, x + (kSample - kGap) / 2, y);
    case Kind::scatter:
      return mark(style, x + (kSample - kGap) / 2, y);
    case Kind::box:
      return fmt::format(
                 "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"10\" fill=\"currentColor\" "
                 "fill-opacity=\"0.3\" stroke=\"currentColor\"/>",
                 number(x), number(y - 5), number(kSample - kGap)) +
             mark(style, x + (kSample - kGap) / 2, y);
  }
  return {};
}

/// Samples and names, in as many lines as they need; `height` is what they take.
std::string legend(Kind kind, const Styles& styles, double width, double& height) {
  height = kGap;
  const auto& used = styles.used();
  if (used.empty() || (used.size() == 1 && styles.name(used[0]).empty())) return "";
  std::string svg;
  double x = kGap, y = kGap + kLine / 2;
  for (const std::size_t style : used) {
    const std::string name = shortened(styles.name(style), width - kSample - 2 * kGap);
    const double needed = kSample + width_of(name) + 2 * kGap;
    if (x > kGap && x + needed > width) {
      x = kGap;
      y += kLine + 2;
    }
    svg += group(style) + legend_sample(kind, style, x, y) + "</g>" + text_at(x + kSample, y, name);
    x += needed;
  }
  height = y + kLine / 2 + kGap;
  return svg;
}

/// Where the panels are, and their axes.
class Layout {
 public:
  /// `categories`: what stands at the left instead of ticks of y, one in each band.
  Layout(Kind kind, const ChartFrame& frame, const std::vector<std::string>& panel_titles,
         const Extent& x, const Extent& y, const std::vector<std::string>& categories,
         double panel_height, const Styles& styles)
      : frame_(frame),
        titles_(panel_titles),
        categories_(categories),
        columns_(std::clamp<std::size_t>(frame.columns, 1,
                                         std::max<std::size_t>(panel_titles.size(), 1))),
        panel_width_(columns_ == 1   ? 400
                     : columns_ == 2 ? 290
                                     : 200),
        panel_height_(panel_height),
        y_(y, static_cast<int>(panel_height / 36)),
        x_(x, 1) {
    double ticks_width = 0;
    if (kind == Kind::box)
      for (const auto& name : categories_)
        ticks_width = std::max(ticks_width, width_of(shortened(name, kMostCategory)));
    else
      for (const auto& tick : y_.ticks()) ticks_width = std::max(ticks_width, width_of(tick.text));
    left_ = ticks_width + 2 * kGap + (frame.y.label.empty() ? 0 : kLine + 4);
    x_ = ticks_that_fit(x);
    // Half of the last tick's text is right of its panel.
    const double half = x_.ticks().empty() ? 0 : width_of(x_.ticks().back().text) / 2;
    between_ = std::max(half + kGap + (x_.ticks().empty() ? 0 : width_of(x_.ticks()[0].text) / 2),
                        2 * kGap);
    width_ = left_ + static_cast<double>(columns_) * (panel_width_ + between_) - between_ +
             std::max(half, kGap) + 2;
    legend_ = legend(kind, styles, width_, legend_height_);
    const bool any_title = std::any_of(titles_.begin(), titles_.end(),
                                       [](const std::string& title) { return !title.empty(); });
    title_height_ = any_title ? kLine + 4 : 0;
    rows_ = (std::max<std::size_t>(titles_.size(), 1) + columns_ - 1) / columns_;
  }

  [[nodiscard]] const Scale& x() const { return x_; }
  [[nodiscard]] const Scale& y() const { return y_; }

  [[nodiscard]] Box panel(std::size_t index) const {
    const std::size_t row = index / columns_, column = index % columns_;
    const double above = panel_height_ + title_height_ + 2 * kGap;
    return {left_ + static_cast<double>(column) * (panel_width_ + between_),
            legend_height_ + title_height_ + static_cast<double>(row) * above, panel_width_,
            panel_height_};
  }

  /// The whole chart around what the panels draw.
  [[nodiscard]] std::string around(const std::string& panels) const {
    const double bottom = panel((rows_ - 1) * columns_).bottom();
    const double height = bottom + kGap + kLine + (frame_.x.label.empty() ? 0 : kLine + 4);
    std::string svg = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {0} {1}\" "
        "width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\" font-family=\"system-ui, "
        "sans-serif\" font-size=\"{3}\" color=\"#222222\">\n<title>{2}</title>\n<desc>{4}</desc>\n"
        "<rect class=\"paper\" width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n",
        number(width_), number(height), escaped(frame_.title), number(kFont),
        escaped(frame_.description));
    svg += "<g class=\"grid\" color=\"#d5dae1\" stroke=\"currentColor\" fill=\"none\">\n";
    for (std::size_t i = 0; i < titles_.size(); ++i) svg += grid(panel(i));
    svg += "</g>\n<g class=\"text\" fill=\"currentColor\">\n";
    for (std::size_t i = 0; i < titles_.size(); ++i) svg += texts(i);
    const double right = panel(columns_ - 1).right();
    if (!frame_.x.label.empty())
      svg += text_at((left_ + right) / 2, height - kLine / 2 - 2, shortened(frame_.x.label, right),
                     Anchor::middle);
    if (!frame_.y.label.empty()) {
      const double middle = (panel(0).top + bottom) / 2;
      svg += text_at(0, 0, shortened(frame_.y.label, height), Anchor::middle,
                     fmt::format(" transform=\"translate({} {}) rotate(-90)\"",
                                 number(kLine / 2 + 2), number(middle)));
    }
    return svg + legend_ + "</g>\n" + panels + "</svg>\n";
  }

  [[nodiscard]] double band() const {
    return panel_height_ / std::max<double>(static_cast<double>(categories_.size()), 1);
  }

 private:
  static constexpr double kMostCategory = 200;

  [[nodiscard]] Scale ticks_that_fit(const Extent& extent) const {
    for (auto count = static_cast<int>(panel_width_ / 45); count > 1; --count) {
      Scale scale(extent, count);
      double needed = 0;
      for (const auto& tick : scale.ticks()) needed += width_of(tick.text) + kFont;
      if (needed <= panel_width_ + kFont) return scale;
    }
    return {extent, 1};
  }

  [[nodiscard]] std::string grid(const Box& box) const {
    std::string svg;
    for (const auto& tick : x_.ticks())
      svg += line(box.x(tick.place), box.top, box.x(tick.place), box.bottom());
    if (categories_.empty())
      for (const auto& tick : y_.ticks())
        svg += line(box.left, box.y(tick.place), box.right(), box.y(tick.place));
    for (std::size_t i = 0; i <= categories_.size() && !categories_.empty(); ++i) {
      const double y = box.top + band() * static_cast<double>(i);
      svg += line(box.left, y, box.right(), y);
    }
    return svg + line(box.left, box.top, box.left, box.bottom()) +
           line(box.left, box.bottom(), box.right(), box.bottom()) + "\n";
  }

  [[nodiscard]] std::string texts(std::size_t index) const {
    const Box box = panel(index);
    std::string svg;
    if (!titles_[index].empty())
      svg += text_at(box.left + box.width / 2, box.top - kLine / 2 - 2,
                     shortened(titles_[index], box.width), Anchor::middle, " font-weight=\"bold\"");
    if (index + columns_ >= titles_.size())  // there is no panel below
      for (const auto& tick : x_.ticks())
        svg += text_at(box.x(tick.place), box.bottom() + kLine / 2 + 4, tick.text, Anchor::middle);
    if (index % columns_ != 0) return svg;
    if (categories_.empty())
      for (const auto& tick : y_.ticks())
        svg += text_at(box.left - kGap, box.y(tick.place), tick.text, Anchor::end);
    for (std::size_t i = 0; i < categories_.size(); ++i)
      svg += text_at(box.left - kGap, box.top + band() * (static_cast<double>(i) + 0.5),
                     shortened(categories_[i], kMostCategory), Anchor::end);
    return svg;
  }

  const ChartFrame& frame_;
  std::vector<std::string> titles_;
  const std::vector<std::string>& categories_;
  std::size_t columns_, rows_ = 1;
  double panel_width_, panel_height_, left_ = 0, between_ = 0, width_ = 0;
  double legend_height_ = 0, title_height_ = 0;
  std::string legend_;
  Scale y_, x_;
};

std::string no_data(const Box& box) {
  return text_at(box.left + box.width / 2, box.top + box.height / 2, "no data", Anchor::middle,
                 " fill=\"currentColor\"");
}

/// The text of a panel's groups, or that there are none.
std::string or_no_data(std::string svg, const Box& box) {
  return svg.empty() ? no_data(box) : std::move(svg);
}

// -- lines and points --

struct Drawn {
  double x, y;  ///< on the chart
  const Point* point;
};

std::vector<Drawn> drawn_points(const Series& series, const Extent& x, const Extent& y,
                                const Layout& layout, const Box& box) {
  std::vector<Drawn> drawn;
  for (const Point& point : series.points)
    if (x.shows(point.x) && y.shows(point.y))
      drawn.push_back({box.x(layout.x().place(point.x)), box.y(layout.y().place(point.y)), &point});
  return drawn;
}

/// The ends of an interval on the axis. One that the axis cannot show is put at its low end.
std::pair<double, double> places(const Interval& interval, const Extent& extent,
                                 const Scale& scale) {
  const auto place = [&](double end) { return extent.shows(end) ? scale.place(end) : 0.0; };
  return std::minmax({place(interval.low), place(interval.high)});
}

std::string tooltip_of(const ChartFrame& frame, const std::string& name, const Point& point) {
  const auto named = [](const std::string& label) { return label.empty() ? "" : label + " "; };
  std::string text = name.empty() ? "" : name + ": ";
  if (!point.label.empty() && point.label != name) text += point.label + ": ";
  return text + named(frame.y.label) + value_text(point.y) + " at " + named(frame.x.label) +
         value_text(point.x);
}

std::string band_of(const std::vector<Drawn>& drawn, const Extent& extent, const Layout& layout,
                    const Box& box) {
  std::string upper, lower;
  for (const Drawn& at : drawn) {
    if (!at.point->y_interval) continue;
    const auto [low, high] = places(*at.point->y_interval, extent, layout.y());
    upper += fmt::format("{},{} ", number(at.x), number(box.y(high)));
    lower.insert(0, fmt::format(" {},{}", number(at.x), number(box.y(low))));
  }
  if (upper.empty()) return "";
  upper.pop_back();
  return "<polygon points=\"" + upper + lower + "\" fill=\"currentColor\" fill-opacity=\"0.18\"/>";
}

std::string line_of(const ChartFrame& frame, const Series& series, std::size_t style,
                    const std::vector<Drawn>& drawn) {
  constexpr std::size_t kMarked = 12;  // of a line; more would hide it
  std::string path, marks;
  const std::size_t every = (drawn.size() + kMarked - 1) / kMarked;
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    path += fmt::format("{}{},{}", i == 0 ? "" : " ", number(drawn[i].x), number(drawn[i].y));
    if (i % every == 0 || i + 1 == drawn.size())
      marks += mark(style, drawn[i].x, drawn[i].y, tooltip_of(frame, series.name, *drawn[i].point));
  }
  return fmt::format(
             "<polyline points=\"{}\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"2\" "
             "stroke-linejoin=\"round\"{}/>",
             path, dashes(style)) +
         marks;
}

std::string error_bars(const Drawn& at, const Extent& x, const Extent& y, const Layout& layout,
                       const Box& box) {
  constexpr double kCap = 3;
  std::string svg;
  if (at.point->x_interval) {
    const auto [low, high] = places(*at.point->x_interval, x, layout.x());
    svg += line(box.x(low), at.y, box.x(high), at.y);
    for (const double end : {box.x(low), box.x(high)})
      svg += line(end, at.y - kCap, end, at.y + kCap);
  }
  if (at.point->y_interval) {
    const auto [low, high] = places(*at.point->y_interval, y, layout.y());
    svg += line(at.x, box.y(low), at.x, box.y(high));
    for (const double end : {box.y(low), box.y(high)})
      svg += line(at.x - kCap, end, at.x + kCap, end);
  }
  return svg.empty() ? "" : "<g stroke=\"currentColor\" stroke-width=\"1.2\">" + svg + "</g>";
}

/// Puts labels beside their points, where they cover the least of what is there.
class Labels {
 public:
  explicit Labels(const Box& panel) : panel_(panel) {}

  /// `weight`: of covering it, where that of covering a label is 10.
  void keep_free(const Box& box, double weight) { taken_.emplace_back(box, weight); }

  std::string place(double x, double y, const std::string& label) {
    const std::string text = shortened(label, panel_.width * 0.7);
    const double width = width_of(text), height = kFont + 1;
    Box best;
    double least = -1;
    for (const double away : {9.0, 20.0, 34.0})
      for (const auto& [dx, dy] : {std::pair{1.0, 0.0}, std::pair{-1.0, 0.0}, std::pair{0.0, -1.0},
                                   std::pair{0.0, 1.0}, std::pair{0.7, -0.8}, std::pair{0.7, 0.8},
                                   std::pair{-0.7, -0.8}, std::pair{-0.7, 0.8}}) {
        const double middle = x + dx * away + dx * width / 2;
        const Box box{middle - width / 2, y + dy * (away + 2) - height / 2, width, height};
        const double cost = covered(box) + away;  // near is better
        if (least < 0 || cost < least) {
          least = cost;
          best = box;
        }
      }
    taken_.emplace_back(best, 10);
    const double text_y = best.top + height / 2;
    std::string svg = text_at(best.left, text_y, text, Anchor::start, " fill=\"currentColor\"");
    // A line leads to a label that had to go away.
    const double end_x = std::clamp(x, best.left, best.right());
    const double end_y = std::clamp(y, best.top, best.bottom());
    if (std::hypot(end_x - x, end_y - y) > 14)
      svg += line(x, y, end_x, end_y, " stroke=\"currentColor\" stroke-width=\"0.6\"");
    return svg;
  }

 private:
  /// The area of `box` that is taken or outside, weighted.
  [[nodiscard]] double covered(const Box& box) const {
    const auto common = [&box](const Box& other) {
      const double width = std::min(box.right(), other.right()) - std::max(box.left, other.left);
      const double height = std::min(box.bottom(), other.bottom()) - std::max(box.top, other.top);
      return std::max(width, 0.0) * std::max(height, 0.0);
    };
    double cost = 10 * (box.width * box.height - common(panel_));
    for (const auto& [other, weight] : taken_) cost += weight * common(other);
    return cost;
  }

  Box panel_;
  std::vector<std::pair<Box, double>> taken_;
};

std::string line_panel(const ChartFrame& frame, const Panel& panel, const Extent& y,
                       const std::vector<std::vector<Drawn>>& drawn, const Layout& layout,
                       const Box& box, Styles& styles) {
  std::string bands, lines;
  for (std::size_t s = 0; s < drawn.size(); ++s) {
    if (drawn[s].empty()) continue;
    const Series& series = panel.series[s];
    const std::size_t style = styles[series.name];
    if (const std::string band = band_of(drawn[s], y, layout, box); !band.empty())
      bands += group(style) + band + "</g>\n";
    lines += group(style) + line_of(frame, series, style, drawn[s]) + "</g>\n";
  }
  return bands + lines;
}

std::string scatter_panel(const ChartFrame& frame, const Panel& panel, const Extent& x,
                          const Extent& y, const std::vector<std::vector<Drawn>>& drawn,
                          const Layout& layout, const Box& box, Styles& styles) {
  std::string points;
  Labels labels(box);
  for (std::size_t s = 0; s < drawn.size(); ++s) {
    if (drawn[s].empty()) continue;
    const Series& series = panel.series[s];
    const std::size_t style = styles[series.name];
    points += group(style);
    for (const Drawn& at : drawn[s]) {
      points += error_bars(at, x, y, layout, box) +
                mark(style, at.x, at.y, tooltip_of(frame, series.name, *at.point));
      labels.keep_free({at.x - 6, at.y - 6, 12, 12}, 5);
      if (at.point->x_interval) {
        const auto [low, high] = places(*at.point->x_interval, x, layout.x());
        labels.keep_free({box.x(low), at.y - 2, box.x(high) - box.x(low), 4}, 1);
      }
      if (at.point->y_interval) {
        const auto [low, high] = places(*at.point->y_interval, y, layout.y());
        labels.keep_free({at.x - 2, box.y(high), 4, box.y(low) - box.y(high)}, 1);
      }
    }
    points += "</g>\n";
  }
  std::string texts;
  for (const auto& series : drawn)
    for (const Drawn& at : series)
      if (!at.point->label.empty()) texts += labels.place(at.x, at.y, at.point->label);
  return points + texts;
}

std::string point_chart(const Chart& chart, Kind kind) {
  const ChartFrame& frame = chart.frame;
  Extent x(frame.x), y(frame.y);
  Styles styles(frame.styles);
  std::vector<std::string> titles;
  for (const Panel& panel : chart.panels) {
    titles.push_back(panel.title);
    for (const Series& series : panel.series) {
      (void)styles[series.name];
      for (const Point& point : series.points) {
        if (!x.shows(point.x) || !y.shows(point.y)) continue;
        x.add(point.x);
        y.add(point.y);
        if (point.x_interval && kind == Kind::scatter) x.add(*point.x_interval);
        if (point.y_interval) y.add(*point.y_interval);
      }
    }
  }
  const std::vector<std::string> no_categories;
  const double height = std::min(frame.columns, titles.size()) < 2 ? 230 : 190;
  const Layout layout(kind, frame, titles, x, y, no_categories, height, styles);
  std::string panels;
  for (std::size_t i = 0; i < chart.panels.size(); ++i) {
    const Panel& panel = chart.panels[i];
    const Box box = layout.panel(i);
    std::vector<std::vector<Drawn>> drawn;
    for (const Series& series : panel.series)
      drawn.push_back(drawn_points(series, x, y, layout, box));
    panels += or_no_data(kind == Kind::line
                             ? line_panel(frame, panel, y, drawn, layout, box, styles)
                             : scatter_panel(frame, panel, x, y, drawn, layout, box, styles),
                         box);
  }
  return layout.around(panels);
}

// -- boxes --

struct Quartiles {
  double lower, median, upper;
};

/// Between two values in proportion. `sorted` is not empty.
double quantile(const std::vector<double>& sorted, double share) {
  const double position = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  if (below + 1 >= sorted.size()) return sorted.back();
  const double part = position - static_cast<double>(below);
  return sorted[below] * (1 - part) + sorted[below + 1] * part;
}

/// A box in the middle of `y`, or marks where there are few values. `sorted` is not empty.
std::string box_of(const std::vector<double>& sorted, std::size_t style, double y,
                   const Scale& scale, const Box& panel, const std::string& name) {
  constexpr std::size_t kFewest = 5;
  constexpr double kHalf = 6;
  const auto at = [&](double value) { return panel.x(scale.place(value)); };
  const Quartiles quartiles = {quantile(sorted, 0.25), quantile(sorted, 0.5),
                               quantile(sorted, 0.75)};
  std::string svg = fmt::format(
      "<g><title>{}</title>",
      escaped(fmt::format("{}median {}, from {} to {}, {}", name, value_text(quartiles.median),
                          value_text(sorted.front()), value_text(sorted.back()),
                          base::count_of(sorted.size(), "value"))));
  std::string marks;
  if (sorted.size() < kFewest) {
    for (const double value : sorted) marks += mark(style, at(value), y);
  } else {
    const double reach = 1.5 * (quartiles.upper - quartiles.lower);
    const auto whisker = [&](double end, double sign) {
      double furthest = end;
      for (const double value : sorted)
        if (sign * (value - end) <= reach && sign * (value - furthest) > 0) furthest = value;
      return furthest;
    };
    const double low = whisker(quartiles.lower, -1), high = whisker(quartiles.upper, 1);
    svg += fmt::format(
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"currentColor\" "
        "fill-opacity=\"0.3\" stroke=\"currentColor\"/>",
        number(at(quartiles.lower)), number(y - kHalf),
        number(at(quartiles.upper) - at(quartiles.lower)), number(2 * kHalf));
    svg += "<g stroke=\"currentColor\" stroke-width=\"1.2\">" +
           line(at(low), y, at(quartiles.lower), y) + line(at(quartiles.upper), y, at(high), y);
    for (const double end : {at(low), at(high)}) svg += line(end, y - 3, end, y + 3);
    svg += "</g>";
    for (const double value : sorted)
      if (value < low || value > high) marks += mark(style, at(value), y);
  }
  return svg +
         line(at(quartiles.median), y - kHalf - 1, at(quartiles.median), y + kHalf + 1,
              " stroke=\"currentColor\" stroke-width=\"2.5\"") +
         marks + "</g>\n";
}

}  // namespace

std::string line_chart(const Chart& chart) {
  return point_chart(chart, Kind::line);
}

std::string scatter_chart(const Chart& chart) {
  return point_chart(chart, Kind::scatter);
}

std::string box_chart(const BoxChart& chart) {
  Extent x(chart.frame.x);
  Styles styles(chart.frame.styles);
  std::vector<std::string> titles;
  std::size_t most = 1;  // boxes of a category
  for (const BoxPanel& panel : chart.panels) {
    titles.push_back(panel.title);
    most = std::max(most, panel.series.size());
    for (const BoxSeries& series : panel.series) {
      (void)styles[series.name];
      for (const auto& values : series.values)
        for (const double value : values) x.add(value);
    }
  }
  const double band = static_cast<double>(most) * kBand + kGap;
  const double height =
      band * static_cast<double>(std::max<std::size_t>(chart.categories.size(), 1));
  const Layout layout(Kind::box, chart.frame, titles, x, Extent(Axis{}), chart.categories, height,
                      styles);
  std::string panels;
  for (std::size_t i = 0; i < chart.panels.size(); ++i) {
    const Box box = layout.panel(i);
    std::string data;
    for (std::size_t s = 0; s < chart.panels[i].series.size(); ++s) {
      const BoxSeries& series = chart.panels[i].series[s];
      const std::size_t style = styles[series.name];
      std::string boxes;
      for (std::size_t c = 0; c < std::min(chart.categories.size(), series.values.size()); ++c) {
        std::vector<double> sorted = series.values[c];
        std::erase_if(sorted, [&x](double value) { return !x.shows(value); });
        if (sorted.empty()) continue;
        std::sort(sorted.begin(), sorted.end());
        const double y = box.top + band * static_cast<double>(c) + kGap / 2 +
                         kBand * (static_cast<double>(s) + 0.5);
        const std::string name =
            chart.categories[c] + (series.name.empty() ? "" : ", " + series.name) + ": ";
        boxes += box_of(sorted, style, y, layout.x(), box, name);
      }
      if (!boxes.empty()) data += group(style) + boxes + "</g>\n";
    }
    panels += or_no_data(data, box);
  }
  return layout.around(panels);
}

std::string chart_style() {
  return R"(:root { --chart-ink: #222222; --chart-grid: #d5dae1; --chart-paper: #ffffff;
  --chart-0: #0072b2; --chart-1: #d55e00; --chart-2: #009e73; --chart-3: #222222; --chart-4: #cc79a7;
  --chart-5: #e69f00; --chart-6: #56b4e9; }
@media (prefers-color-scheme: dark) {
  :root { --chart-ink: #e4e8ee; --chart-grid: #3a424d; --chart-paper: #14181d;
    --chart-0: #4aa8e8; --chart-1: #ff8a3d; --chart-2: #2fc79a; --chart-3: #e4e8ee; --chart-4: #e59cc5;
    --chart-5: #f0b93a; --chart-6: #a5d8f7; }
}
.chart { display: block; max-width: 100%; height: auto; color: var(--chart-ink); }
.chart .paper { fill: none; }
.chart .grid { color: var(--chart-grid); }
.chart .mark { stroke: var(--chart-paper); }
.chart .c0 { color: var(--chart-0); }
.chart .c1 { color: var(--chart-1); }
.chart .c2 { color: var(--chart-2); }
.chart .c3 { color: var(--chart-3); }
.chart .c4 { color: var(--chart-4); }
.chart .c5 { color: var(--chart-5); }
.chart .c6 { color: var(--chart-6); }
)";
}

std::string write_pdf(const std::filesystem::path& svg, const std::filesystem::path& pdf) {
  namespace fs = std::filesystem;
  fs::path part = fs::absolute(pdf);
  part += ".part";
  std::array<std::string, 6> words = {"rsvg-convert", "-f",          "pdf",
                                      "-o",           part.string(), fs::absolute(svg).string()};
  std::array<char*, 7> arguments{};
  std::transform(words.begin(), words.end(), arguments.begin(),
                 [](std::string& word) { return word.data(); });
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    ::posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0);
  pid_t process = 0;
  const int error =
      ::posix_spawnp(&process, words[0].c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT) return "`rsvg-convert` is not installed (Debian's package librsvg2-bin)";
  if (error != 0)
    return "`rsvg-convert` cannot be started: " + std::generic_category().message(error);
  int status = 0;
  while (::waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  std::error_code moved;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    fs::rename(part, pdf, moved);
    return moved ? "it cannot be renamed: " + moved.message() : "";
  }
  fs::remove(part, moved);
  return fmt::format("`rsvg-convert` failed on {}", svg.string());
}

}  // namespace backstop::report
