# Each command makes what it needs: a fresh machine has only Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test test-all mutate lint bench gpu gpu-carry clean

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

# Published weights (*.npz, at any depth) for the benchmarks' networks, which else are random.
NETWORKS ?= $(ADVJAX_NETWORKS)
# Which jobs of `python -m benchmarks --list`: all, unless it is given.
JOBS ?=

bench: $(VENV)/.installed-bench  ## every job beside other libraries; benchmarks/results/SUMMARY.md
	ADVJAX_NETWORKS="$(NETWORKS)" ADVJAX_IMAGENET_SAMPLES="$(PHOTOGRAPHS)" $(BIN)/python -m benchmarks $(JOBS)

# Of what adv-lib asks for, visdom (plots) builds with no setuptools of today; its attacks need PyTorch alone.
$(VENV)/.installed-bench: $(VENV)/.installed-peers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps adv-lib
	touch $@

# A machine with a GPU is lent for minutes and reaches no network: its own Python has JAX, the rest is carried along.
GPU_PYTHON ?= $(or $(wildcard $(BIN)/python),python3)
PRESET ?= paper
MINUTES ?= 8.5

gpu:  ## the long runs, some minutes of them: the same command goes on (PRESET=smoke: a try without a GPU)
	$(GPU_PYTHON) -m experiments.gpu --preset $(PRESET) --minutes $(MINUTES) --runs runs/gpu-$(PRESET)

# What that machine runs, and which of our packages it may lack. Those there of any version are left alone.
GPU_PLATFORM := --implementation cp --python-version 3.12 \
	$(addprefix --platform=manylinux,_2_28_x86_64 _2_27_x86_64 _2_17_x86_64 2014_x86_64)
GPU_WHEELS := absl-py aiofiles array-record attrs chex cloudpickle dm-pix dm-tree docstring-parser einops etils flax fsspec \
	googleapis-common-protos grain humanize immutabledict markdown-it-py mdurl msgpack optax orbax-checkpoint portpicker \
	prometheus-client psutil pygments pyyaml rich simple-parsing simplejson tensorflow-datasets tensorflow-metadata \
	termcolor toml toolz tqdm treescope typing-extensions wrapt zipp

gpu-carry: $(VENV)/.installed-experiments  ## fill .gpu with wheels, data (TFDS_DATA_DIR) and weights (ADVJAX_NETWORKS)
	rm -rf .gpu && mkdir -p .gpu/wheels .gpu/tfds .gpu/networks
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: $(GPU_PLATFORM) -c constraints.txt -d .gpu/wheels $(GPU_WHEELS)
	$(BIN)/python -m pip wheel --quiet --no-deps -c constraints.txt -w .gpu/wheels promise
	cp -r $(TFDS_DATA_DIR)/mnist .gpu/tfds
	tar -cf .gpu/cifar10 -C $(TFDS_DATA_DIR) cifar10 && split -n 2 .gpu/cifar10 .gpu/cifar10. && rm .gpu/cifar10
	test -z "$(ADVJAX_NETWORKS)" || cp $(ADVJAX_NETWORKS)/cifar10_resnets/resnet20.npz .gpu/networks

$(VENV)/.installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) .gpu .pytest_cache .mypy_cache .ruff_cache
