# `make book` builds the book, `make test` checks everything. Both make the environment first.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Test files, and chapters under nbval, that run at a time.
JOBS   ?= 2

# What the chapters compute from, besides their own cells.
INPUTS  = $(shell find bridgeout_lite results -name '*.py' -o -name '*.js' -o -name '*.css' -o -name '*.jsonl' | LC_ALL=C sort)
CHAPTERS = $(sort $(wildcard notebooks/[0-9]*.ipynb))
SCRIPTS = $(wildcard bridgeout_lite/widgets/*.js) book/static/figures.js

export TQDM_DISABLE = 1
export PYTHONUTF8 = 1

.PHONY: help book test env data lint unit nbval pages notebooks report screenshots benchmarks matrix colab clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo "  VENV=dir, PYTHON=python3.12, TORCH=cpu, JOBS=4, BRIDGEOUT_DATA=dir and BRIDGEOUT_OFFLINE=1 are respected"

book: env data  ## build the book into _build/html, executing what changed
	@# jupyter-cache knows a chapter's cells only: if the package, the records or the data changed, forget what it holds
	@cat $(INPUTS) requirements.txt _build/.data | cksum > _build/.inputs.new
	@cmp -s _build/.inputs.new _build/.inputs || rm -rf _build/.jupyter_cache _build/.doctrees _build/html
	@mv _build/.inputs.new _build/.inputs
	$(BIN)/jupyter-book build . -W --keep-going
	@echo "Open $(CURDIR)/_build/html/index.html"

test: export BRIDGEOUT_OFFLINE = 1
test: lint unit nbval pages  ## lint, types, unit tests, notebooks with nbval, built pages in a browser

env: $(STAMP)  ## make the environment in .venv

# .ci/env.py keeps a torch that is there, else chooses the build that fits this machine.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) .ci/env.py $(VENV)
	@touch $@

data: env
	@mkdir -p _build
	@$(BIN)/bridgeout data auto > _build/.data
	@cat _build/.data

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
	$(BIN)/python -m pytest -m "not pages" -n $(JOBS) --dist loadfile

# one thread for each chapter: two that share two cores with another chapter's two are many times slower
nbval: env  ## run every chapter and compare with its stored outputs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with nbval_sanitize.cfg \
	    --nbval-cell-timeout 600 -n $(JOBS) --dist loadscope $(CHAPTERS)

pages: book  ## open the built pages in headless Chromium
	$(BIN)/python -m pytest -m pages -rs

notebooks: env  ## run every chapter in place and store its outputs
	$(BIN)/python notebooks/execute.py $(CHAPTERS)

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

matrix:  ## lint, unit tests and a chapter on each of Python 3.10 to 3.13 that is found
	$(PYTHON) .ci/matrix.py

colab:  ## first cells of all chapters and chapters 1 to 4 with the versions that Colab has
	$(PYTHON) .ci/colab.py

clean:  ## remove the built book (not the environment)
	rm -rf _build
