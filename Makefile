# make demo    sets everything up, then runs the main job: drkit run az-failure, on the lab
# make test    sets everything up, then runs all tests
# make check   the gate without the lab: format, lint, types, layers, unit and property tests

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
VENV ?= .venv
BIN = $(VENV)/bin
TESTS ?= tests

.PHONY: demo test lint check fmt docs bench clean-lab

demo: $(VENV)/.demo
	$(BIN)/drkit run az-failure

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/python -m pytest tests/unit tests/properties tests/docs

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python -m drkit.cli.reference > docs/cli.md
	$(BIN)/python -m drkit.cli.reference --runbooks docs/runbooks

bench: $(VENV)/.dev
	for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

clean-lab: $(VENV)/.demo
	$(BIN)/drkit lab down

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: drkit needs Python 3.11 or newer"; \
		echo "hint: install it, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; echo "hint: on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	@echo "installing drkit into $(VENV) (about a minute) …"
	@$(BIN)/python -m pip install --quiet --editable '.[lab]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	@echo "installing drkit and its development tools into $(VENV) (about two minutes) …"
	@$(BIN)/python -m pip install --quiet --editable '.[lab,k8s]' --group dev
	@touch $@ $(VENV)/.demo
