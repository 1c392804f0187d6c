# headrace: make run | test | check | bench | prove | up | down | check-data | doctor | scale-out | browse

PYTHON ?= python3
FLOW   ?= nightly
PRESET ?= tiny
# Which torch: cpu, or a CUDA build such as cu130.
TORCH  ?= cpu

BIN   := .venv/bin
# Another torch or another Python is another installation.
STAMP := .venv/.installed-$(TORCH)-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# Scripts in .venv/bin begin with an absolute path, which breaks when the folder moves or its name is long or has spaces.
HEADRACE := $(BIN)/python -m infra.cli
# A folder of wheels known to pip goes before the index of the torch project.
WHEELS      := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
TORCH_INDEX := $(if $(and $(WHEELS),$(filter cpu,$(TORCH))),,--index-url https://download.pytorch.org/whl/$(TORCH))

# The interpreter of GPU kernels; a CUDA build of torch brings the triton that it was made for.
COMMA  := ,
EXTRAS := dev$(if $(filter cpu,$(TORCH)),$(COMMA)interpreter)

.PHONY: run test check bench prove up down check-data doctor scale-out browse setup

run: setup
	$(HEADRACE) run --flow $(FLOW) --preset $(PRESET)

up: setup
	$(HEADRACE) up

# Without setup: stopping must not install anything.
down:
	@if [ -x $(BIN)/python ]; then $(HEADRACE) down; else echo "nothing is running: there is no .venv to run it from"; fi

# Two at a time: servers start, flows wait. A file's tests stay together, they share what is costly to make.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

bench: setup
	$(BIN)/python -m benchmarks

prove: setup
	$(BIN)/python -m tests.prove $(SYSTEM)

# Without setup: looking must not install anything either.
doctor:
	@if [ -x $(BIN)/python ]; then $(HEADRACE) doctor; else echo "nothing is installed: there is no .venv; make setup"; fi

scale-out: setup
	$(BIN)/python -m tests.scale_out

browse: setup
	$(BIN)/python -m tests.browse

# Names of files reach the shell as variables, never as text of the recipe: blanks, quotes and dollars stay what they are.
unexport FILE ITEMS SYSTEM
check-data: export CHECKED_FILE = $(value FILE)
check-data: export CHECKED_ITEMS = $(value ITEMS)
check-data: export CHECKED_SYSTEM = $(value SYSTEM)
check-data: setup
	@$(HEADRACE) check-data $${CHECKED_ITEMS:+--items "$$CHECKED_ITEMS"} \
		$${CHECKED_SYSTEM:+--system "$$CHECKED_SYSTEM"} -- \
		"$${CHECKED_FILE:?name your table, as in: make check-data FILE=purchases.csv}"

setup: $(STAMP)

# The old environment goes first, and before it the stack that runs from it: pip alone would keep the old torch.
$(STAMP): pyproject.toml constraints.txt
	@if [ -x $(BIN)/python ]; then $(HEADRACE) down >/dev/null 2>&1 || true; fi
	@echo "installing torch ($(TORCH)) into .venv; takes some minutes"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet $(TORCH_INDEX) --constraint constraints.txt torch
	@echo "installing headrace and what it needs into .venv; takes some minutes"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
