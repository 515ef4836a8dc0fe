# Everything a fresh machine needs: Python 3.11 or later, a C++ compiler, and a package index.
#   make demo    trains, exports, localises and evaluates on real recordings; ends with a table and a picture
#   make test    lint, types, tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The interpreter on a machine with a GPU, with its packages already in it. Needed are torch, triton, numba and
# safetensors; onnx, onnxscript and onnxruntime for files in those formats; pytest for the tests (pytest-xdist and
# hypothesis for all of them, several at a time); pandas, seglearn, av and opencv for what they measure. What is
# not there is named before anything starts, and skipped.
GPU_PYTHON ?= python3

.PHONY: help install demo test lint types check long install-base install-matrix bench gpu fuzz reached view clean

help:
	@echo "make demo    train, export, localise, evaluate and draw on real recordings"
	@echo "make test    lint, types and tests"
	@echo "make lint | types | check    one of those (check: the tests alone)"
	@echo "make long    the tests that take minutes each, which make test leaves out"
	@echo "make install-base | install-matrix   fresh installations: without extras; each extra, lowest versions"
	@echo "make bench   every benchmark of this processor, into one file; again resumes where it stopped"
	@echo "make gpu     on a GPU machine: benchmarks, tests, sanitizer, sweep (installs nothing); three times is all"
	@echo "make fuzz    change files and read them again: 100 000 for each reader (FUZZ='npy --seconds 600' for one)"
	@echo "make reached   which lines of the numba decoder its tests reach, without compilation"
	@echo "make clean   remove what was built"

install: $(STAMP)

# Editable: a changed Python file needs no reinstall, a changed native source or setting does. Pip compiles modules on
# one core, compileall on all; files that are not meant for this Python are left out.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/native/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/aicl-fast demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The five folders install as one package; this is a view of them that looks the same without an installation.
view:
	@rm -rf build/view && mkdir -p build/view/aicl_fast/kernels
	@for file in aicl_fast/*; do ln -s "$(CURDIR)/$$file" build/view/aicl_fast/; done
	@for file in kernels/*; do ln -s "$(CURDIR)/$$file" build/view/aicl_fast/kernels/; done
	@for package in export train bench; do ln -s "$(CURDIR)/$$package" build/view/aicl_fast/$$package; done

types: $(STAMP) view
	cd build/view && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p aicl_fast

# One process a core, and one thread a process: more threads than cores only wait for each other. Distributed by
# stealing, which keeps a file's tests together, too, and goes on when a test ends its process.
check: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test: lint types check

# What takes minutes: 50 kills, settings in combination compiled and in two processes, the decoder with every pair of
# compiler and sanitizer, every size of the kernels in every dtype of the interpreter.
long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m long

# Fresh environments, filled by pip: every command works there or names the extra that it needs. install-base is
# the one without extras, which CI tries; install-matrix adds each extra alone, and the lowest versions that
# pyproject.toml allows. WHAT=lowest, or another extra's name, tries that alone.
install-base: $(STAMP)
	AICL_FAST_INSTALL=base $(BIN)/pytest -q -s -o faulthandler_timeout=0 tests/install/test_matrix.py

install-matrix: $(STAMP)
	AICL_FAST_INSTALL=$(or $(WHAT),all) $(BIN)/pytest -q -s -o faulthandler_timeout=0 tests/install/test_matrix.py

# Both write <device>-<date>.json, suite by suite, to $OUT where it is set, else to bench/results. A record of
# another commit is replaced by `make bench REPLACE=1` only.
RECORD = --out "$(or $(OUT),bench/results)" $(if $(REPLACE),--replace)
bench: $(STAMP)
	$(BIN)/aicl-fast bench all $(RECORD)

# The compiled decoder, where there is a compiler and pybind11; else numba decodes.
DECODER := $(addprefix kernels/native/,python.cpp decode.cpp aicl_decode.cpp)
build/gpu/_native.so: $(DECODER) $(wildcard kernels/native/*.h*)
	@mkdir -p $(@D)
	@$(CXX) -O3 -shared -fPIC -std=c++17 -ffp-contract=off -fvisibility=hidden -pthread -DAICL_DECODE_STATIC \
	  '-DAICL_FAST_VERSION="$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"' \
	  $$($(GPU_PYTHON) -m pybind11 --includes) $(DECODER) -o $@

# Where the history did not travel: AICL_COMMIT=$(git rev-parse --short=12 HEAD) make gpu. Without it nothing is
# taken up. -P keeps the source folder off the path.
gpu: view
	@$(MAKE) --no-print-directory build/gpu/_native.so && cp build/gpu/_native.so build/view/aicl_fast/kernels/ \
	  || echo "the decoder is not compiled: numba decodes"
	PYTHONPATH="$(CURDIR)/build/view" $(GPU_PYTHON) -P -m aicl_fast.bench all --device cuda $(RECORD)

FUZZ ?= --all --runs 100000
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(FUZZ)

# Reported, not gated: compiled code cannot be traced, so the tests run in plain Python.
reached: $(STAMP)
	NUMBA_DISABLE_JIT=1 $(BIN)/python tests/decode/reached.py

clean:
	rm -rf build dist .venv .pytest_cache .mypy_cache .ruff_cache
