# backstop_add_fuzzer(NAME SOURCES a.cpp ... [LIBRARIES ...] CORPUS folder)
#
# Adds a libFuzzer program fuzz_NAME from the sources, one of which defines LLVMFuzzerTestOneInput(),
# and its test fuzz.NAME with the label `fuzz`. The test runs every file of the corpus (a folder beside
# the CMakeLists.txt), then new inputs for BACKSTOP_FUZZ_SECONDS (from the environment when the tests
# run, otherwise as configured). Does nothing without -DBACKSTOP_FUZZ=ON, which needs clang; the preset
# `fuzz` sets both. The target `fuzzers` builds all of them.
option(BACKSTOP_FUZZ "Build the fuzzers, with clang" OFF)
set(BACKSTOP_FUZZ_SECONDS 20 CACHE STRING "How long each fuzzer searches for new inputs")

if(BACKSTOP_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "BACKSTOP_FUZZ needs clang, but the compiler is ${CMAKE_CXX_COMPILER_ID}: "
                        "use `cmake --preset fuzz`")
  endif()
  if(NOT BACKSTOP_SANITIZE) # a fuzzer notices only what a sanitizer reports
    set(BACKSTOP_SANITIZE "address,undefined" CACHE STRING "" FORCE)
  endif()
  # The vptr checks need type information that LibTorch does not export.
  add_compile_options(-fsanitize=fuzzer-no-link -fno-sanitize=vptr)
  add_custom_target(fuzzers)
endif()

function(backstop_add_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "CORPUS" "SOURCES;LIBRARIES")
  cmake_path(ABSOLUTE_PATH arg_CORPUS BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
  if(NOT arg_SOURCES OR NOT IS_DIRECTORY "${arg_CORPUS}")
    message(FATAL_ERROR "backstop_add_fuzzer(${name}): needs SOURCES and a folder CORPUS")
  endif()
  if(NOT BACKSTOP_FUZZ)
    return()
  endif()
  set(target "fuzz_${name}")
  add_executable(${target} EXCLUDE_FROM_ALL ${arg_SOURCES})
  target_link_libraries(${target} PRIVATE ${arg_LIBRARIES})
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  add_dependencies(fuzzers ${target})
  add_test(NAME "fuzz.${name}"
           COMMAND "${PROJECT_SOURCE_DIR}/tests/fuzz/run_fuzzer" "$<TARGET_FILE:${target}>"
                   "${arg_CORPUS}" "${BACKSTOP_FUZZ_SECONDS}")
  set_tests_properties("fuzz.${name}" PROPERTIES LABELS fuzz)
endfunction()
