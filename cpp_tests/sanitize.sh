#!/usr/bin/env bash
# The C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer: sanitize.sh BIN (a virtual environment's bin)
set -euo pipefail
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
"$bin/cmake" -S . -B build/sanitize -G Ninja -DDDIT_EXT_TESTS=ON -DDDIT_EXT_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DPython_EXECUTABLE="$bin/python" \
  -DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
"$bin/cmake" --build build/sanitize -j "${MAX_JOBS:-2}" --target ddit_cpp_tests
"$bin/ctest" --test-dir build/sanitize --output-on-failure
