# Where torch's headers and libraries are: as given (setup.py does), else what CMAKE_PREFIX_PATH or Torch_DIR
# lead to, else what Python's torch says where there is a Python.
# There is no find_package(Torch): on a CUDA build of torch it wants the whole CUDA toolkit, and the stable ABI
# needs only headers and two library names.
if(NOT DDIT_EXT_TORCH_LIB_DIR AND DDIT_EXT_PYTHON)
  execute_process(
    COMMAND
      ${Python_EXECUTABLE} -c
      "import torch, torch.utils.cpp_extension as e; print(';'.join(e.include_paths()), e.library_paths()[0], torch.__version__, sep='\\n')"
    OUTPUT_VARIABLE _torch OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE _failed ERROR_VARIABLE _why)
  if(_failed)
    message(FATAL_ERROR "ddit_ext needs torch at build time:\n  pip install torch\n"
                        "  pip install --no-build-isolation .\n${Python_EXECUTABLE} said: ${_why}")
  endif()
  string(REPLACE ";" "|" _torch "${_torch}")
  string(REPLACE "\n" ";" _torch "${_torch}")
  list(GET _torch 0 _includes)
  list(GET _torch 1 _lib)
  list(GET _torch 2 _version)
  string(REPLACE "|" ";" _includes "${_includes}")
elseif(NOT DDIT_EXT_TORCH_LIB_DIR)
  # Torch_DIR is <torch>/share/cmake/Torch, as for find_package(Torch).
  find_library(DDIT_EXT_TORCH_LIBRARY torch_cpu HINTS ${DDIT_EXT_TORCH_DIR}/lib ${Torch_DIR}/../../../lib
               PATH_SUFFIXES torch/lib)
  if(NOT DDIT_EXT_TORCH_LIBRARY)
    message(FATAL_ERROR "ddit_ext needs libtorch 2.10 or later: -DCMAKE_PREFIX_PATH=<libtorch>, the folder with "
                        "include/ and lib/; or -DDDIT_EXT_TORCH=OFF for the torch-free library alone")
  endif()
  get_filename_component(_lib ${DDIT_EXT_TORCH_LIBRARY} DIRECTORY)
  get_filename_component(_torch_dir ${_lib} DIRECTORY)
  set(_includes ${_torch_dir}/include ${_torch_dir}/include/torch/csrc/api/include)
  set(_version_file ${_torch_dir}/include/torch/headeronly/version.h)
  set(_version "older than 2.9")
  if(EXISTS ${_version_file})
    file(STRINGS ${_version_file} _version REGEX "\"[0-9.]+.*\"")
    string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" _version "${_version}")
  endif()
  if(NOT _version VERSION_GREATER_EQUAL 2.10)
    message(FATAL_ERROR "ddit_ext needs libtorch 2.10 or later, ${_torch_dir} is ${_version}")
  endif()
endif()
if(NOT DDIT_EXT_TORCH_LIB_DIR)
  set(DDIT_EXT_TORCH_INCLUDE_DIRS "${_includes}" CACHE STRING "torch's include directories")
  set(DDIT_EXT_TORCH_LIB_DIR "${_lib}" CACHE PATH "torch's library directory")
  set(DDIT_EXT_TORCH_VERSION "${_version}" CACHE STRING "the torch that is built against")
endif()
if(DDIT_EXT_PYTHON AND NOT pybind11_DIR)
  execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir OUTPUT_VARIABLE _pybind11
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(pybind11_DIR "${_pybind11}" CACHE PATH "pybind11's CMake directory")
endif()
