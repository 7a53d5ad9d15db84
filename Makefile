# Targets of DESIGN section 3. All of them leave .venv/ here, and install nothing outside this directory,
# but for `make test`, which installs missing system packages through apt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test soak check bench image clean

demo: $(VENV)/.demo
	@$(BIN)/pilot try examples/wordcount/job.yaml --out demo-out

test: $(VENV)/.test
	@sh tests/system-packages.sh
	$(BIN)/python -m pytest -m alone $(TESTS); test $$? -eq 0 -o $$? -eq 5
	$(BIN)/python -m pytest -m "not alone" -n $(or $(JOBS),3) --dist loadfile $(TESTS)

# one line per program; SEED=N repeats a run
soak: $(VENV)/.test
	@sh tests/system-packages.sh
	$(BIN)/python -m tests.fault.loops --all $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.fault.schedules --schedules $(or $(SCHEDULES),10000)
	SOAK=1 $(BIN)/python -m pytest -s tests/fault/test_stop_table.py tests/fault/test_usage.py
	SOAK=1 $(BIN)/python -m pytest -s tests/hostile/test_fuzz.py tests/hostile/test_fuzz_lives.py
	$(BIN)/python -m tests.container.uml

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python bench/run.py

image:
	sh container/build-image.sh

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; choose one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# one stamp per set of packages: an unchanged pyproject.toml installs nothing again
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.check: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info demo-out bench/results.json
