# Each command makes what it needs: a fresh machine has only Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test test-all mutate lint bench clean

demo: $(VENV)/.installed-experiments  ## attack, score, fine-tune: the main job on real images, in minutes
	$(BIN)/python -m experiments hard_positives --preset quick --out runs/demo

test: $(VENV)/.installed-test lint  ## what CI runs
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not peers"

test-all: $(VENV)/.installed-peers lint  ## everything: slow tests, comparisons with PyTorch libraries, mutations
	$(BIN)/python -m pytest -n $(WORKERS)
	$(BIN)/python tests/mutations/run.py

# Which areas (names of files in tests/mutations, without .toml): all, unless it is given.
AREAS ?=

mutate: $(VENV)/.installed-test  ## break the code in known ways, one by one, and see that a test fails each time
	$(BIN)/python tests/mutations/run.py $(AREAS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Photographs of 224x224 pixels or more (*.jpg), for the benchmarks that attack ImageNet's networks.
PHOTOGRAPHS ?= $(ADVJAX_IMAGENET_SAMPLES)

bench: $(VENV)/.installed-peers  ## side by side with peers; results in benchmarks/results
	for b in $(filter-out %imagenet_models.py,$(wildcard benchmarks/bench_*.py)); do $(BIN)/python $$b || exit 1; done
	test -z "$(PHOTOGRAPHS)" || $(BIN)/python benchmarks/bench_imagenet_models.py "$(PHOTOGRAPHS)"

$(VENV)/.installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
