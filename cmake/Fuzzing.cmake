# backstop_add_fuzzer(NAME SOURCES a.cpp ... [LIBRARIES ...] CORPUS folder)
#
# A libFuzzer program fuzz_NAME of the sources, one of which has LLVMFuzzerTestOneInput(), and its
# ctest entry fuzz.NAME, labelled `fuzz`: it runs every file of the kept corpus (a folder beside the
# CMakeLists.txt), then new inputs for BACKSTOP_FUZZ_SECONDS (in the environment when the tests run,
# else as configured). Does nothing without -DBACKSTOP_FUZZ=ON, which wants clang; the preset `fuzz`
# sets both. Target `fuzzers`: all of them.
option(BACKSTOP_FUZZ "Build the fuzzers, with clang" OFF)
set(BACKSTOP_FUZZ_SECONDS 20 CACHE STRING "How long each fuzzer looks for new inputs")

if(BACKSTOP_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "BACKSTOP_FUZZ wants clang, the compiler is ${CMAKE_CXX_COMPILER_ID}: "
                        "use `cmake --preset fuzz`")
  endif()
  if(NOT BACKSTOP_SANITIZE) # a fuzzer sees only what a sanitizer reports
    set(BACKSTOP_SANITIZE "address,undefined" CACHE STRING "" FORCE)
  endif()
  # vptr checks need type information that LibTorch does not export.
  add_compile_options(-fsanitize=fuzzer-no-link -fno-sanitize=vptr)
  add_custom_target(fuzzers)
endif()

function(backstop_add_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "CORPUS" "SOURCES;LIBRARIES")
  cmake_path(ABSOLUTE_PATH arg_CORPUS BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
  if(NOT arg_SOURCES OR NOT IS_DIRECTORY "${arg_CORPUS}")
    message(FATAL_ERROR "backstop_add_fuzzer(${name}): wants SOURCES, and a folder CORPUS")
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
