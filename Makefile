# Daily work. `make help` lists the targets; `make demo` is all a first visitor needs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test faults observe fleet-test lint manifests fuzz bench bench-gpu clean

PY := .venv/bin/python
STAMP := .venv/.installed
BENCH_STAMP := .venv/.installed-bench
BENCHMARKS := $(filter-out benchmarks/harness.py benchmarks/gpu.py,$(wildcard benchmarks/*.py))
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --progress-bar off
# One thread a process: with more, processes that share two cores run many times slower.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

help:  ## list the targets
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## create .venv and install everything; does nothing where that is done

# Repeated only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	@python=""; \
	for name in "$${PYTHON:-python3.11}" python3; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$name"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 or newer is needed, as python3.11 or python3 (or: make setup PYTHON=/path/to/python)." >&2; exit 1; \
	fi; \
	if [ ! -x $(PY) ]; then \
	  echo "Making .venv with $$("$$python" --version)"; \
	  "$$python" -m venv .venv || { rm -rf .venv; echo "No virtual environment: install Python's venv module." >&2; exit 1; }; \
	fi
	@echo "Installing into .venv (once; about two minutes, longer on a slow line)"
	@if [ -t 1 ]; then show='\r  %-60s'; else show='  %s\n'; fi; \
	{ $(PIP_INSTALL) -c constraints.txt -e '.[dev]' 2>.venv/install.log || { cat .venv/install.log >&2; exit 1; }; } \
	| while IFS= read -r line; do case "$$line" in \
	    Collecting*) name=$${line#Collecting }; printf "$$show" "$${name%%[ <>=!~;\[]*}";; \
	    Installing\ collected*) printf "$$show" "unpacking";; \
	    Successfully*) printf "$$show" "done"; if [ -t 1 ]; then echo; fi;; \
	  esac; done
	@touch $(STAMP)

demo: setup  ## the whole way of the data on this machine, in minutes; results in runs/demo
	@.venv/bin/penstock demo --overwrite

# Two at a time, and then those that would disturb each other. Status 2: somebody pressed Ctrl-C, or the time is over.
test: setup  ## all tests that need no GPU, the quick half of the faults among them; ten minutes
	@code=0; \
	$(ONE_THREAD) $(PY) -m pytest -q -m "not long and not alone" -n 2 --dist worksteal --session-timeout=1100 || code=$$?; \
	if [ $$code -ne 2 ]; then \
	  $(ONE_THREAD) $(PY) -m pytest -q -m "not long and alone" --session-timeout=800 || code=$$?; \
	fi; \
	exit $$code

faults: setup  ## every fault on real processes, and the table of what was seen; then the longest tests; half an hour
	@$(ONE_THREAD) $(PY) -m pytest -q tests/faults --session-timeout=1500
	@$(ONE_THREAD) $(PY) -m pytest -q -m long tests/integration tests/benchmarks tests/consumer --session-timeout=1800

OBSERVED := tests/deploy/test_prometheus.py tests/deploy/test_grafana.py tests/integration/test_metrics.py \
  tests/integration/test_prometheus.py $(wildcard tests/telemetry/dashboard)

observe: setup  ## a real Prometheus and a real browser look at real runs; as root on Debian it installs both; minutes
	@missing=""; \
	for program in prometheus chromium; do command -v "$$program" >/dev/null || missing="$$missing $$program"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing$$missing"; \
	  apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then \
	  echo "Not installed:$$missing; the tests that need them are skipped."; \
	fi
	@$(ONE_THREAD) $(PY) -m pytest -q $(OBSERVED) --session-timeout=600

# Programs, and the packages of Debian that have them.
FLEET_PROGRAMS := ip:iproute2 tc:iproute2 nsenter:util-linux munged:munge slurmctld:slurm-wlm slurmd:slurm-wlm srun:slurm-wlm

fleet-test: setup  ## a real Slurm, and three machines in namespaces with a link that is cut; root only, installs Slurm; minutes
	@missing=""; \
	for pair in $(FLEET_PROGRAMS); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair#*:}"; \
	done; \
	missing="$$(tr ' ' '\n' <<<"$$missing" | sort -u | xargs)"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing $$missing"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; } >/dev/null \
	    || echo "Could not install $$missing; the tests that need them are skipped."; \
	elif [ -n "$$missing" ]; then \
	  echo "Not installed: $$missing; the tests that need them are skipped."; \
	fi
	@PATH="$$PATH:/usr/sbin:/sbin" $(ONE_THREAD) $(PY) -m pytest -q -m fleet tests/fleet --session-timeout=1800

lint: setup  ## style, format and types; the files for containers and Kubernetes, without either
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/hadolint deploy/containers/*.Dockerfile
	@.venv/bin/check-jsonschema -q --builtin-schema vendor.compose-spec deploy/containers/compose*.yaml
	@.venv/bin/shellcheck deploy/kubernetes/base/*.sh
	@$(PY) -m tests.deploy.manifests

manifests: setup  ## keep what kubectl makes of the overlays for Kubernetes; after each change of them
	@$(PY) -m tests.deploy.manifests render

fuzz: setup  ## a million broken messages through the decoder, a hundred thousand at a rank; some minutes
	@$(ONE_THREAD) $(PY) -m tests.fuzz.decoder
	@$(ONE_THREAD) $(PY) -m tests.fuzz.rank

bench-setup: $(BENCH_STAMP)  ## install what the benchmarks compare with

$(BENCH_STAMP): $(STAMP)
	@echo "Installing what the benchmarks compare with"
	@$(PIP_INSTALL) -q -c constraints.txt -e '.[dev,bench]'
	@touch $(BENCH_STAMP)

bench: bench-setup  ## every benchmark; results in runs/bench; half an hour and more
	@mkdir -p runs/bench
	@for script in $(BENCHMARKS); do \
	  echo "== $$script"; $(ONE_THREAD) $(PY) "$$script" --json "runs/bench/$$(basename "$$script" .py).json"; \
	done

bench-gpu: setup  ## the figures of the kernels on a GPU; results in runs/bench; eight minutes at most
	@$(PY) benchmarks/gpu.py --json runs/bench/gpu.json

clean:  ## remove caches and build products; keeps .venv and runs
	@rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
