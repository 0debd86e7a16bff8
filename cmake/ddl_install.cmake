# Headers, CMake package and pkg-config file. All of it can be moved after the install, and none depends on the machine.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/ddl)

foreach(library IN LISTS ddl_libraries)  # ddlTargets.cmake, ddl_ioTargets.cmake
  install(TARGETS ${library} EXPORT ${library}Targets FILE_SET HEADERS)
  install(EXPORT ${library}Targets NAMESPACE ddl:: DESTINATION ${package_dir})
endforeach()

write_basic_package_version_file(ddlConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES cmake/ddlConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/ddlConfigVersion.cmake DESTINATION ${package_dir})

file(RELATIVE_PATH includedir_from_pc ${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/ddl.pc.in ddl.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ddl.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
