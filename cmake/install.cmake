# The package: program, libraries, headers, pkg-config and CMake descriptions, task definitions, documents.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set_target_properties(fastkernels_shared PROPERTIES EXPORT_NAME fastkernels)
set_target_properties(fastkernels_static PROPERTIES EXPORT_NAME static)
install(TARGETS fastkernels_shared fastkernels_static EXPORT fastkernels-targets)
if(TARGET fastkernels)
  install(TARGETS fastkernels)
endif()
install(DIRECTORY include/fastkernels DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(FK_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/fastkernels)
install(EXPORT fastkernels-targets NAMESPACE fastkernels:: DESTINATION ${FK_PACKAGE_DIR})
configure_package_config_file(cmake/fastkernels-config.cmake.in ${CMAKE_BINARY_DIR}/fastkernels-config.cmake
                              INSTALL_DESTINATION ${FK_PACKAGE_DIR})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/fastkernels-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/fastkernels-config.cmake ${CMAKE_BINARY_DIR}/fastkernels-config-version.cmake
        DESTINATION ${FK_PACKAGE_DIR})

# pkg-config computes its prefix from its own place, so the tree can be moved.
file(RELATIVE_PATH FK_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" FK_PC_PREFIX "${FK_PC_PREFIX}")
set(FK_PC_LIBS)
foreach(library ${FK_LINK})
  if(IS_ABSOLUTE "${library}")
    string(APPEND FK_PC_LIBS " ${library}")
  endif()
endforeach()
if(FK_CUDA_OBJECTS)
  string(APPEND FK_PC_LIBS " ${CUDA_cudart_static_LIBRARY} -lrt")
endif()
string(STRIP "${FK_PC_LIBS}" FK_PC_LIBS)
configure_file(cmake/fastkernels.pc.in ${CMAKE_BINARY_DIR}/fastkernels.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/fastkernels.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

foreach(file ${FK_TASK_FILES})
  cmake_path(GET file PARENT_PATH folder)
  cmake_path(GET folder FILENAME task)
  install(FILES ${file} DESTINATION ${CMAKE_INSTALL_DATADIR}/fastkernels/tasks/${task})
endforeach()
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR})
