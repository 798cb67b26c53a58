# Where torch's headers and libraries are. setup.py passes them; a plain CMake run asks Python.
# There is no find_package(Torch): on a CUDA build of torch it wants the whole CUDA toolkit, and the stable ABI
# needs only headers and two library names.
if(NOT DDIT_EXT_TORCH_LIB_DIR)
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
  set(DDIT_EXT_TORCH_INCLUDE_DIRS "${_includes}" CACHE STRING "torch's include directories")
  set(DDIT_EXT_TORCH_LIB_DIR "${_lib}" CACHE PATH "torch's library directory")
  set(DDIT_EXT_TORCH_VERSION "${_version}" CACHE STRING "the torch that is built against")
endif()
if(NOT pybind11_DIR)
  execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir OUTPUT_VARIABLE _pybind11
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(pybind11_DIR "${_pybind11}" CACHE PATH "pybind11's CMake directory")
endif()
