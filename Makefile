# make demo    train a small network on real data while measuring it; writes report.html, run.jsonl
# make test    the tests (a few minutes)
#
# Both create .venv and install the pinned dependencies first, once, and work offline afterwards.
# Another interpreter:       make demo PYTHON=/usr/bin/python3.12   (Python >= 3.11)
# Another package index:     pip's own settings are passed on, for instance PIP_INDEX_URL,
#                            PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS. On Linux the default build of torch
#                            carries several GB of CUDA libraries; to save them set
#                            PIP_EXTRA_INDEX_URL to the CPU index named on PyTorch's install page.
# More or fewer processes:   make test JOBS=4
# Some of the tests:         make test PYTEST_ARGS="tests/core -x"

PYTHON ?=
JOBS ?= 2
PYTEST_ARGS ?=
export PYTHON

BIN := .venv/bin
# One thread per process: the processes are many, the matrices small.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: help venv dev demo test slow hosts browser wheel lint types docs bench bench-required bench-block \
        bench-dmft bench-empirical-ntk bench-glauber bench-kernels bench-learning-curve bench-llc bench-slq \
        bench-spectra clean distclean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

venv:
	@tools/setup.sh test

dev:
	@tools/setup.sh dev

demo: venv
	$(BIN)/thermolearn measure --data digits --report report.html --json run.jsonl

test: venv
	$(PYTEST) -n $(JOBS) --dist loadgroup

slow: dev
	$(PYTEST) -n $(JOBS) --dist loadgroup -m slow

# With the training frameworks and trackers; nothing is sent anywhere.
hosts: dev
	$(PYTEST) -n $(JOBS) --dist loadgroup -m hosts

browser: dev
	$(PYTEST) -m browser

wheel: dev
	$(PYTEST) -m wheel

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench-block: venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_block.py --require 20

bench-dmft: venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_dmft.py --require-gib 1 --require-seconds 10

bench-empirical-ntk: venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_empirical_ntk.py --require 20

bench-glauber: venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_glauber.py --require 50

# Makes an environment of the peer's own in .venv-peer, once.
bench-kernels: venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_kernels.py --build-peer .venv-peer --sizes 4000 --require 4 --require-float64 2.5 --require-memory 1.5

bench-learning-curve: venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_learning_curve.py --require-seconds 60

bench-llc: dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_llc.py --require-gradient 5e5 --require-autograd 1e5 --require-devinterp 50

bench-slq: venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_slq.py --only hessian --require 3

bench-spectra: venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_spectra.py --require 1.2

# Those with a claim that must hold.
bench-required: bench-block bench-dmft bench-empirical-ntk bench-glauber bench-kernels bench-learning-curve \
        bench-llc bench-slq bench-spectra

bench: bench-required
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_slq.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_probe.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_rbm.py

clean:
	rm -rf build dist site report.html run.jsonl .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-peer
