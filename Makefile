# make demo    two facilities exchange a study on this machine
# make bench   Radmesh beside the tools in use today, over loopback and a slow line
# make test    everything that CI needs; CI=true adds the slow tests
# make oracles the log's formats beside a package that needs Python 3.12; CI runs it where there is one
# make mutants FILE=node/images/store.py   which small wrong changes of a file no test notices
# make wheel   what a machine without a checkout installs, in dist/
# make postgres installs Debian's PostgreSQL for tests/node/test_on_postgres.py, skipped without
# make dicom-peers installs Debian's dcmtk and Orthanc, with which the tests talk DICOM
# make interop installs js-libp2p for tests/node/network/test_interop_js.py, which is skipped without
# Needs Python 3.11 or newer with venv, and make; no compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
LOCKS := requirements-build.lock requirements-dev.lock
# The only packages without wheels; both are plain Python.
SOURCE_ONLY := varint,python-baseconv
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
LOCKED := --require-hashes --no-deps --no-build-isolation --only-binary :all: --no-binary $(SOURCE_ONLY)
UV ?= uv
# The one oracle of tests that needs a newer Python than the oldest that we support.
ORACLE_PYTHON ?= python3.12
ORACLES := .venv-oracles
UV_COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	--only-binary :all: --no-binary varint --no-binary python-baseconv

INTEROP := $(VENV)/interop
INTEROP_FILES := tests/interop/package.json tests/interop/package-lock.json

# Slow tests run in CI and in `make test-all`; in CI also with js-libp2p, where npm is, and on
# PostgreSQL and with dcmtk and Orthanc, where they are or can be installed.
ifneq ($(CI),)
IN_CI := postgres dicom-peers $(if $(shell command -v npm 2>/dev/null),interop)
endif

# Much of a test's time is the flushes of the homes that it makes. So homes are in memory where there
# is enough of it, and programs may run from there; what a real disk does, tests play on purpose.
MEMORY := /dev/shm
NEEDED_KB := 8000000
ifeq ($(shell test -w $(MEMORY) && df -Pk $(MEMORY) | awk -v needed=$(NEEDED_KB) \
	'NR == 2 && $$4 > needed { print "space" }')$(shell awk -v needed=$(NEEDED_KB) \
	'$$1 == "MemAvailable:" && $$2 > needed { print "memory" }' /proc/meminfo 2>/dev/null)$(shell \
	grep -s ' $(MEMORY) ' /proc/mounts | grep -c noexec),spacememory0)
IN_MEMORY := TMPDIR=$(MEMORY)
endif

PYTEST := $(IN_MEMORY) $(BIN)/python -m pytest
# Tests share the processors, so that CI takes less than an hour. Those with real nodes wait more
# than they compute, so there are more of them than processors, and each has long enough; a file stays
# in one process, as its tests share nodes. Those that measure by the clock run alone.
QUICK_TESTS := $(PYTEST) -m "not slow" --numprocesses=auto --maxprocesses=4 --dist=worksteal
SLOW_TESTS := $(PYTEST) -m "slow and not integration" --numprocesses=auto --maxprocesses=4 \
	--dist=worksteal
NODE_TESTS := $(PYTEST) -m "slow and integration and not alone" --numprocesses=3 --dist=loadfile \
	--timeout=600
ALONE_TESTS := $(PYTEST) -m alone

.PHONY: setup demo check test test-all wheel postgres dicom-peers interop oracles mutants bench lock clean

setup: $(STAMP)
	@:

$(STAMP): $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "radmesh needs Python 3.11 or newer; '$(PYTHON)' is missing or older: try  make setup PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' comes without venv: install it (Debian and Ubuntu: apt install python3-venv)" >&2; \
		exit 1; }
	@echo "making $(VENV) with the pinned packages (about a minute)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) --require-hashes --no-deps --only-binary :all: -r requirements-build.lock
	@$(PIP_INSTALL) $(LOCKED) -r requirements-dev.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/radmesh demo $(DICOM)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: check $(IN_CI)
	$(QUICK_TESTS)
ifneq ($(CI),)
	$(SLOW_TESTS)
	$(NODE_TESTS)
	$(ALONE_TESTS)
	@if $(ORACLE_PYTHON) -c 'pass' 2>/dev/null; then \
		$(MAKE) --no-print-directory oracles; \
	else \
		echo "no $(ORACLE_PYTHON) here: the tests against aics-tlog were not run" >&2; \
	fi
endif

test-all: check
	$(QUICK_TESTS)
	$(SLOW_TESTS)
	$(NODE_TESTS)
	$(ALONE_TESTS)

oracles:
	@$(MAKE) --no-print-directory setup PYTHON=$(ORACLE_PYTHON) VENV=$(ORACLES)
	@$(ORACLES)/bin/python -c 'import aics_tlog'
	$(ORACLES)/bin/python -m pytest tests/protocol/log/test_oracles.py tests/protocol/verify/test_report.py

COUNT ?= 20
SEED ?= 1
mutants: setup
	$(BIN)/python tests/mutants/run.py $(FILE) --count $(COUNT) --seed $(SEED)

# Without it, and without the right to install it, its tests are skipped and say so.
postgres:
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		:; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing postgresql" && \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql \
			>/dev/null || echo "postgresql could not be installed: its tests are skipped" >&2; \
	else \
		echo "no PostgreSQL here (apt install postgresql): its tests are skipped" >&2; \
	fi

dicom-peers:
	@if command -v storescu >/dev/null && command -v Orthanc >/dev/null && \
		test -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so; then \
		:; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing dcmtk and orthanc" && \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
			dcmtk orthanc orthanc-dicomweb \
			>/dev/null || echo "dcmtk or orthanc could not be installed: their tests are skipped" >&2; \
	else \
		echo "no dcmtk or orthanc here (apt install dcmtk orthanc orthanc-dicomweb): their tests are skipped" >&2; \
	fi

interop: setup $(INTEROP)/installed
	@:

$(INTEROP)/installed: $(INTEROP_FILES)
	@mkdir -p $(INTEROP)
	@cp $(INTEROP_FILES) $(INTEROP)
	@cd $(INTEROP) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

wheel: setup
	@rm -rf build dist
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@cp requirements.lock dist
	@rm -rf build
	@ls dist

bench: setup
	$(BIN)/python tests/bench/transfer.py
	$(BIN)/python tests/bench/wan.py
	$(BIN)/python tests/bench/ratios.py

# Needs uv; nothing else here does.
lock:
	$(UV_COMPILE) requirements-build.in --output-file requirements-build.lock
	$(UV_COMPILE) --override requirements-overrides.txt pyproject.toml \
		--output-file requirements.lock
	$(UV_COMPILE) --override requirements-overrides.txt --constraint requirements.lock \
		--extra dev pyproject.toml --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) $(ORACLES) demo-home build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .hypothesis .coverage .mutants
	find keys protocol node tests -name __pycache__ -type d -prune -exec rm -rf {} +
