# The Debian package libddl-dev:   cmake --workflow --preset package
# Whoever distributes it gives a name and an address: cmake --preset package -DCPACK_PACKAGE_CONTACT="NAME <ADDRESS>"
set(CPACK_PACKAGE_CONTACT "the ddl authors <ddl@example.org>" CACHE STRING "The maintainer of the package")
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME libddl-dev)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_PACKAGE_MULTIARCH foreign)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libeigen3-dev (>= 3.4)")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS nlohmann-json3-dev)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS mpi-default-dev)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION  # after the project's own, in one line
    "Deep Delta networks edit a matrix-valued state from layer to layer,
X + beta k (v - X^T k)^T, where residual networks add to it. DeltaNet applies
the same edit over time, once a token.

This package has the operators, layers, models and training of ddl as C++20
headers, with forward and backward passes, a CMake package and a pkg-config
file.")

# Debian's documentation of the package. Other installs do not have it.
set(documents ${PROJECT_BINARY_DIR}/debian)
configure_file(LICENSE ${documents}/copyright COPYONLY)
string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)  # or that of SOURCE_DATE_EPOCH
configure_file(cmake/debian_changelog.in ${documents}/changelog @ONLY)
find_program(DDL_GZIP gzip)
if(DDL_GZIP)
  execute_process(COMMAND ${DDL_GZIP} -9nf ${documents}/changelog)
endif()
set(CPACK_INSTALLED_DIRECTORIES ${documents} /usr/share/doc/libddl-dev)

set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # no program is installed, so none is built first
include(CPack)
