# -DBACKSTOP_SANITIZE=address,undefined builds everything, including plugins, with these sanitizers.
set(BACKSTOP_SANITIZE "" CACHE STRING "Sanitizers to build with, separated by commas")
if(BACKSTOP_SANITIZE)
  add_compile_options(-fsanitize=${BACKSTOP_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${BACKSTOP_SANITIZE})
endif()

# backstop_parser_test(TARGET TEST): TARGET reads files that may be hostile. It becomes part of
# `parser_tests`, and its ctest entry TEST gets the label `parser`; scripts/test also runs these tests
# under the sanitizers.
function(backstop_parser_test target test)
  set_property(GLOBAL APPEND PROPERTY BACKSTOP_PARSER_TESTS ${target})
  set_tests_properties("${test}" PROPERTIES LABELS parser)
endfunction()
