#include "host/recipe/row_name.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "host/base/text.hpp"

namespace backstop::recipe {
namespace {

struct Range {
  char32_t first, last;
  std::string_view what;
};

constexpr std::string_view kControl = "a control character", kInvisible = "an invisible character",
                           kDirection = "a character that changes the direction of text",
                           kSpace = "a space that is not the ordinary one";
constexpr std::array kForbidden = std::to_array<Range>({
    {0x00, 0x1f, kControl},         {0x7f, 0x9f, kControl},       {0xa0, 0xa0, kSpace},
    {0xad, 0xad, kInvisible},       {0x34f, 0x34f, kInvisible},   {0x61c, 0x61c, kDirection},
    {0x115f, 0x1160, kInvisible},   {0x1680, 0x1680, kSpace},     {0x17b4, 0x17b5, kInvisible},
    {0x180b, 0x180f, kInvisible},   {0x2000, 0x200a, kSpace},     {0x200b, 0x200d, kInvisible},
    {0x200e, 0x200f, kDirection},   {0x2028, 0x2029, kControl},   {0x202a, 0x202e, kDirection},
    {0x202f, 0x202f, kSpace},       {0x205f, 0x205f, kSpace},     {0x2060, 0x2064, kInvisible},
    {0x2065, 0x2065, kInvisible},   {0x2066, 0x2069, kDirection}, {0x206a, 0x206f, kInvisible},
    {0x3000, 0x3000, kSpace},       {0x3164, 0x3164, kInvisible}, {0xfe00, 0xfe0f, kInvisible},
    {0xfeff, 0xfeff, kInvisible},   {0xffa0, 0xffa0, kInvisible}, {0xfff0, 0xfffb, kInvisible},
    {0xe0000, 0xe0fff, kInvisible},
});

}  // namespace

std::optional<std::string> problem_of_name(std::string_view name) {
  if (name.size() > kLongestName)
    return fmt::format("`name` has {} bytes; at most {} are allowed", name.size(), kLongestName);
  if (name.find_first_not_of(' ') == std::string_view::npos)
    return std::string(name.empty() ? "`name` must not be empty"
                                    : "`name` must not consist of spaces");
  if (name.starts_with(' ') || name.ends_with(' '))
    return fmt::format("`name` must not {} with a space", name.starts_with(' ') ? "begin" : "end");
  int position = 1;
  for (std::string_view rest = name; !rest.empty(); ++position) {
    const base::Character next = base::first_character(rest);
    const char32_t character = next.code;
    rest.remove_prefix(next.size);
    const auto* range = std::find_if(kForbidden.begin(), kForbidden.end(), [&](const Range& r) {
      return character >= r.first && character <= r.last;
    });
    if (range != kForbidden.end())
      return fmt::format("`name` must not contain {}: character {} is U+{:04X}", range->what,
                         position, static_cast<std::uint32_t>(character));
  }
  return std::nullopt;
}

}  // namespace backstop::recipe
