# make up     the whole stack on this machine          make check  formatter, linter, types, fast tests (< 1 min)
# make test   everything but the long matrices         make soak   the long matrices
# make bench  the benchmarks
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Tests run side by side, a file at a time, since a file has addresses of its own; of the fast ones many wait more than
# they work, hence 3.
FAST := $(BIN)/python -m pytest -q -n 3 --dist loadfile -m

# Without Python's cache each of them would compile all tests again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: up check lint test soak programs bench lock clean

up: $(VENV)/.run
	@$(BIN)/python -m scaleup up $(ARGS)

check: lint
	$(FAST) "not slow and not other_loop" --hypothesis-profile check $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: programs $(VENV)/.dev
	$(FAST) "not slow" $(ARGS)
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "slow and not alone" $(ARGS)
	$(BIN)/python -m pytest -q -m alone $(ARGS)

soak: programs $(VENV)/.dev
	SCALEUP_SIM_FIRST=1000 SCALEUP_SIM_SEEDS=50000 $(BIN)/python -m pytest -q -n 2 tests/sim/test_sim_chaos.py -k hold
	$(BIN)/python -m pytest -s -m soak --soak $(ARGS)

# Debian packages that the tests use, when we may install them; else says which are missing.
programs:
	@sh tests/install-programs.sh $(PYTHON)

bench: $(VENV)/.dev
	@for script in proxy web app profile logs idle stack scale failover saturated; do \
	  $(BIN)/python -m bench.$$script --json bench/results/$$script.json $(ARGS) || exit; done
	$(BIN)/python -m bench.report

# What is installed is locked with hashes; `make lock` renews the lock from pyproject.toml.
lock: $(VENV)/.dev
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe --all-build-deps \
	  --extra test --extra bench --extra dev -o requirements-dev.txt pyproject.toml
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe --all-build-deps \
	  -c requirements-dev.txt -o requirements.txt pyproject.toml

# setuptools warns of every editable installation; pip ≥ 26 shows it.
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check
INSTALL_OURS := PYTHONWARNINGS=ignore $(INSTALL) --no-deps --no-build-isolation -e .

$(VENV)/.run: pyproject.toml requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …"
	@$(INSTALL) --require-hashes -r requirements.txt
	@$(INSTALL_OURS)
	@touch $@

$(VENV)/.dev: pyproject.toml requirements-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …"
	@$(INSTALL) --require-hashes -r requirements-dev.txt
	@$(INSTALL_OURS)
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
