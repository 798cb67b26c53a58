#!/usr/bin/env bash
# The fuzzers under AddressSanitizer and UndefinedBehaviorSanitizer: run.sh BIN [SECONDS each]
# Needs clang with libFuzzer (in Debian's clang with what it recommends), which it installs where it may.
set -euo pipefail
bin=$(cd "$1" && pwd) seconds=${2:-60}
cd "$(dirname "$0")/../.."
if ! echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, long) { return 0; }' |
  clang++ -x c++ -fsanitize=fuzzer,address - -o /dev/null 2>/dev/null; then
  if [ "$(id -u)" != 0 ]; then
    echo "The fuzzers need: sudo apt-get install clang" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq clang >/dev/null
fi
build=build/fuzz
"$bin/cmake" -S . -B $build -G Ninja -DDDIT_EXT_FUZZ=ON -DDDIT_EXT_PYTHON=OFF -DDDIT_EXT_TORCH=OFF -DDDIT_EXT_CUDA=OFF \
  -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" >/dev/null
"$bin/cmake" --build $build -j "${MAX_JOBS:-2}" --target fuzz_adapter fuzz_cells

for name in ${FUZZ:-adapter cells}; do
  # What is found goes into the build folder; the seeds stay as they are.
  found=$build/corpus_$name log=$build/$name.log
  mkdir -p "$found"
  options=(-max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -seed=1)
  [ $name = adapter ] && options+=(-dict=cpp_tests/fuzz/json.dict)
  if ! "$build/fuzz_$name" "${options[@]}" -print_final_stats=1 -artifact_prefix="$build/" \
    "$found" cpp_tests/fuzz/corpus/$name >"$log" 2>&1; then
    tail -60 "$log"
    exit 1
  fi
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | cut -d' ' -f2)
  all=$(sed -n 's/^INFO: Loaded [0-9]* modules *(\([0-9]*\) inline.*/\1/p' "$log" | head -1)
  echo "fuzz_$name: $executions executions, $edges of $all edges covered, nothing found"
done
