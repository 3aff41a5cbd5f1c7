# `cpack` in the build folder makes two Debian packages: `backstop`, and `libbackstop-dev` for plugin
# authors.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME backstop)
set(CPACK_PACKAGE_VENDOR "the Backstop developers")
set(CPACK_PACKAGE_CONTACT "Backstop developers <backstop@example.org>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "") # each package has its own
set(CPACK_PACKAGE_DIRECTORY "${CMAKE_BINARY_DIR}/packages")
set(CPACK_COMPONENTS_ALL runtime development)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS # independent of the umask
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_STRIP_FILES ON) # the notes that the host reads are loaded sections, which stay

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)

set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME backstop)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION science)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_RECOMMENDS "dataset-fashion-mnist, libopenblas0-openmp")
set(CPACK_DEBIAN_RUNTIME_DESCRIPTION
"backdoors in image classifiers: plant, remove, measure
Backstop trains image classifiers with backdoors in them, removes the
backdoors, and measures what is left and what the removal cost.

Attacks, defenses, learning-rate schedulers and datasets are plugins, chained
by a recipe in TOML. The package libbackstop-dev contains what is needed to
write one.")

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libbackstop-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
string(JOIN ", " CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
  "backstop (= ${PROJECT_VERSION})"
  "cmake (>= 3.25)" g++ ninja-build
  libtorch-dev libgtest-dev libgmock-dev libtomlplusplus-dev)
set(CPACK_DEBIAN_DEVELOPMENT_DESCRIPTION
"backdoors in image classifiers: development files
Headers, CMake functions, test doubles and project templates for plugins of
backstop: attacks, defenses, learning-rate schedulers and datasets.")

# Debian has its own rules for these.
set(CPACK_PRE_BUILD_SCRIPTS "${PROJECT_SOURCE_DIR}/packaging/debian.cmake")
configure_file(packaging/changelog.in "${CMAKE_BINARY_DIR}/packaging/changelog" @ONLY)
set(CPACK_BACKSTOP_CHANGELOG "${CMAKE_BINARY_DIR}/packaging/changelog")
set(CPACK_BACKSTOP_COPYRIGHT "${PROJECT_SOURCE_DIR}/packaging/copyright")

include(CPack)
