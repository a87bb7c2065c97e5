# `make demo` and `make test` do everything from nothing; the rest is for those who work on it.
PYTHON ?= python3
# The release that the tests run with; any from 2.10 on will do: make dev TORCH=torch==2.10.0
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.cpp csrc/cpu/*.cpp csrc/cpu/*.h)

.PHONY: demo test test-all lint bench data dev clean

demo: $(VENV)/ready
	$(BIN)/sparse-ops demo --out demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -q -n auto -m "not slow"

test-all: $(VENV)/ready
	$(BIN)/python -m pytest -q -n auto

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sparse_ops
	$(BIN)/lint-imports

bench: $(VENV)/ready
	$(BIN)/python -m pytest benchmarks -q -p no:xdist

data: $(VENV)/ready
	$(BIN)/python -m sparse_ops.data.fetch

dev: $(VENV)/ready

$(VENV)/torch:
	@echo "making the environment in $(VENV): $(TORCH) and what the package needs; once, some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" "setuptools>=77" wheel ninja
	@touch $@

# The package, editable, its compiled part built; again whenever that has changed.
$(VENV)/ready: $(VENV)/torch $(SOURCES)
	@echo "building the compiled kernels and installing the package"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[dev]"
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache demo sparse_ops/_C*.so
