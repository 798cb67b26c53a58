#!/usr/bin/env bash
# All that a fresh Debian or Ubuntu machine needs to build, test and run ddit_ext: setup.sh PYTHON VENV TORCH
set -euo pipefail
python=$1 venv=$2 torch=$3

missing=()
command -v g++ >/dev/null || missing+=(g++)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
[ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=(python3-dev)
[ -e /usr/include/gtest/gtest.h ] || missing+=(libgtest-dev)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "Please install first: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
# Any build of torch will do, with CUDA or without; where one is there already, it stays.
"$venv/bin/python" -c 'import torch' 2>/dev/null || "$venv/bin/python" -m pip install --quiet "$torch"
"$venv/bin/python" -m pip install --quiet "setuptools>=77" wheel "cmake>=3.22" ninja "pybind11>=2.12"
# The console shows what was built and for which architectures.
"$venv/bin/python" -m pip install --quiet --no-build-isolation --editable ".[dev]"
"$venv/bin/python" -m pip install --quiet --no-build-isolation --no-deps --editable ./embedded
"$venv/bin/python" -c 'import ddit_ext; print(ddit_ext.build_info())'
