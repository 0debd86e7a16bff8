# cmake -D DOXYGEN=.. -D PROJECT_VERSION=.. -D PROJECT_BINARY_DIR=.. [-D STRICT=ON] -P build.cmake
# Writes the reference to PROJECT_BINARY_DIR/html. STRICT: warnings and dead links are errors.

get_filename_component(source ${CMAKE_CURRENT_LIST_DIR}/../.. ABSOLUTE)
set(html ${PROJECT_BINARY_DIR}/html)
file(REMOVE_RECURSE ${html})
configure_file(${CMAKE_CURRENT_LIST_DIR}/Doxyfile.in ${PROJECT_BINARY_DIR}/Doxyfile @ONLY)
execute_process(COMMAND ${DOXYGEN} ${PROJECT_BINARY_DIR}/Doxyfile WORKING_DIRECTORY ${source}
                ERROR_VARIABLE warnings RESULT_VARIABLE result)
if(result)
  message(FATAL_ERROR "Doxygen: ${result}\n${warnings}")
endif()
# What pages link to besides the headers and the examples.
file(COPY ${source}/tests ${source}/LICENSE DESTINATION ${html} FILES_MATCHING PATTERN *.cpp PATTERN *.hpp PATTERN *.sh PATTERN LICENSE)

file(GLOB pages ${html}/index.html ${html}/md_*.html ${html}/headers.html)
foreach(page IN LISTS pages)
  file(READ ${page} text)
  string(REGEX MATCHALL "(href|src)=\"[^\":#]+[\"#]" links "${text}")
  list(TRANSFORM links REPLACE "^(href|src)=\"([^\"#]+)[\"#]$" "\\2")
  list(REMOVE_DUPLICATES links)
  foreach(link IN LISTS links)
    if(NOT EXISTS ${html}/${link})
      string(APPEND warnings "${page}: nothing is at ${link}\n")
    endif()
  endforeach()
endforeach()
if(warnings)
  message(NOTICE "${warnings}")
endif()
if(warnings AND STRICT)
  message(FATAL_ERROR "the reference has warnings")
endif()
message(NOTICE "The reference is in ${html}/index.html")
