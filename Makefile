# headrace: make run | test | check | bench | prove | up | down

PYTHON ?= python3
FLOW   ?= nightly
PRESET ?= tiny
# Which torch: cpu, or a CUDA build such as cu130.
TORCH  ?= cpu

BIN   := .venv/bin
STAMP := .venv/.installed-$(TORCH)
# A folder of wheels known to pip goes before the index of the torch project.
WHEELS      := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
TORCH_INDEX := $(if $(and $(WHEELS),$(filter cpu,$(TORCH))),,--index-url https://download.pytorch.org/whl/$(TORCH))

.PHONY: run test check bench prove up down setup clean

run: setup
	$(BIN)/headrace run --flow $(FLOW) --preset $(PRESET)

up: setup
	$(BIN)/headrace up

down: setup
	$(BIN)/headrace down

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks

prove: setup
	$(BIN)/python -m tests.prove $(SYSTEM)

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH_INDEX) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@rm -f .venv/.installed-*
	@touch $@
