# `make book` builds the book, `make test` checks everything. Both make the environment first.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Chapters, pages and test files that are worked on at a time, one thread each.
JOBS   ?= 2
# The chapters that `make run` runs: numbers, or `stale`; all of them if it is empty.
CHAPTERS ?=
SCRIPTS = $(wildcard bridgeout_lite/widgets/*.js bridgeout_lite/widgets/engine/*.js tests/figures/*.mjs) book/static/figures.js book/static/ledger.js

export TQDM_DISABLE = 1
export PYTHONUTF8 = 1

.PHONY: help book run test env data lint unit nbval pages report screenshots benchmarks seeds zoo matrix colab clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo "  VENV=dir, PYTHON=python3.12, TORCH=cpu, JOBS=4, BRIDGEOUT_DATA=dir and BRIDGEOUT_OFFLINE=1 are respected"

book: env  ## build the book into _build/html: stored outputs, and chapters executed if what they reach has changed
	$(BIN)/python book/build.py --jobs $(JOBS)

run: env data  ## execute chapters and store their outputs: all, or CHAPTERS="04 07", or CHAPTERS=stale
	$(BIN)/python book/run.py $(CHAPTERS) --jobs $(JOBS) $(if $(STAND_INS),--stand-ins)

test: export BRIDGEOUT_OFFLINE = 1
test: lint unit nbval pages  ## lint, types, unit tests, notebooks with nbval, built pages in a browser

env: $(STAMP)  ## make the environment in .venv

# .ci/env.py keeps a torch that is there, else chooses the build that fits this machine.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) .ci/env.py $(VENV)
	@touch $@

data: env  ## fetch CIFAR-10 where it is missing and a mirror answers
	$(BIN)/bridgeout data auto

# .pre-commit-config.yaml names the same checks: what is added here is added there (a test compares).
lint: env  ## ruff, mypy, import contracts, spelling, and the syntax of the JavaScript where Node is found
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	@if command -v node > /dev/null; then ls $(SCRIPTS) | xargs -n 1 node --check; \
	    else echo "JavaScript is not checked: Node is not here"; fi

unit: env  ## unit tests of the package
	$(BIN)/python -m pytest -m "not pages and not zoo" -n $(JOBS) --dist loadfile

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

zoo: env  ## the layers and the pruning on other people's models (timm and transformers, where they are installed)
	$(BIN)/python -m pytest -m zoo -n $(JOBS) --dist loadfile tests/zoo

seeds: env  ## whether what chapters assert holds for other seeds: CHAPTERS="04 10" SEEDS=5 THREADS=1
	$(BIN)/python .ci/seeds.py

matrix:  ## lint, unit tests and a chapter on each of Python 3.10 to 3.13 that is found
	$(PYTHON) .ci/matrix.py

colab:  ## first cells of all chapters and chapters 1 to 3 with the versions that Colab has
	$(PYTHON) .ci/colab.py

clean:  ## remove the built book (not the environment)
	rm -rf _build
