# Two targets do everything on a machine that has only Python >= 3.11 and make:
#   make run     the whole system on this machine, on free loopback ports   (ONCE=1: end after the results)
#   make test    everything that has to hold

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --no-compile --constraint constraints.txt
# pip would compile one file after the other, and the packages' own tests as well. It has to be done
# before pytest runs: there a compiler's warning is an error. Files for other Pythons do not compile.
COMPILE := $(PY) -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
ARGS ?=
# Processes of `make test`; half of its time is spent waiting for servers. One thread each: torch's
# own threads only get into each other's way.
JOBS ?= 3
OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help run test test-system images test-images chart lint demo-model train-demo film-check-model samples openapi decoders tables docs release fuzz faults bench gpu-check clean

help:
	@sed -n '2,4p' Makefile | cut -c3-
	@echo "  make lint | test-system | images | test-images | chart | demo-model | train-demo | film-check-model | samples | openapi | decoders | tables | docs | release | fuzz | faults | bench | gpu-check | clean"

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit("hilum needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(PY)
	$(INSTALL) --editable '.[serve,embedded]'
	$(COMPILE)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(PY)
	$(INSTALL) --editable '.[serve,train,embedded,dev]'
	$(COMPILE)
	PYTHONPATH=tests $(PY) -m support.tensorrt_stubs
	@touch $@ $(VENV)/run.stamp

run: $(VENV)/run.stamp
	@$(VENV)/bin/hilum demo $(if $(ONCE),--once) $(ARGS)

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(PY) -m pytest --numprocesses $(JOBS) --dist loadfile --ignore tests/system $(ARGS)

# What needs root, Docker or namespaces of the kernel (CONTRIBUTING.md has the packages). A skip fails.
test-system: $(VENV)/dev.stamp
	SYSTEM_TESTS=1 OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(PY) -m pytest -n 0 tests/system $(ARGS)

# The images of deploy/docker. BASE: any Debian with python3, its venv module and ca-certificates.
IMAGES ?= gateway worker
BASE ?= docker.io/library/python:3.11-slim-bookworm
TAG ?= $(shell sed -n 's/^__version__ = "\(.*\)".*/\1/p' hilum/__init__.py)
images:
	for image in $(IMAGES); do \
	  docker build --network=host --target $$image --tag hilum/$$image:$(TAG) --file deploy/docker/Dockerfile \
	    --build-arg BASE=$(BASE) --build-arg VERSION=$(TAG) \
	    --build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(git log -1 --format=%cI) \
	    $(IMAGE_ARGS) . || exit 1; \
	done

test-images: $(VENV)/dev.stamp
	SYSTEM_TESTS=1 $(PY) -m pytest -n 0 tests/system/test_images.py $(ARGS)

# values.schema.json and the table of values; then the golden renders.
chart: $(VENV)/dev.stamp
	$(PY) -m tools.chart
	PYTHONPATH=.:tests $(PY) -m support.chart_golden

demo-model: $(VENV)/dev.stamp
	$(PY) -m tools.demo_model

film-check-model: $(VENV)/dev.stamp
	$(PY) -m tools.filmcheck

# Cohort, training, evaluation; seven minutes on two cores.
train-demo: $(VENV)/dev.stamp
	rm -rf var/train-demo
	$(VENV)/bin/hilum cohort --to var/train-demo/cohort --images 600 --side 192
	$(VENV)/bin/hilum train configs/train-demo.toml --to var/train-demo/run
	$(VENV)/bin/hilum train evaluate var/train-demo/run/best --to var/train-demo/evaluation
	@echo "open var/train-demo/evaluation/report.html; tensorboard --logdir var/train-demo/run"

samples: $(VENV)/dev.stamp
	$(PY) -m tools.samples models/samples

openapi: $(VENV)/dev.stamp
	$(PY) -m tools.openapi docs/openapi.json

decoders: $(VENV)/dev.stamp
	PYTHONPATH=tests $(PY) -m support.decode_table

tables: $(VENV)/dev.stamp
	$(PY) -m tools.tables

# A dead link or anchor fails. To read: python -m http.server --directory build/site
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# Wheel and sdist in dist/, checked, installed and run. ARGS=--trial: before everything is committed.
release: $(VENV)/dev.stamp
	$(PY) tools/release.py $(ARGS)

fuzz: $(VENV)/dev.stamp
	PYTHONPATH=.:tests $(PY) -m support.fuzz.run $(ARGS)

# Hurts a running system in every way, and writes what held into docs/operate/running.md.
# For a release: make faults STUDIES=2000
STUDIES ?= 50
faults: $(VENV)/dev.stamp
	rm -rf var/faults
	-FAULTS_STUDIES=$(STUDIES) FAULTS_ROWS=var/faults OMP_NUM_THREADS=1 $(PY) -m pytest \
		--numprocesses $(JOBS) --dist load tests/e2e/test_faults.py $(ARGS)
	PYTHONPATH=.:tests $(PY) -m support.faults.table var/faults

bench: $(VENV)/dev.stamp
	$(PY) -m benchmarks.engine $(ARGS)

# On a machine with an NVIDIA GPU: what cannot be proved without one (docs/operate/gpu.md).
gpu-check: $(VENV)/dev.stamp
	$(INSTALL) --editable '.[tensorrt]'
	$(COMPILE)
	$(PY) -m benchmarks.gpu_check $(ARGS)

clean:
	rm -rf $(VENV) var build *.egg-info
