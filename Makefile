# Everything a fresh machine needs: Python 3.10 or later, a C++ compiler, and a package index.
#   make demo    trains, exports, localises and evaluates on real recordings; ends with a table and a picture
#   make test    lint, types, tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The interpreter on a machine with a GPU, with torch, triton, numba, onnx and pytest already in it.
GPU_PYTHON ?= python3

.PHONY: help install demo test lint types check bench gpu view clean

help:
	@echo "make demo    train, export, localise, evaluate and draw on real recordings"
	@echo "make test    lint, types and tests"
	@echo "make lint | types | check    one of those (check: the tests alone)"
	@echo "make bench   every benchmark of this processor, into one file; again goes on where it was"
	@echo "make gpu     on a GPU machine: kernel tests, sanitizer, benchmarks (installs nothing); twice is all"
	@echo "make clean   remove what was built"

install: $(STAMP)

# Editable: a changed Python file needs no reinstall, a changed native source or setting does.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/native/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/aicl-fast demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The five folders install as one package; this is a view of them that looks the same without an installation.
view:
	@rm -rf build/view && mkdir -p build/view/aicl_fast
	@for file in aicl_fast/*; do ln -s "$(CURDIR)/$$file" build/view/aicl_fast/; done
	@for room in kernels export train bench; do ln -s "$(CURDIR)/$$room" build/view/aicl_fast/$$room; done

types: $(STAMP) view
	cd build/view && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p aicl_fast

# One process a core, and one thread a process: more threads than cores only wait for each other.
check: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadscope

test: lint types check

# Both write <device>-<date>.json, suite by suite, to $OUT where it is set, else to bench/results.
bench: $(STAMP)
	$(BIN)/aicl-fast bench all --out $(or $(OUT),bench/results)

# Where the history did not travel: AICL_COMMIT=$(git rev-parse --short=12 HEAD) make gpu. Without it nothing is
# taken up. -P keeps the source folder off the path.
gpu: view
	PYTHONPATH=$(CURDIR)/build/view $(GPU_PYTHON) -P -m aicl_fast.bench.all --device cuda \
	  --out $(or $(OUT),bench/results)

clean:
	rm -rf build dist .venv .pytest_cache .mypy_cache .ruff_cache
