# `make book` builds the book, `make test` checks everything. Both make the environment first.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Chapters, pages and test files that are worked on at a time, one thread each.
JOBS   ?= 2
# The chapters that `make run` runs: numbers, or `stale`; all of them if it is empty.
CHAPTERS ?=

export TQDM_DISABLE = 1
export PYTHONUTF8 = 1

.PHONY: help book run test env data lint unit nbval pages report screenshots benchmarks clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo "  VENV=dir, PYTHON=python3.12, JOBS=4, BRIDGEOUT_DATA=dir and BRIDGEOUT_OFFLINE=1 are respected"

book: env  ## build the book into _build/html: stored outputs, and chapters executed if what they reach has changed
	$(BIN)/python book/build.py --jobs $(JOBS)

run: env data  ## execute chapters and store their outputs: all, or CHAPTERS="04 07", or CHAPTERS=stale
	$(BIN)/python book/run.py $(CHAPTERS) --jobs $(JOBS) $(if $(STAND_INS),--stand-ins)

test: export BRIDGEOUT_OFFLINE = 1
test: lint unit nbval pages  ## lint, types, unit tests, notebooks with nbval, built pages in a browser

env: $(STAMP)  ## make the environment in .venv

# A torch that is already in the environment is kept: another one could bring several GB of CUDA along.
$(STAMP): requirements.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "from importlib.metadata import version; print('torch==' + version('torch').split('+')[0])" \
	    > $(VENV)/torch.txt 2> /dev/null || true
	$(BIN)/python -m pip install -q -r requirements.txt -c $(VENV)/torch.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

data: env  ## fetch CIFAR-10 where it is missing and a mirror answers
	$(BIN)/bridgeout data auto

lint: env  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: env  ## unit tests of the package
	$(BIN)/python -m pytest -m "not pages" -n $(JOBS) --dist loadfile

# one thread for each chapter: two that share two cores with another chapter's two are many times slower
nbval: env  ## run every chapter and compare with its stored outputs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with nbval_sanitize.cfg \
	    --nbval-cell-timeout 600 -n $(JOBS) --dist loadscope notebooks

pages: book  ## open the built pages in headless Chromium
	$(BIN)/python -m pytest -m pages -rs -n $(JOBS) --dist loadgroup

report: env  ## write book/ledger.md anew from results/
	$(BIN)/bridgeout report

screenshots: env  ## take the pictures of the in-page figures anew
	$(BIN)/python book/screenshots.py

benchmarks: env  ## speed against what one would use instead, as ratios
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/bridgeout.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/profile_step.py
	$(BIN)/python benchmarks/airbench.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/scheduler.py
	$(BIN)/python benchmarks/language.py
	$(BIN)/python benchmarks/figures.py

clean:  ## remove the built book (not the environment)
	rm -rf _build
