# CPack runs this between installation and packaging, to do what Debian's policy requires beyond a plain
# installation.
set(staged "${CPACK_TEMPORARY_DIRECTORY}")
foreach(component IN LISTS CPACK_COMPONENTS_ALL)
  string(TOUPPER "${component}" upper)
  set(package "${CPACK_DEBIAN_${upper}_PACKAGE_NAME}")
  set(doc "${staged}/${component}/usr/share/doc/${package}")
  file(COPY "${CPACK_BACKSTOP_COPYRIGHT}" "${CPACK_BACKSTOP_CHANGELOG}" DESTINATION "${doc}")
  execute_process(COMMAND gzip -9nf "${doc}/changelog" COMMAND_ERROR_IS_FATAL ANY)
  file(COPY "${CMAKE_CURRENT_LIST_DIR}/lintian-overrides/${package}"
       DESTINATION "${staged}/${component}/usr/share/lintian/overrides")
endforeach()
# Debian has it in /usr/share/common-licenses.
file(REMOVE "${staged}/runtime/usr/share/doc/backstop/LICENSE")
file(RENAME "${staged}/runtime/usr/share/zsh/site-functions"
            "${staged}/runtime/usr/share/zsh/vendor-completions")
