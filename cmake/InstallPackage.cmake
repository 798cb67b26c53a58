# The library with its headers, CMake package and pkg-config files; with Python, also what build_info() reads.
set(_targets ddit_kernels)
if(DDIT_EXT_TORCH)
  list(APPEND _targets ddit_ext)
endif()
install(TARGETS ${_targets} EXPORT ddit_extTargets LIBRARY DESTINATION ${DDIT_INSTALL_LIB}
        ARCHIVE DESTINATION ${DDIT_INSTALL_LIB})
install(DIRECTORY csrc/include/ddit_ext ${CMAKE_CURRENT_BINARY_DIR}/include/ddit_ext
        DESTINATION ${DDIT_INSTALL_INCLUDE} FILES_MATCHING PATTERN "*.h")
install(EXPORT ddit_extTargets NAMESPACE ddit_ext:: DESTINATION ${DDIT_INSTALL_CMAKE})

include(CMakePackageConfigHelpers)
configure_package_config_file(cmake/ddit_extConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/ddit_extConfig.cmake
                              INSTALL_DESTINATION ${DDIT_INSTALL_CMAKE})
configure_file(cmake/ddit_extTorch.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/ddit_extTorch.cmake @ONLY)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/ddit_extConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ddit_extConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/ddit_extConfigVersion.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/ddit_extTorch.cmake DESTINATION ${DDIT_INSTALL_CMAKE})

if(DDIT_EXT_PYTHON)
  install(TARGETS _core LIBRARY DESTINATION ddit_ext)
else()
  # The way from lib/pkgconfig up to the prefix, so that the prefix may be moved.
  string(REGEX REPLACE "[^/]+" ".." DDIT_PC_UP ${DDIT_INSTALL_LIB}/pkgconfig)
  get_filename_component(DDIT_PC_TORCH "${DDIT_EXT_TORCH_LIB_DIR}" DIRECTORY)
  set(_names ddit_ext_kernels)
  if(DDIT_EXT_TORCH)
    list(APPEND _names ddit_ext)
  endif()
  foreach(_name IN LISTS _names)
    configure_file(cmake/${_name}.pc.in ${CMAKE_CURRENT_BINARY_DIR}/${_name}.pc @ONLY)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${_name}.pc DESTINATION ${DDIT_INSTALL_LIB}/pkgconfig)
  endforeach()
endif()

# What was built, for ddit_ext.build_info().
set(_cuda false)
set(_architectures)
set(_cuda_text "no CUDA")
if(DDIT_EXT_WITH_CUDA)
  string(REPLACE ";" " " _listed "${CMAKE_CUDA_ARCHITECTURES}")
  set(_cuda true)
  string(REPLACE ";" "\", \"" _architectures "\"${CMAKE_CUDA_ARCHITECTURES}\"")
  set(_cuda_text "CUDA ${CMAKE_CUDA_COMPILER_VERSION} for architectures ${_listed}")
endif()
configure_file(cmake/build_info.json.in ${CMAKE_CURRENT_BINARY_DIR}/build_info.json @ONLY)
if(DDIT_EXT_PYTHON)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/build_info.json DESTINATION ${DDIT_INSTALL_LIB})
endif()
set(_torch_text "without torch")
if(DDIT_EXT_TORCH)
  set(_torch_text "built against torch ${DDIT_EXT_TORCH_VERSION}")
endif()
set(DDIT_EXT_SUMMARY "ddit_ext ${PROJECT_VERSION}: ${_torch_text}, ${_cuda_text}, "
                     "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
string(CONCAT DDIT_EXT_SUMMARY ${DDIT_EXT_SUMMARY})
install(CODE "message(STATUS \"${DDIT_EXT_SUMMARY}\")")
