# Two commands: `make demo` runs the main job in minutes, `make test` the whole test suite. Both set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check docs clean

demo: .venv/installed
	$(BIN)/python experiments/ppo_finetune.py --budget short --limits.num-updates 200 --resume

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: .venv/installed
	RL_DET_TEST_ALL=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed
	$(BIN)/python -m mkdocs build --strict

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rl_det needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
