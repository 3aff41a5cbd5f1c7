// The figures of a study: charts of its numbers.
#pragma once

#include <string>
#include <vector>

#include "host/report/study.hpp"

namespace backstop::report {

struct StudyFigure {
  std::string name;  ///< of its file, without extension
  std::string title;
  std::string text;  ///< what there is to see, below it and for those who do not see it
  std::string svg;   ///< part of a page, or a file
};

/// Those for which there are data:
///
///   accuracy-by-success          clean accuracy against attack success, a point a defense with the
///                                standard deviations of both, a panel for the same conditions
///   attack-success-by-epoch,     mean over the runs and standard deviation while a defense trains, a
///   clean-accuracy-by-epoch      line a defense
///   cost                         time of each defense, a box over all runs
std::vector<StudyFigure> figures_of(const Study& study);

}  // namespace backstop::report
