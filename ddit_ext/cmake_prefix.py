"""Where find_package(ddit_ext) looks.

cmake -DCMAKE_PREFIX_PATH=$(python -m ddit_ext.cmake_prefix) ...
"""

from pathlib import Path

CMAKE_PREFIX_PATH = str(Path(__file__).resolve().parent / "share" / "cmake")

if __name__ == "__main__":
    print(CMAKE_PREFIX_PATH)
