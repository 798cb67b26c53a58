# For a fresh machine: `make demo`, `make demo-video` and `make test`. Each sets up all it needs in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
export MAX_JOBS ?= 2
# The emulation switches stacks in x86-64 assembly; elsewhere its tests are left out.
EMULATION := $(if $(filter x86_64,$(shell uname -m)),emulation)
# Waiting threads that spin take a busy machine's cores from each other; those that sleep make small steps twice as long,
# so only tests do.
test check: export OMP_WAIT_POLICY ?= PASSIVE
# ninja and cmake of the virtual environment, also for those who have none installed.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo demo-video support-table test check lint format setup cpp-tests emulation clean

demo: setup
	$(BIN)/python examples/demo.py --out demo_output

demo-video: setup
	$(BIN)/python examples/demo_video.py --out demo_video_output

# The table of docs/families.md, from the tests that ran.
support-table: setup
	DDIT_SUPPORT_TABLE=1 $(BIN)/python -m pytest -q python_tests/families --ignore python_tests/families/test_support_table.py

# A small suite runs on the oldest diffusers and transformers, too. The last line: what nvcc makes of the kernels, where there
# is one, and how their launches fill a GPU.
test: setup cpp-tests $(EMULATION)
	DDIT_REQUIRE_EMULATION=$(if $(EMULATION),1,0) $(BIN)/python -m pytest -q python_tests
	$(BIN)/python scripts/check_oldest_libraries.py
	$(BIN)/python scripts/check_cuda_kernels.py

# What takes longer than `make test` may: slow builds, a training killed at many moments, sanitizers, fuzzers (with clang,
# which is installed where that is allowed), the oldest torch's headers (a download of 1 GB), diffusers' own tests on patched
# pipelines (a clone of diffusers, or DIFFUSERS_CHECKOUT), the emulation's other modes, its mutants.
check: test
	$(BIN)/python -m pytest -q python_tests -m slow
	bash cpp_tests/sanitize.sh $(BIN)
	DDIT_KILL_MOMENTS=20 $(BIN)/python -m pytest -q python_tests/training/test_train_kill.py
	bash cpp_tests/fuzz/run.sh $(BIN) 60
	$(BIN)/python scripts/check_oldest_torch.py
	$(BIN)/python scripts/check_diffusers_suite.py
	$(if $(EMULATION),bash cpp_tests/emulation/check_modes.sh $(BIN))
	$(if $(EMULATION),$(BIN)/python cpp_tests/emulation/mutants.py)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

cpp-tests: setup
	$(BIN)/cmake -S . -B build/cpp-tests -G Ninja -DDDIT_EXT_TESTS=ON -DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build build/cpp-tests -j $(MAX_JOBS)
	$(BIN)/ctest --test-dir build/cpp-tests --output-on-failure

# The CUDA kernels compiled for the CPU, and the tests of what runs them there: docs/design/emulation.md
emulation: setup
	$(BIN)/cmake -S . -B build/emulation -G Ninja -DDDIT_EXT_EMULATION=ON -DDDIT_EXT_TESTS=ON -DDDIT_EXT_CUDA=OFF \
	  -DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build build/emulation -j $(MAX_JOBS) --target ddit_ext_emu ddit_emulation_tests
	build/emulation/ddit_emulation_tests

setup: $(VENV)/.ready

# Built anew when the sources of the native library change; Python sources are used where they lie.
$(VENV)/.ready: setup.py pyproject.toml embedded/pyproject.toml CMakeLists.txt $(shell find csrc cmake -type f)
	bash scripts/setup.sh "$(PYTHON)" "$(VENV)" "$(TORCH)"
	touch $@

clean:
	rm -rf build $(VENV) demo_output demo_video_output ddit_ext/lib ddit_ext/include ddit_ext/share ddit_ext/_core*.so
