# Two commands from an empty clone: make demo, make test. Everything goes into .venv.
# pip takes its settings from its own files and environment (an index of CPU-only PyTorch: see README.md).

PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-slow fuzz lint docs clean

# An existing .venv is used again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) was found; run: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

demo: $(BIN)/python
	@echo "installing swinkit into .venv; PyTorch is large, the first time takes minutes"
	$(BIN)/python -m pip install --quiet . "scikit-image>=0.24"
	$(BIN)/swinkit demo

# --group takes the test libraries from pyproject.toml.
.PHONY: environment
environment: $(BIN)/python
	@echo "installing swinkit and the test libraries into .venv; the first time takes minutes"
	$(BIN)/python -m pip install --quiet --editable ".[train,hub,datasets,export]" --group test

# Two at a time, a file in one process: most tests keep one core busy.
test: environment
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=85

test-slow: environment
	$(BIN)/python -m pytest -m slow

# Every reader of files from outside, SECONDS each; one of them: make fuzz TARGET=pictures.
SECONDS ?= 60
fuzz: environment
	$(BIN)/python -m pip install --quiet --group fuzz
	$(BIN)/python -m tools.fuzz $(TARGET) --seconds $(SECONDS)

lint: environment
	$(BIN)/python -m pip install --quiet --group dev
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: environment
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/zensical build

clean:
	rm -rf .venv .coverage* .pytest_cache .hypothesis .mypy_cache .ruff_cache site dist
