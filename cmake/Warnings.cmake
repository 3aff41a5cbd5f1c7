add_compile_options(
  -Wall -Wextra -Wpedantic -Wshadow -Wcast-align
  -Wconversion -Wsign-conversion)
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wold-style-cast>
                    $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
                    $<$<COMPILE_LANGUAGE:CXX>:-Woverloaded-virtual>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-Wduplicated-cond -Wlogical-op)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wsuggest-override>)
endif()
if(BACKSTOP_WARNINGS_AS_ERRORS)
  add_compile_options(-Werror)
endif()
