# make sample   draw 16 images from the bundled CIFAR-10 model into samples.png
# make test     run the tests; those on real data need ZOO_DATA (see README.md);  make quick   without the slow ones
# make attack   try some 15,000 damaged files, kills and broken disks, and write the table of docs/promises.md
# make lint     check style;  make bench   time loading and sampling;  make clean   remove what these made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: sample test quick attack lint bench clean

sample: $(VENV)/installed
	$(BIN)/zoo sample pixelcnn-cifar10 -n 16 --seed 0 --out samples.png

test: $(VENV)/installed-dev
	$(BIN)/pytest -rfEs -n auto --maxprocesses 4

quick: $(VENV)/installed-dev
	$(BIN)/pytest -rfEs -n auto --maxprocesses 4 -m "not slow"

attack: $(VENV)/installed-dev
	$(BIN)/python tests/attack/run.py --write $(ATTACK)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

bench: $(VENV)/installed
	$(BIN)/python tests/benchmarks/loading.py
	$(BIN)/python tests/benchmarks/sampling.py

clean:
	rm -rf $(VENV) build dist samples.png .pytest_cache .ruff_cache
	find zoo tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Editable, so that the package finds the checkpoints/ beside it. A stamp is newer than pyproject.toml
# only after an installation that succeeded.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed
