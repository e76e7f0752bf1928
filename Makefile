# Every verb works from nothing on a machine with Python 3.11 or newer, git and make.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The family mlp needs torch. Builds for CPUs have "+cpu" in their version; others bring gigabytes.
TORCH ?= torch==2.13.0+cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Images: make images TAG=1.0 IMAGE_BUILD="podman build"; IMAGE_TORCH=torch for trainers on GPU nodes.
TAG ?= dev
IMAGE_BUILD ?= docker build
IMAGE_TORCH ?=
IMAGES := dataset controller allocator exporter gateway trainer
# Nothing is sent anywhere, by libraries neither.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help install protos lint test bench demo services test-postgres test-services test-cluster bench-cluster images $(IMAGES:%=image-%) chart chart-manifests clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.local: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Allotment needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": name another one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
	@if $(PIP) '$(TORCH)' 2>/dev/null; then $(PIP) --editable '.[torch]'; else \
	  echo "Going on without networks (family mlp): pip finds no $(TORCH). A wheel where pip looks (PIP_FIND_LINKS), or make install TORCH=..., brings them."; fi
	@touch $@

$(VENV)/.dev: $(VENV)/.local
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(VENV)/.local ## everything that runs on one machine, into .venv

protos: $(VENV)/.dev ## write libs/api from protos/
	protos/generate.sh $(BIN)/python

lint: $(VENV)/.dev ## formatting, lint, types, import contracts, buf, generated-code drift
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy libs services tests bench
	$(BIN)/lint-imports
	cd protos && $(abspath $(BIN))/buf lint
	protos/check_drift.sh $(BIN)/python

test: $(VENV)/.dev ## all tests that need nothing but this machine
	$(BIN)/pytest -n 2 --dist loadfile -m "not cluster" --ignore tests/services

SERVED := controller_service controller_sessions allocator_service exporter_service dataset_uploads dataset_blobs dataset_imports

test-postgres: $(VENV)/.dev ## the services' own tests over gRPC once more, on PostgreSQL in SQLite's place
	$(BIN)/pytest -n 2 --dist loadfile -p allotment_testkit.on_postgres $(SERVED:%=tests/integration/test_%.py)

test-services: $(VENV)/.dev ## the end-to-end tests against services in processes of their own, and what befalls these
	ALLOTMENT_TEST_FORM=services $(BIN)/pytest tests/e2e tests/services tests/integration/test_sdk_server.py -o timeout=240

test-cluster: $(VENV)/.dev ## tests on the cluster that KUBECONFIG names
	$(BIN)/pytest -m cluster tests/cluster

bench: $(VENV)/.dev ## benchmarks in short forms (see docs/benchmarks.md)
	$(BIN)/python -m bench

bench-cluster: $(VENV)/.dev ## the allocator at full size on the cluster that KUBECONFIG names: 4,000 GPUs on fake nodes
	$(BIN)/python -m bench.cluster

demo: $(VENV)/.local ## upload, search, leaderboard, ONNX model, and a check of it by an independent process
	$(BIN)/python examples/demo.py

services: $(VENV)/.dev ## each service in a process of its own, with PostgreSQL, an S3 server and TLS, until Ctrl-C
	@$(BIN)/python -m allotment_testkit.services

images: $(IMAGES:%=image-%) ## an image for each service, allotment/<service>:$(TAG), by $(IMAGE_BUILD)

$(IMAGES:%=image-%): image-%:
	$(IMAGE_BUILD) $(if $(filter trainer,$*),$(if $(IMAGE_TORCH),--build-arg 'TORCH=$(IMAGE_TORCH)')) -t allotment/$*:$(TAG) --target $* .

chart: $(VENV)/.dev ## the Helm chart: lint, k8s/ against what it renders, its tests (needs helm)
	helm lint --strict helm/allotment
	k8s/check_drift.sh $(BIN)/python
	$(BIN)/python helm/values_table.py --check
	$(BIN)/pytest tests/chart

chart-manifests: $(VENV)/.dev ## write k8s/ from the chart, and its README's table (needs helm)
	$(BIN)/python k8s/render.py
	$(BIN)/python helm/values_table.py

clean: ## remove what make made
	rm -rf $(VENV) build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
