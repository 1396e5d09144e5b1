# Every target sets itself up: a .venv with the versions of constraints.txt, and the compiled part built in place.
#   make bench      the neck beside stock PyTorch: results checked, a table, a picture   (BENCH_ARGS="--image photo.jpg")
#   make test       the tests                                                            (TEST_ARGS="-k region_stats")
#   make test-triton  of those, the Triton kernels under Triton's interpreter, a process of its own
#   make test-ptx     of those, the GPU kernels as the PTX that their compilers make of them  (PTX_TESTS="tests -k triton")
#   make gate       fails where the kernels became slower than at the baseline commit  (GATE_ARGS="--against main")
#   make gpu        on a machine with a GPU, with its own Python: builds, tests, benchmark   (GPU_PARTS="parity bench")
#   make build      the compiled part alone, only what changed
#   make lint       ruff and clang-format;   make format applies what they ask for
#   make types      mypy --strict
#   make sanitize   the kernels' tests on builds with the address, undefined-behaviour and thread sanitizers (g++)
#   make wheel      dist/*.whl;   make sdist: dist/*.tar.gz
#   make test-wheel the tests on the wheel, by the Python that WITH names (its torch, pytest and hypothesis)
#   make clean      forget builds and caches;   make distclean: .venv too

# The first of these that is Python 3.11 or later makes .venv.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
CXX ?= c++
VENV ?= .venv
TEST_ARGS ?=
PTX_TARGET ?= sm_90
PTX_TESTS ?= tests/test_kernels_as_ptx.py
BENCH_ARGS ?=
GATE_ARGS ?=
# The operations' tests; whole necks run the same kernels.
SANITIZE_TESTS ?= -k "(cpu or cuda or hopper) and not (neck or compile or emulation or binary or races or bench)"
WITH ?= $(python)
GPU_PYTHON ?= python3
GPU_PARTS ?=

python := $(VENV)/bin/python
stamps := $(VENV)/stamps
library := zigzag/_C.so
emulated := build/native/_C_emulated.so
cxx_files := $(shell find csrc -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \))
native_sources := CMakeLists.txt setup.py csrc/build_info.h.in $(cxx_files)
export CXX
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help test test-triton test-ptx bench gate gpu build lint format types sanitize wheel sdist test-wheel clean distclean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

test: build $(emulated)
	@echo "==> Running the tests"
	@$(python) -m pytest -n auto $(TEST_ARGS)
	@$(if $(TEST_ARGS),,$(MAKE) --no-print-directory test-triton test-ptx)

# Triton's interpreter is chosen for a whole process, before Triton is imported.
test-triton: build
	@echo "==> Running the tests of the Triton kernels under Triton's interpreter"
	@TRITON_INTERPRET=1 $(python) -m pytest -n auto tests/test_triton_interpreter.py

# So is what the GPU backends' kernels run as.
test-ptx: build $(emulated)
	@echo "==> Running the tests of the GPU kernels as PTX"
	@ZIGZAG_PTX=$(PTX_TARGET) $(python) -m pytest -n auto $(PTX_TESTS)

bench: build
	@echo "==> Running the benchmark"
	@$(python) -m zigzag bench $(BENCH_ARGS)

gate: build
	@echo "==> Comparing the speed with the baseline commit"
	@$(python) -m zigzag bench gate $(GATE_ARGS)

gpu:
	@$(GPU_PYTHON) benchmarks/gpu.py $(GPU_PARTS)

# ---- set-up: each step leaves a file, and runs again only when what it rests on is newer -----------------------------
$(python):
	@for candidate in $(PYTHON); do \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	    $$candidate -c 'import ensurepip, venv' 2> /dev/null || { \
	      echo "$$candidate lacks the venv or ensurepip module (Debian, Ubuntu: apt install python3-venv)"; exit 1; }; \
	    echo "==> Creating $(VENV) with $$($$candidate --version)"; \
	    exec $$candidate -m venv $(VENV); \
	  fi; \
	done; \
	echo "zigzag needs Python 3.11 or later; none of these is: $(PYTHON). Name one: make PYTHON=/path/to/python3"; exit 1

$(stamps)/packages: constraints.txt | $(python)
	@echo "==> Installing the pinned packages into $(VENV) (torch is large: minutes, the first time)"
	@$(python) -m pip install -qq --requirement constraints.txt
	@mkdir -p $(stamps) && touch $@

$(stamps)/package: pyproject.toml $(stamps)/packages
	@echo "==> Linking zigzag into $(VENV)"
	@ZIGZAG_NO_BUILD=1 $(python) -m pip install -qq --no-build-isolation --no-deps --editable .
	@touch $@

build: $(library)

$(library): $(native_sources) $(stamps)/package
	@command -v $(firstword $(CXX)) > /dev/null || { \
	  echo "zigzag needs a C++ compiler, and '$(CXX)' was not found (Debian, Ubuntu: apt install g++)"; exit 1; }
	@echo "==> Building the compiled part"
	@$(python) setup.py --quiet build_ext --inplace
	@touch $@

# The CUDA kernels for the CPU, which the tests run: by an emulation and, where there is an nvcc, as PTX.
$(emulated): $(library) $(wildcard tests/native/*)
	@echo "==> Building the CUDA kernels for the CPU"
	@$(VENV)/bin/cmake --build build/native --target for_tests > build/native/emulated.log || { \
	  cat build/native/emulated.log; exit 1; }
	@touch $@

# ---- checks ----------------------------------------------------------------------------------------------------------
lint: $(stamps)/packages
	@echo "==> Checking style"
	@$(python) -m ruff check --quiet .
	@$(python) -m ruff format --quiet --check .
	@$(VENV)/bin/clang-format --dry-run -Werror $(cxx_files)

format: $(stamps)/packages
	@$(python) -m ruff check --quiet --fix .
	@$(python) -m ruff format --quiet .
	@$(VENV)/bin/clang-format -i $(cxx_files)

# From nothing each time: with its cache, mypy takes a function re-exported under its module's name for the module.
types: $(stamps)/packages
	@echo "==> Checking types"
	@$(python) -m mypy --cache-dir=/dev/null

# The sanitizer's runtime must come first in the process, and libstdc++ with it so that it can intercept exceptions;
# pytest must leave file descriptor 2 alone, or the report is lost with the process.
build/sanitize/_C.so: $(native_sources) $(stamps)/package
	@echo "==> Building the compiled part with sanitizers"
	@$(VENV)/bin/cmake --log-level=NOTICE -S . -B build/sanitize -G Ninja -DZIGZAG_SANITIZE=address,undefined \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja \
	  -DZIGZAG_TORCH_DIR=$$(echo $(abspath $(VENV))/lib/python3*/site-packages/torch)
	@$(VENV)/bin/cmake --build build/sanitize --target _C _C_emulated
	@touch $@

# Without torch, which the thread sanitizer cannot run: a module for numpy, which tests/test_races.py feeds.
build/races/module: $(native_sources) $(wildcard tests/native/*) $(stamps)/package
	@echo "==> Building the CUDA kernels for the thread sanitizer"
	@$(VENV)/bin/cmake --log-level=NOTICE -S . -B build/races -G Ninja -DZIGZAG_SANITIZE=thread \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja -DPython_EXECUTABLE=$(abspath $(python)) \
	  -DZIGZAG_TORCH_DIR=$$(echo $(abspath $(VENV))/lib/python3*/site-packages/torch)
	@$(VENV)/bin/cmake --build build/races --target emulated
	@touch $@

sanitize: build/sanitize/_C.so build/races/module $(emulated)
	@echo "==> Running the CUDA kernels under the thread sanitizer"
	@$(python) -m pytest -n auto tests/test_races.py
	@echo "==> Running the tests of the cpu backend and of the emulated CUDA kernels under address and undefined sanitizers"
	@LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 ZIGZAG_LIBRARY=$(abspath build/sanitize/_C.so) \
	  ZIGZAG_EMULATED_LIBRARY=$(abspath build/sanitize/_C_emulated.so) \
	  $(python) -m pytest -n auto --capture=sys $(SANITIZE_TESTS)

# ---- packages --------------------------------------------------------------------------------------------------------
# setuptools packs whatever an earlier build left under build/lib*, so that goes first.
wheel: $(stamps)/package
	@rm -rf build/lib* build/bdist* dist/*.whl
	@$(python) -m pip wheel -qq --no-build-isolation --no-deps --wheel-dir dist .
	@ls dist/*.whl

# -P keeps this folder, and so the source tree, off the path.
test-wheel: wheel
	@rm -rf build/wheel
	@$(python) -m pip install -qq --no-deps --target build/wheel dist/*.whl
	@echo "==> Running the tests on the wheel with $(WITH)"
	@PYTHONPATH=$(abspath build/wheel) $(WITH) -P -c 'import torch, zigzag; print(zigzag.__file__, "torch", torch.__version__)'
	@PYTHONPATH=$(abspath build/wheel) $(WITH) -P -m pytest $(TEST_ARGS)

sdist: $(stamps)/package
	@$(python) -c 'from setuptools import build_meta; print("dist/" + build_meta.build_sdist("dist"))' 2>&1 | tail -n 1

clean:
	@rm -rf build dist *.egg-info zigzag/*.so .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
	@find zigzag tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2> /dev/null || true

distclean: clean
	@rm -rf $(VENV)
