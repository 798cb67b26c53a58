"""`cmake -DCMAKE_PREFIX_PATH=$(python -m ddit_ext.cmake_prefix)` lets find_package(ddit_ext) find this package."""

from pathlib import Path

CMAKE_PREFIX_PATH = str(Path(__file__).resolve().parent / "share" / "cmake")

if __name__ == "__main__":
    print(CMAKE_PREFIX_PATH)
