# Every target makes what it needs: on a bare machine `make demo` and `make test` are enough.
#   ARGS="…"   is passed on:            make test ARGS="tests/towers -x"
#   JOBS=N     processes of the tests:  make test JOBS=8

VENV   := .venv
PY     := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
JOBS   ?= 2
MAX_WHEEL_MB := 25

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-portable test-min lint format docs bench tiny wheel clean
.DELETE_ON_ERROR:

help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(STAMPS)/base  ## .venv with diptych in it

demo: $(STAMPS)/search $(STAMPS)/serve  ## train on drawings, evaluate, search; writes demo/report.html
	$(VENV)/bin/diptych demo $(ARGS)

test: $(STAMPS)/test  ## all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# In float64 they are the same on every processor; this shows it for one without vector instructions.
test-portable: $(STAMPS)/test  ## golden losses once more, with the oldest instruction set
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 \
	  $(PY) -m pytest -n $(JOBS) --dist worksteal tests/test_every_method.py -k golden $(ARGS)

lint: $(STAMPS)/lint $(STAMPS)/test  ## style, types, import arrows
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(PY) -m pytest -q tests/test_style.py
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

format: $(STAMPS)/lint  ## rewrite to style
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

docs: $(STAMPS)/docs $(STAMPS)/serve  ## docs/_build/html; a warning is an error
	$(PY) -m sphinx -W --keep-going -q -j $(JOBS) -b html docs docs/_build/html

bench: $(STAMPS)/test $(STAMPS)/bench  ## one table of timings; writes results/benchmarks
	OMP_NUM_THREADS=$(JOBS) $(PY) -m benchmarks $(ARGS)

tiny: $(STAMPS)/test  ## train tiny, tiny-lm and tiny-vlm into the package, in hours; a stopped run goes on
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --nproc_per_node $(JOBS) tools/make_tiny.py $(ARGS)

wheel: $(STAMPS)/base  ## dist/*.whl, at most 25 MB
	rm -rf dist
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .
	@$(PY) -c 'import pathlib, sys; [wheel] = pathlib.Path("dist").glob("*.whl"); size = wheel.stat().st_size / 1e6; \
	  print(f"{wheel}: {size:.1f} MB"); sys.exit(f"the wheel is above $(MAX_WHEEL_MB) MB" if size > $(MAX_WHEEL_MB) else 0)'

test-min: $(STAMPS)/base  ## the life of a model with the lowest versions of all but torch, in .venv-min
	$(PY) -m venv --clear .venv-min
	.venv-min/bin/python -m pip install --quiet --upgrade pip
	$(PY) tools/lowest_versions.py pyproject.toml > .venv-min/lowest.txt
	.venv-min/bin/python -m pip install --quiet --constraint .venv-min/lowest.txt -e '.[test]'
	OMP_NUM_THREADS=1 .venv-min/bin/python -m pytest tests/test_life_of_a_model.py tests/test_imports.py $(ARGS)

clean:  ## remove what the other targets made, but for .venv
	rm -rf dist build docs/_build .venv-min .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# An existing .venv is kept as it is, so a torch chosen by hand beforehand stays.
$(PY):
	@for name in python3 python3.13 python3.12 python3.11; do \
	  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "diptych needs Python 3.11 or newer and found none; install python3.11" >&2; exit 1; fi; \
	if ! $$python -c 'import ensurepip' 2>/dev/null; then \
	  echo "$$python cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; fi; \
	$$python -m venv $(VENV)

$(STAMPS)/base: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install -e .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/%: pyproject.toml $(STAMPS)/base
	$(PY) -m pip install --quiet -e '.[$*]'
	@touch $@
