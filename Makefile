# Two commands for a fresh machine: `make demo` and `make test`. Both set up all they need in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
export MAX_JOBS ?= 2
# Waiting threads that spin take a busy machine's cores from each other.
export OMP_WAIT_POLICY ?= PASSIVE
# ninja and cmake of the virtual environment, also for those who have none installed.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo test check lint format setup cpp-tests clean

demo: setup
	$(BIN)/python examples/demo.py --out demo_output

test: setup cpp-tests
	$(BIN)/python -m pytest -q python_tests

# What takes longer than `make test` may: the C++ tests under sanitizers, a training killed at many moments.
check: test
	bash cpp_tests/sanitize.sh $(BIN)
	DDIT_KILL_MOMENTS=20 $(BIN)/python -m pytest -q python_tests/test_train_kill.py

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

setup: $(VENV)/.ready

# Built anew when the sources of the native library change; Python sources are used where they lie.
$(VENV)/.ready: setup.py pyproject.toml CMakeLists.txt $(shell find csrc cmake -type f)
	bash scripts/setup.sh "$(PYTHON)" "$(VENV)" "$(TORCH)"
	touch $@

clean:
	rm -rf build $(VENV) demo_output ddit_ext/lib ddit_ext/include ddit_ext/share ddit_ext/_core*.so
