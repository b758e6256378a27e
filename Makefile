# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv by themselves.
# A machine without a GPU, where PyPI's torch would bring gigabytes of CUDA with it:
#   make setup TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out
# One thread a process: small steps on several threads of a busy machine can be ten times slower than on one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: setup demo test check fuzz format bench reproduce clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(or $(TORCH),-c constraints.txt torch)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/lorasynth demo --out $(OUT)/demo --force

test: setup
	$(BIN)/python -m pytest -n 2 tests

check: setup
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2 -m "not integration and not slow" tests

fuzz: setup
	LORASYNTH_FUZZ=100000 $(BIN)/python -m pytest -s --timeout 0 tests/lora/test_fuzz.py

format: setup
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

bench: setup
	for f in benchmarks/bench_*.py; do $(BIN)/python $$f || exit 1; done

reproduce: setup
	$(BIN)/python -m lorasynth.recipes.portraits --run-dir $(OUT)/reproduce

clean:
	rm -rf $(OUT) .pytest_cache .mypy_cache .ruff_cache
