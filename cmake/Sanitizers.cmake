# -DBACKSTOP_SANITIZE=address,undefined builds everything, plugins included, with those sanitizers.
set(BACKSTOP_SANITIZE "" CACHE STRING "Sanitizers to build with, separated by commas")
if(BACKSTOP_SANITIZE)
  add_compile_options(-fsanitize=${BACKSTOP_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${BACKSTOP_SANITIZE})
endif()
