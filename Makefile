# Everything that is installed goes into .venv; see `make help`.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

# The newest Python that starts; a name on the PATH is not enough (version managers leave shims).
PYTHON ?= $(shell for name in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)

# The images' Python, on which what ships compiled is tested. Where it is not installed, that happens in a container.
IMAGE_PYTHON ?= $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null)
IMAGE := build/image

# Compiled modules are kept: processes that tests start would compile them again, and pytest rewrite its assertions.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin

# Tests of processes start several at once: more workers than cores only make each other wait.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)

PARTS := libs/ostiary libs/chassis services/auth services/gateway services/profile
SOURCES := libs services tests demo examples bench deploy
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	--no-emit-package ostiary --no-emit-package ostiary-chassis
NODE := tests/integration/services
PEERS := bench/peers_node
NPM := npm --silent --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved
COMPOSE := docker compose -f deploy/compose.yaml
SECRETS := $(abspath $(or $(OSTIARY_SECRETS_DIR),deploy/secrets))
FOUND_PYTHON = [ -n "$(PYTHON)" ] || { echo "make: Python 3.11 or newer is needed and was not found; set PYTHON" >&2; exit 1; }

.PHONY: help run demo test test-fast test-slow test-compiled fuzz mutants check format bench up down lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/installed ## Run the cluster and the examples as local processes on SQLite, until Ctrl-C
	@$(BIN)/python deploy/local.py

demo: .venv/installed ## Run the main story against a running cluster
	@$(BIN)/python demo/demo.py

# The images come first: tests that wait for processes should not share the cores with a compiler.
test: .venv/installed build/node/installed ## Run the tests: unit, integration, and containers if a Docker engine is available
	@if docker info >/dev/null 2>&1; then echo "Building the images ..."; $(COMPOSE) build --quiet; fi
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not serial and not slow" tests services libs
	$(BIN)/pytest -m "serial and not slow" tests services libs

test-fast: .venv/installed ## Run the unit tests only
	$(BIN)/pytest -n auto -m "not docker and not serial and not slow" libs services

test-slow: .venv/installed ## Run the tests that move gigabytes and hold thousands of connections
	$(BIN)/pytest -m slow

# Compiled coroutines pass an exception on by the signature of throw() that is deprecated since Python 3.12. The warning
# is the compiler's own affair; as an error, it would take the place of the exception that is passed on.
THROW := ignore:the (type, exc, tb) signature of throw() is deprecated:DeprecationWarning
test-compiled: ## Run the unit tests of the gateway and the verifier against their compiled modules, on the images' Python
ifneq ($(IMAGE_PYTHON),)
test-compiled: BIN := $(IMAGE)/bin
test-compiled: PYTHON := $(IMAGE_PYTHON)
test-compiled: $(IMAGE)/compiled
	PYTHONPATH=$(IMAGE)/compiled $(BIN)/pytest -n auto -W "$(THROW)" services/gateway/tests libs/ostiary/tests
else
	docker build --quiet --file deploy/Dockerfile --target build --build-arg SERVICE=gateway --tag ostiary-build .
	docker run --rm --user "$$(id -u):$$(id -g)" --env HOME=/tmp --env UV_CACHE_DIR=/tmp/uv \
		--volume $(CURDIR):/checkout --workdir /checkout ostiary-build make test-compiled IMAGE_PYTHON=python3 IMAGE=build/container
endif

fuzz: build/fuzz/installed ## Search for messages that the gateway's parser misreads, for FUZZ_SECONDS (60)
	PYTHONPATH=build/fuzz/packages:services/gateway/tests \
		$(BIN)/python tests/fuzz/http1.py build/fuzz/corpus -max_total_time=$(or $(FUZZ_SECONDS),60)

mutants: .venv/installed ## Mutate deciding code at COUNT (60) random places, by SEED (1); print what survives
	$(BIN)/python tests/mutants/run.py --count $(or $(COUNT),60) --seed $(or $(SEED),1)

check: .venv/installed ## Lint, check types and imports
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy $(wildcard libs/*/src services/*/src) deploy demo examples bench
	@for tests in $(wildcard libs/*/tests services/*/tests tests); do $(BIN)/mypy $$tests || exit 1; done

format: .venv/installed ## Format the code
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: .venv/installed build/compiled build/peers/installed ## Run the benchmarks, beside other software
	$(BIN)/python bench/verify.py
	$(BIN)/python bench/auth.py
	$(BIN)/python bench/revocation.py
	$(BIN)/python bench/bad_network.py
	$(BIN)/python bench/growth.py
	$(BIN)/python bench/gateway.py
	$(BIN)/python bench/session_or_jwt.py
	$(BIN)/python bench/browser_soak.py

up: ## Run the cluster in containers, with PostgreSQL
	@$(FOUND_PYTHON)
	@$(PYTHON) deploy/make_secrets.py $(SECRETS)
	OSTIARY_SECRETS_DIR=$(SECRETS) $(COMPOSE) up --build --detach --wait
	@echo "Ostiary is ready: open http://localhost:$${OSTIARY_GATEWAY_PORT:-8080} in a browser, or run: make demo. Stop it: make down"

down: ## Stop the containers; keep their data
	$(COMPOSE) down

lock: .venv/installed ## Pin all dependencies, with hashes
	$(COMPILE) --python-version 3.11 requirements/build.in -o requirements/build.txt
	$(COMPILE) --python-version 3.11 --all-extras -c requirements/build.txt \
		$(PARTS:=/pyproject.toml) requirements/dev.in -o requirements/dev.txt
	$(COMPILE) --python-version 3.11 -c requirements/dev.txt requirements/fuzz.in -o requirements/fuzz.txt
	@for service in auth gateway profile; do \
		$(COMPILE) --python-version 3.13 -c requirements/dev.txt \
			services/$$service/pyproject.toml -o requirements/$$service.txt || exit 1; done
	$(COMPILE) --python-version 3.13 -c requirements/dev.txt --extra fastapi \
		libs/ostiary/pyproject.toml requirements/examples.in -o requirements/examples.txt
	@for folder in $(NODE) $(PEERS); do \
		$(NPM) install --package-lock-only --prefix $$folder && \
		node -e "const fs = require('fs'), name = '$$folder/package-lock.json', lock = JSON.parse(fs.readFileSync(name)); \
			for (const each of Object.values(lock.packages)) delete each.funding; \
			fs.writeFileSync(name, JSON.stringify(lock, null, 2) + '\n')" || exit 1; done

clean: ## Remove what was installed or built, not the data
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# What each request goes through in the gateway, compiled as in its image: put it in front with PYTHONPATH.
COMPILED := libs/ostiary services/gateway
TO_COMPILE := $(foreach part,$(COMPILED),$(shell find $(part)/src -name '*.py') $(part)/pyproject.toml)
build/compiled: .venv/installed
$(IMAGE)/compiled: $(IMAGE)/installed
build/compiled $(IMAGE)/compiled: $(TO_COMPILE)
	@echo "Compiling the gateway (a C compiler and Python's headers are needed) ..."
	@rm -rf $@ build/sources && mkdir -p build/sources
	@cp -r $(COMPILED) build/sources
	@cd build/sources && HATCH_BUILD_HOOKS_ENABLE=1 \
		MYPYPATH=$(CURDIR)/build/sources/gateway/src:$(CURDIR)/build/sources/ostiary/src:$(CURDIR)/libs/chassis/src \
		$(CURDIR)/$(BIN)/uv pip install --quiet --python $(CURDIR)/$(BIN)/python --no-deps --no-build-isolation \
		--target $(CURDIR)/$@ $(addprefix ./,$(notdir $(COMPILED)))
	@rm -rf build/sources

# Beside the environment, which has what is tested and nothing else.
build/fuzz/installed: requirements/fuzz.txt .venv/installed
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --target build/fuzz/packages --only-binary :all: \
		--require-hashes -r requirements/fuzz.txt
	@touch $@

# Packages of Node.js for tests, which are skipped where it is not installed, and for benchmarks.
build/node/installed: $(NODE)/package.json $(NODE)/package-lock.json
build/peers/installed: $(PEERS)/package.json $(PEERS)/package-lock.json
build/node/installed build/peers/installed:
	@mkdir -p $(@D) && cp $^ $(@D)
	@if command -v npm >/dev/null; then $(NPM) ci --prefix $(@D); else echo "npm is not installed: what needs it is skipped"; fi
	@touch $@

.venv/installed $(IMAGE)/installed: requirements/build.txt requirements/dev.txt $(PARTS:=/pyproject.toml)
	@$(FOUND_PYTHON)
	@[ -x $(BIN)/python ] || echo "Installing into $(@D) ..."
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(@D)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt requirements/build.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(PARTS:%=--editable %)
	@touch $@
