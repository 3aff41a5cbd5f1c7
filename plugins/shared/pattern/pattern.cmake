# What the attacks with a picture for a trigger share, compiled once and linked into each.
include_guard(GLOBAL)
find_package(PNG REQUIRED)

add_library(backstop_pattern STATIC "${CMAKE_CURRENT_LIST_DIR}/pattern.cpp")
target_include_directories(backstop_pattern PUBLIC "${CMAKE_CURRENT_LIST_DIR}")
target_link_libraries(backstop_pattern PUBLIC backstop::sdk PNG::PNG)
set_target_properties(backstop_pattern PROPERTIES
  POSITION_INDEPENDENT_CODE ON
  CXX_VISIBILITY_PRESET hidden
  VISIBILITY_INLINES_HIDDEN ON)
