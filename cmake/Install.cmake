# What is installed apart from targets, which have their own install() commands. The component `runtime`
# is what `backstop` needs, `development` what plugin authors need (see sdk/CMakeLists.txt).
include(GNUInstallDirs)

# The program itself writes backstop(1), from the texts of its help.
find_program(GZIP gzip REQUIRED)
set(manual "${CMAKE_BINARY_DIR}/share/man/man1/backstop.1.gz")
add_custom_command(OUTPUT "${manual}"
  COMMAND ${CMAKE_COMMAND} -E make_directory "${CMAKE_BINARY_DIR}/share/man/man1"
  COMMAND "$<TARGET_FILE:backstop>" help --man > "${CMAKE_BINARY_DIR}/share/man/man1/backstop.1"
  COMMAND "${GZIP}" -9nf "${CMAKE_BINARY_DIR}/share/man/man1/backstop.1"
  DEPENDS backstop VERBATIM)
add_custom_target(manual ALL DEPENDS "${manual}")
add_dependencies(program manual)
install(FILES "${manual}" DESTINATION "${CMAKE_INSTALL_MANDIR}/man1" COMPONENT runtime)

install(DIRECTORY recipes/ DESTINATION share/backstop/recipes COMPONENT runtime
        FILES_MATCHING PATTERN "*.toml")

install(FILES README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE
        DESTINATION share/doc/backstop COMPONENT runtime)
install(FILES sdk/ABI-CHANGES.md DESTINATION share/doc/backstop/sdk COMPONENT runtime)
install(DIRECTORY docs DESTINATION share/doc/backstop COMPONENT runtime
        FILES_MATCHING PATTERN "*.md")

install(FILES completions/backstop.bash RENAME backstop
        DESTINATION share/bash-completion/completions COMPONENT runtime)
install(FILES completions/backstop.fish
        DESTINATION share/fish/vendor_completions.d COMPONENT runtime)
install(FILES completions/_backstop DESTINATION share/zsh/site-functions COMPONENT runtime)
