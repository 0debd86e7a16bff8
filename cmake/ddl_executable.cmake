# What the project's own programs have in common; nothing here reaches whoever links ddl::ddl.
# Only the preset dev turns warnings into errors (CMAKE_COMPILE_WARNING_AS_ERROR).

if(MSVC)
  set(DDL_WARNINGS /W4)
else()
  set(DDL_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion)
endif()

if(DDL_USE_BLAS)
  find_package(BLAS REQUIRED)
endif()

# ddl_executable(<name> <source>...) builds <name> into <build folder>/bin.
function(ddl_executable name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE ddl::ddl $<TARGET_NAME_IF_EXISTS:ddl::io>)
  target_compile_options(${name} PRIVATE ${DDL_WARNINGS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  if(DDL_USE_BLAS)
    target_link_libraries(${name} PRIVATE BLAS::BLAS)
    target_compile_definitions(${name} PRIVATE EIGEN_USE_BLAS)
  endif()
endfunction()

# ddl_native(<name>) compiles <name> for this machine's processor, unless DDL_NATIVE is off.
function(ddl_native name)
  if(DDL_NATIVE)
    include(CheckCXXCompilerFlag)
    check_cxx_compiler_flag(-march=native DDL_HAS_MARCH_NATIVE)
    if(DDL_HAS_MARCH_NATIVE)
      target_compile_options(${name} PRIVATE -march=native)
      # False alarms from GCC's own AVX-512 headers (https://gcc.gnu.org/PR105593) and, at -O3, from Eigen's.
      if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
        target_compile_options(${name} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized -Wno-array-bounds)
      endif()
    endif()
  endif()
endfunction()
