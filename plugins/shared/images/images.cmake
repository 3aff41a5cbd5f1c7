# What the plugins made of image files share, compiled once and linked into each: backstop_image_files,
# which knows files and pixels but not LibTorch, and on top of it backstop_images.
include_guard(GLOBAL)
find_package(PNG REQUIRED)
pkg_check_modules(libturbojpeg REQUIRED IMPORTED_TARGET libturbojpeg)

set(folder "${CMAKE_CURRENT_LIST_DIR}")
add_library(backstop_image_files STATIC
  "${folder}/bmp.cpp"
  "${folder}/cache.cpp"
  "${folder}/decode.cpp"
  "${folder}/folder.cpp"
  "${folder}/jpeg.cpp"
  "${folder}/png.cpp"
  "${folder}/pnm.cpp")
target_include_directories(backstop_image_files PUBLIC
  $<TARGET_PROPERTY:backstop::sdk,INTERFACE_INCLUDE_DIRECTORIES>)
target_link_libraries(backstop_image_files PUBLIC
  PNG::PNG PkgConfig::libturbojpeg OpenSSL::Crypto)

add_library(backstop_images STATIC "${folder}/image_dataset.cpp")
target_link_libraries(backstop_images PUBLIC backstop_image_files backstop::sdk)

set_target_properties(backstop_image_files backstop_images PROPERTIES
  CXX_VISIBILITY_PRESET hidden
  VISIBILITY_INLINES_HIDDEN ON)
unset(folder)
