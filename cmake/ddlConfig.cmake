# find_package(ddl) gives ddl::ddl, which needs Eigen, and ddl::io where nlohmann_json is found.
# With COMPONENTS io it is an error if there is no ddl::io.

# Asked for without a version: Eigen 3.4 accepts no version range and refuses to stand in for another major version.
if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 CONFIG QUIET)
  if(NOT Eigen3_FOUND OR Eigen3_VERSION VERSION_LESS 3.4)
    set(ddl_FOUND FALSE)
    set(ddl_NOT_FOUND_MESSAGE "ddl needs Eigen 3.4 or newer (version ${Eigen3_VERSION}, Eigen3_DIR ${Eigen3_DIR})")
    return()
  endif()
endif()
include(${CMAKE_CURRENT_LIST_DIR}/ddlTargets.cmake)

set(ddl_io_FOUND FALSE)
if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/ddl_ioTargets.cmake)
  if(NOT TARGET nlohmann_json::nlohmann_json)
    find_package(nlohmann_json CONFIG QUIET)
  endif()
  if(TARGET nlohmann_json::nlohmann_json)
    include(${CMAKE_CURRENT_LIST_DIR}/ddl_ioTargets.cmake)
    set(ddl_io_FOUND TRUE)
  endif()
endif()

foreach(component IN LISTS ddl_FIND_COMPONENTS)
  if(ddl_FIND_REQUIRED_${component} AND NOT ddl_${component}_FOUND)
    set(ddl_FOUND FALSE)
    set(ddl_NOT_FOUND_MESSAGE "this ddl has no usable component '${component}' (io needs nlohmann_json)")
  endif()
endforeach()
