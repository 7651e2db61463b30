# Everything the course needs, by one word each. Every target first makes sure that .venv is there and up to date.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.labkit-stamp
unexport PYTHONDONTWRITEBYTECODE  # where it is set (many images do), each start would compile torch anew: 24 s, not 9

# What was installed, and from where: a change in either, or a folder that was moved, installs again.
WANTED := $(shell { pwd; cat pyproject.toml constraints.txt; } | cksum | tr ' ' '-')

# The Python to make .venv with; `make lab PYTHON=...` names another. 3.14 has no wheels of some libraries yet.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$python; break; }; done)

.PHONY: help lab test course demo real base html bench colab room order ready
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

lab: ready ## open the course in JupyterLab
	$(PY) -m jupyterlab $(LAB_ARGS) notebooks/

test: ready ## everything that CI runs: style, tests, all notebooks
	$(PY) -m ruff check .
	$(PY) -m pytest -m "real or browser" -n 2 --dist loadfile --durations 3 tests
	$(PY) -m pytest -m "not real and not browser" -n 2 --dist loadfile --no-loadscope-reorder --nbval-lax --nbval-current-env --nbval-cell-timeout 600 --durations 10 $(wildcard notebooks solutions tests)

course: ready ## build the notebooks from solutions/*.py; LABS="03 05" builds these only
	@$(PY) -m labkit.cli course --build $(LABS)

demo: ready ## fine-tune the tiny model on the shipped tickets: a table and a picture in a minute
	@$(PY) -m labkit.cli demo

real: ready ## run the labs on a real model and write what they measured to data/measured/
	@$(PY) -m labkit.cli real

base: ready ## train tiny-base from its recipe, up to two hours; takes up where it stopped
	@$(PY) data/recipe/train.py

html: ready ## write the solved labs as a site with a search to build/html
	@$(PY) -m labkit.cli course --html build/html

bench: ready ## how fast all of it is against what people would use instead; BENCH="--only train,score --model small"
	@$(PY) tests/bench $(BENCH)

colab: ready ## the set-up cell for Colab in a new environment with torch alone, then lab 03; some minutes
	@$(PY) tests/fresh_colab.py

room: ready ## pack for a room without internet and set a laptop up from it behind no network; Linux, root, some minutes
	@$(PY) tests/offline_room.py

order: ready ## every lab with its cells shuffled, then with each training interrupted; half an hour
	@$(PY) tests/begin_anywhere.py --shuffle 7 --interrupt

# The stamp is written last, so that a set-up that was interrupted is done again.
ready:
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(WANTED)" ]; then $(MAKE) --no-print-directory $(STAMP); fi

.PHONY: $(STAMP)
$(STAMP):
	@rm -f $(STAMP)
	@if [ -x $(PY) ] && ! $(PY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then \
		echo "$(VENV) holds $$($(PY) --version), and the course wants 3.11 to 3.13. Delete the folder $(VENV) and call make again"; \
		exit 2; fi
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		if [ -z "$(PYTHON)" ]; then \
			echo "No Python from 3.11 to 3.13 was found. Install one, or name it: make lab PYTHON=/path/to/python3.12"; exit 2; fi; \
		echo "Step 1 of 2: making $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV) || { \
			echo "Python could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 2; }; \
	else echo "Step 1 of 2: $(VENV) is there, bringing it up to date"; fi
	@echo "Step 2 of 2: installing the course's libraries: about 250 packages, 3 GB on disk or more, a few minutes"
	@# --no-compile: of 28,000 modules most are never imported. Those that are, are compiled at their first import:
	@# here, for the large libraries, so that the first lab does not wait for it.
	@set -o pipefail; $(PY) -m pip install -c constraints.txt -e '.[all]' --no-compile \
		| { grep --line-buffered -oE '(Downloading|Using cached) .*MB\)|Installing collected packages' || true; }
	@$(PY) -W ignore -c 'import datasets, matplotlib.pyplot, peft, sklearn.metrics; from transformers import LlamaForCausalLM, Trainer' \
		2>/dev/null || echo "Some libraries cannot be imported here: labkit doctor says which"
	@echo "$(WANTED)" > $(STAMP)
	@echo "Ready."
