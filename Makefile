# make demo: build the embedded default recipe. make test: lint, types, tests. Both install what they need.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

demo: $(INSTALLED)
	$(BIN)/edgekd build --recipe digits --target tflite-arm

test: $(INSTALLED)
	scripts/system-packages chromium openssh-server
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

$(INSTALLED): pyproject.toml constraints.txt scripts/install scripts/system-packages
	PYTHON=$(PYTHON) scripts/install
	touch $@

clean:
	rm -rf .venv .edgekd build dist

.PHONY: demo test clean
