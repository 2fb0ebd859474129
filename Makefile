# make up     the whole stack on this machine          make check  formatter, linter, types, fast tests (< 1 min)
# make test   everything but the long matrices         make soak   the long matrices
# make bench  the benchmarks
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: up check test soak bench lock clean

up: $(VENV)/.run
	@$(BIN)/python -m scaleup up $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow" $(ARGS)

test: $(VENV)/.dev
	@sh tests/install-programs.sh
	$(BIN)/python -m pytest $(ARGS)

soak: $(VENV)/.dev
	@sh tests/install-programs.sh
	$(BIN)/python -m pytest -m soak --soak $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python bench/proxy.py $(ARGS)

# What is installed is locked with hashes; `make lock` renews the lock from pyproject.toml.
lock: $(VENV)/.dev
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe --all-build-deps \
	  --extra test --extra dev -o requirements-dev.txt pyproject.toml
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe --all-build-deps \
	  -c requirements-dev.txt -o requirements.txt pyproject.toml

$(VENV)/.run: pyproject.toml requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: pyproject.toml requirements-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
