"""Compiles the ops against the headers of the oldest torch that pyproject.toml allows, those for CUDA as well.

    python scripts/check_oldest_torch.py [FOLDER]

FOLDER: where that torch's wheel is unpacked; else it is downloaded (about 1 GB, of which the headers are kept while this runs).
What is built links against any torch since then; that it compiles against each is another question, since users build with theirs.
CUDA's own headers have to be there for the CUDA ops: without them these are left out, and that is said.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from _oldest import ROOT, main, oldest

TORCH = oldest("torch")
GENERATED = ("version.cpp",)  # has no torch, and a header that CMake writes


def download(folder: Path) -> None:
    """The headers of the oldest torch, as its wheel has them."""
    wheel = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"torch=={TORCH}"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wheel], check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("torch/include/")])
    path.unlink()


def cuda_headers() -> Path | None:
    nvcc = shutil.which("nvcc")
    found = [Path(nvcc).resolve().parents[1] / "include"] if nvcc else []
    found.append(Path("/usr/local/cuda/include"))
    return next((folder for folder in found if (folder / "cuda_runtime.h").is_file()), None)


def compiles(source: Path, headers: Path, cuda: Path | None) -> bool:
    command = ["g++", "-std=c++20", "-fsyntax-only", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}", "-isystem", str(headers)]
    command += ["-DTORCH_TARGET_VERSION=0x020a000000000000ULL", '-DDDIT_EXT_CUDA_ARCHITECTURES="90a"']
    command += ["-DUSE_CUDA", "-isystem", str(cuda)] if cuda else []
    return subprocess.run([*command, str(source)]).returncode == 0


def check(folder: Path) -> int:
    headers, cuda = folder / "torch" / "include", cuda_headers()
    sources = [path for path in sorted((ROOT / "csrc" / "ops").glob("*.cpp")) if path.name not in GENERATED]
    needing = [path for path in sources if "cuda" in path.stem]
    tried = sources if cuda else [path for path in sources if path not in needing]
    failed = [path.name for path in tried if not compiles(path, headers, cuda)]
    left = f", without the {len(needing)} for CUDA (no headers of CUDA)" if not cuda else ""
    print(f"torch {TORCH}: {len(tried) - len(failed)} of {len(tried)} ops' sources compile{left}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(download, check))
