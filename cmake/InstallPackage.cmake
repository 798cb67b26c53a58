# Everything goes below ddit_ext/, the Python package, so that a wheel, an editable install and
# `cmake --install build --prefix .` in a checkout all look alike.
set(_cmake_dir ddit_ext/share/cmake/ddit_ext)
install(TARGETS _core LIBRARY DESTINATION ddit_ext)
install(TARGETS ddit_ext ddit_kernels EXPORT ddit_extTargets
        LIBRARY DESTINATION ddit_ext/lib ARCHIVE DESTINATION ddit_ext/lib)
install(DIRECTORY csrc/include/ddit_ext DESTINATION ddit_ext/include)
install(EXPORT ddit_extTargets NAMESPACE ddit_ext:: DESTINATION ${_cmake_dir})

include(CMakePackageConfigHelpers)
configure_package_config_file(cmake/ddit_extConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/ddit_extConfig.cmake
                              INSTALL_DESTINATION ${_cmake_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/ddit_extConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ddit_extConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/ddit_extConfigVersion.cmake DESTINATION ${_cmake_dir})

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
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/build_info.json DESTINATION ddit_ext/lib)
set(DDIT_EXT_SUMMARY "ddit_ext ${PROJECT_VERSION}: built against torch ${DDIT_EXT_TORCH_VERSION}, ${_cuda_text}, "
                     "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
string(CONCAT DDIT_EXT_SUMMARY ${DDIT_EXT_SUMMARY})
install(CODE "message(STATUS \"${DDIT_EXT_SUMMARY}\")")
