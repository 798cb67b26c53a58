# Where things go below the prefix. For Python everything lies in ddit_ext/, the package, so that a wheel, an
# editable install and `cmake --install build --prefix .` in a checkout all look alike; without, as in any C++
# library.
if(DDIT_EXT_PYTHON)
  set(DDIT_INSTALL_LIB ddit_ext/lib)
  set(DDIT_INSTALL_INCLUDE ddit_ext/include)
  set(DDIT_INSTALL_CMAKE ddit_ext/share/cmake/ddit_ext)
else()
  include(GNUInstallDirs)
  # The pkg-config files find the prefix from where they lie, so that it may be moved.
  foreach(_dir IN ITEMS LIBDIR INCLUDEDIR)
    if(IS_ABSOLUTE "${CMAKE_INSTALL_${_dir}}")
      message(FATAL_ERROR "CMAKE_INSTALL_${_dir} must be relative to the prefix, got ${CMAKE_INSTALL_${_dir}}")
    endif()
  endforeach()
  set(DDIT_INSTALL_LIB ${CMAKE_INSTALL_LIBDIR})
  set(DDIT_INSTALL_INCLUDE ${CMAKE_INSTALL_INCLUDEDIR})
  set(DDIT_INSTALL_CMAKE ${CMAKE_INSTALL_LIBDIR}/cmake/ddit_ext)
endif()
