#!/usr/bin/env bash
# The emulated ops in the modes that `make test` leaves out: check_modes.sh BIN (a virtual environment's bin)
# Each shows mistakes that the others hide; docs/design/emulation.md says which.
set -euo pipefail
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
export DDIT_REQUIRE_EMULATION=1
tests=("$bin/python" -m pytest -q -p no:cacheprovider -k emu python_tests)

for mode in DDIT_EMULATION_ORDER=reverse "DDIT_EMULATION_ORDER=1 DDIT_EMULATION_BLOCKS=3" \
  "DDIT_EMULATION_ORDER=2 DDIT_EMULATION_BLOCKS=2"; do
  echo "emulation: $mode"
  # shellcheck disable=SC2086  # one setting a word
  env $mode "${tests[@]}"
done

# Of alignment, too: x86 reads and writes at any address, a GPU does not.
echo "emulation: AddressSanitizer"
"$bin/cmake" -S . -B build/emulation-asan -G Ninja -DDDIT_EXT_EMULATION=ON -DDDIT_EXT_CUDA=OFF \
  -DPython_EXECUTABLE="$bin/python" -DCMAKE_CXX_FLAGS="-fsanitize=address,alignment -fno-sanitize-recover=alignment -fno-omit-frame-pointer"
"$bin/cmake" --build build/emulation-asan -j "${MAX_JOBS:-2}" --target ddit_ext_emu
# libstdc++ beside libasan: Python alone has no exceptions to watch. Python leaks by design.
env LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
  DDIT_EXT_EMULATION_LIBRARY=build/emulation-asan/libddit_ext_emu.so "${tests[@]}"
