# `make demo` and `make test` do everything from nothing; the rest is for those who work on it.
PYTHON ?= python3
# The release that the tests run with; any from 2.10 on will do: make dev TORCH=torch==2.10.0
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.h)

.PHONY: demo test test-portable test-all test-gpu-interpreter fuzz faults lint bench claims gpu data docs wheel dev sanitize sanitize-quick tsan clean

demo: $(VENV)/ready
	$(BIN)/sparse-ops demo --out demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow and not portable"

# The instruction sets that this CPU does not choose, on the large grids (tests/conftest.py).
test-portable: $(VENV)/ready
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "portable and not slow"

# What test-gpu-interpreter runs, and test-all then does not: files of Triton's kernels and of CUDA's.
FOR_TRITON := compiled launched gpu_run gpu_results gpu_tools device_benchmarks
FOR_CUDA := cuda_on_host cuda_asan cuda_large cuda_compiled cuda_ahead cuda_setup wgmma_on_host wgmma_compiled
kernel_tests = $(patsubst %,tests/kernels/test_%.py,$(1))

test-all: test-gpu-interpreter
	$(BIN)/python -m pytest -q -n auto $(addprefix --ignore=,$(call kernel_tests,$(FOR_TRITON) $(FOR_CUDA)))

# The GPU's kernels without a GPU. Triton's are interpreted, and compiled for four kinds of card, in
# processes of their own, because Triton reads the variable once; the CUDA kernel runs as C++ on the
# CPU, and is compiled by NVRTC for six.
test-gpu-interpreter: $(VENV)/ready
	@if $(BIN)/python -c "import triton"; then \
	  TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -rs -n auto tests/kernels/interpreted && \
	  $(BIN)/python -m pytest -q -rs -n auto $(call kernel_tests,$(FOR_TRITON)); \
	else echo "skipped: there is no Triton for this machine"; fi
	$(BIN)/python -m pytest -q -rs -n auto $(call kernel_tests,$(FOR_CUDA))

# Random networks, operators, files and state dicts for so long; findings go to tests/fuzz/found.
SECONDS ?= 600
fuzz: $(VENV)/ready
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# Killed, out of space, forked, many at once: a hundred times each.
faults: $(VENV)/ready
	$(BIN)/python -m pytest -q -m slow tests/faults

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/cpu/*.cpp csrc/cpu/*.h csrc/program/*.cpp csrc/program/*.h
	$(BIN)/mypy sparse_ops
	$(BIN)/lint-imports

bench: $(VENV)/ready
	$(BIN)/python -m pytest benchmarks -q -p no:xdist

# What the published documents claim, measured here: hours; what is finished is not done again.
claims: $(VENV)/ready
	$(BIN)/sparse-ops claims --threads 1

# Needs a CUDA device, and the python that has torch for it: make gpu PYTHON=python3
gpu:
	$(PYTHON) benchmarks/gpu_run.py

data: $(VENV)/ready
	$(BIN)/python -m sparse_ops.data.fetch

# The documentation as a site, in build/site; a link that leads nowhere is an error.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# One file for every Python from 3.10 and every torch from 2.10 on, in dist/; no compiler is needed to install it.
wheel: $(VENV)/ready
	SPARSE_OPS_NATIVE=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps -w dist .

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

$(VENV)/docs: $(VENV)/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[docs]"
	@touch $@

# The compiled code again, with AddressSanitizer and UndefinedBehaviorSanitizer: under the operators'
# and programs' tests; `quick`, for .ci/run, under those of them that lie, and files that do.
SANITIZE := -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZED := tests/ops tests/program tests/nn/test_blocked.py
QUICKLY := -m "not slow and not portable" tests/ops/test_guard_pages.py tests/ops/test_compiled_safety.py \
  tests/ops/test_csr_linear.py tests/ops/test_linear_out.py tests/ops/test_blocked.py tests/program/test_hostile.py \
  tests/program/test_hostile_file.py tests/program/test_damaged.py tests/program/test_threads.py tests/program/test_file.py
# Compiled in half the time; the tests are few.
sanitize-quick: SANITIZE += -O0
sanitize-quick: SANITIZED = $(QUICKLY)
sanitize: SANITIZE += -O1
sanitize sanitize-quick: $(VENV)/ready
	rm -rf build/$@
	SPARSE_OPS_NATIVE=1 SPARSE_OPS_CXXFLAGS="$(SANITIZE)" $(BIN)/python setup.py -q build \
	  --build-base build/$@-objects --build-lib build/$@
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:new_delete_type_mismatch=0:allocator_may_return_null=1:max_allocation_size_mb=4096 \
	  PYTHONSAFEPATH=1 PYTHONPATH=build/$@:. \
	  $(BIN)/python -m pytest -q -n auto --dist worksteal -o "pythonpath=build/$@ ." $(SANITIZED)

# Many callers of kernels and programs under ThreadSanitizer, without Python: tests/threads.
tsan: $(VENV)/ready
	$(BIN)/python -m tests.threads

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache demo sparse_ops/_C*.so
