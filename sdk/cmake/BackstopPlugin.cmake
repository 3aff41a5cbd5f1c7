# backstop_add_plugin(NAME KIND attack|defense|scheduler|dataset SOURCES a.cpp ...
#                     [MANIFEST NAME.toml] [LIBRARIES ...] [TARGET_ABI_MINOR n]
#                     [CHECK_ARGUMENTS --set KEY=VALUE ...])
#
# Builds NAME.so in <build>/lib/backstop/plugins/<kind>s and installs it to the same folder below
# the prefix. The manifest (by default NAME.toml beside the CMakeLists.txt) is embedded, all symbols but
# the entry function are hidden, undefined symbols are link errors, and the library is never
# unmapped. If find_package(backstop) found the program too, the test plugin.NAME.check runs
# `backstop plugin check` on the built file.
#
# backstop_add_plugin_test(NAME SOURCES NAME_test.cpp ...)
#
# Builds a GoogleTest program that contains the plugin's own sources: its tests create the plugin's
# object with backstop::testing::make() and drive it with the fakes of backstop/testing/fakes.hpp.
# attack_promises.hpp and defense_promises.hpp beside it have ready-made tests.

set(_BACKSTOP_CMAKE_DIR "${CMAKE_CURRENT_LIST_DIR}")
set(_BACKSTOP_KINDS attack defense scheduler dataset)

# At file level, because in a function it would only apply to its scope.
enable_testing()

function(backstop_add_plugin name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "KIND;MANIFEST;TARGET_ABI_MINOR" "SOURCES;LIBRARIES;CHECK_ARGUMENTS")
  if(NOT arg_KIND IN_LIST _BACKSTOP_KINDS)
    message(FATAL_ERROR "backstop_add_plugin(${name}): KIND must be attack, defense, scheduler "
                        "or dataset, got \"${arg_KIND}\"")
  endif()
  if(NOT arg_SOURCES)
    message(FATAL_ERROR "backstop_add_plugin(${name}): SOURCES is missing")
  endif()
  if(TARGET_ABI_MINOR IN_LIST arg_KEYWORDS_MISSING_VALUES)
    message(FATAL_ERROR "backstop_add_plugin(${name}): TARGET_ABI_MINOR needs a number")
  endif()
  # A shared library linked with either of them turns on flush-to-zero for the whole host.
  if("${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${CMAKE_BUILD_TYPE}}" MATCHES "-Ofast|-ffast-math")
    message(FATAL_ERROR "backstop_add_plugin(${name}): build without -Ofast and -ffast-math: "
                        "they change the arithmetic of the whole process")
  endif()
  if(NOT arg_MANIFEST)
    set(arg_MANIFEST "${name}.toml")
  endif()
  cmake_path(ABSOLUTE_PATH arg_MANIFEST BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
             OUTPUT_VARIABLE manifest_file)
  if(NOT EXISTS "${manifest_file}")
    message(FATAL_ERROR "backstop_add_plugin(${name}): the manifest ${manifest_file} does not "
                        "exist")
  endif()
  foreach(fact "name;${name}" "kind;${arg_KIND}")
    list(POP_FRONT fact key)
    file(STRINGS "${manifest_file}" line REGEX "^${key} *=" LIMIT_COUNT 1)
    if(NOT line MATCHES "^${key} *= *[\"']${fact}[\"'] *(#.*)?$")
      message(FATAL_ERROR "backstop_add_plugin(${name}): CMake says ${key} = \"${fact}\", but "
                          "${manifest_file} says: ${line}")
    endif()
  endforeach()
  set(note "${CMAKE_CURRENT_BINARY_DIR}/${name}_note.cpp")
  configure_file("${_BACKSTOP_CMAKE_DIR}/note.cpp.in" "${note}" @ONLY)
  set_source_files_properties("${note}" PROPERTIES OBJECT_DEPENDS "${manifest_file}")

  # Compiled once for both the plugin and its test.
  set(target "backstop_plugin_${name}")
  add_library(${target}_objects OBJECT ${arg_SOURCES})
  target_link_libraries(${target}_objects PUBLIC backstop::sdk ${arg_LIBRARIES})
  add_library(${target} MODULE "${note}")
  target_link_libraries(${target} PRIVATE ${target}_objects)
  if(DEFINED arg_TARGET_ABI_MINOR)
    # PUBLIC: the plugin's test has to see the same interfaces.
    target_compile_definitions(${target}_objects
                               PUBLIC BACKSTOP_TARGET_ABI_MINOR=${arg_TARGET_ABI_MINOR})
  endif()
  set_target_properties(${target}_objects ${target} PROPERTIES
    POSITION_INDEPENDENT_CODE ON
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
  set_target_properties(${target} PROPERTIES
    OUTPUT_NAME "${name}"
    PREFIX ""
    DEFINE_SYMBOL ""
    LINK_DEPENDS "${_BACKSTOP_CMAKE_DIR}/plugin.map"
    LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib/backstop/plugins/${arg_KIND}s"
    BACKSTOP_MANIFEST "${manifest_file}")
  target_link_options(${target} PRIVATE
    "LINKER:--version-script=${_BACKSTOP_CMAKE_DIR}/plugin.map"
    "LINKER:-z,now,-z,relro,-z,nodelete"
    "LINKER:--require-defined=backstop_plugin_v1") # BACKSTOP_PLUGIN() is missing otherwise
  if(NOT BACKSTOP_SANITIZE) # sanitizer run-times leave symbols to the executable
    target_link_options(${target} PRIVATE "LINKER:-z,defs")
  endif()
  set_property(GLOBAL APPEND PROPERTY BACKSTOP_PLUGIN_TARGETS ${target})
  install(TARGETS ${target}
          LIBRARY DESTINATION "lib/backstop/plugins/${arg_KIND}s"
          COMPONENT runtime)
  if(BACKSTOP_PROGRAM)
    add_test(NAME "plugin.${name}.check"
             COMMAND "${BACKSTOP_PROGRAM}" plugin check "$<TARGET_FILE:${target}>"
                     ${arg_CHECK_ARGUMENTS})
    set_tests_properties("plugin.${name}.check" PROPERTIES TIMEOUT 600)
  endif()
endfunction()

function(backstop_add_plugin_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES")
  find_package(GTest REQUIRED)
  find_package(tomlplusplus REQUIRED)
  set(plugin "backstop_plugin_${name}")
  get_target_property(manifest ${plugin} BACKSTOP_MANIFEST)
  set(target "${name}_test")
  add_executable(${target} ${arg_SOURCES})
  target_compile_definitions(${target} PRIVATE "BACKSTOP_MANIFEST=\"${manifest}\"")
  target_link_libraries(${target} PRIVATE ${plugin}_objects backstop::sdk_testing ${arg_LIBRARIES}
                                          GTest::gtest_main GTest::gmock)
  # One ctest entry per program: loading LibTorch takes half a second at every start.
  add_test(NAME "plugin.${name}" COMMAND ${target})
  set_tests_properties("plugin.${name}" PROPERTIES TIMEOUT 600)
endfunction()
