# Where things go below the prefix. For Python everything lies in ddit_ext/, the package, so that a wheel, an
# editable install and `cmake --install build --prefix .` in a checkout all look alike; without, as in any C++
# library.
if(DDIT_EXT_PYTHON)
  set(DDIT_INSTALL_LIB ddit_ext/lib)
  set(DDIT_INSTALL_INCLUDE ddit_ext/include)
  set(DDIT_INSTALL_CMAKE ddit_ext/share/cmake/ddit_ext)
else()
  include(GNUInstallDirs)
  set(DDIT_INSTALL_LIB ${CMAKE_INSTALL_LIBDIR})
  set(DDIT_INSTALL_INCLUDE ${CMAKE_INSTALL_INCLUDEDIR})
  set(DDIT_INSTALL_CMAKE ${CMAKE_INSTALL_LIBDIR}/cmake/ddit_ext)
endif()
