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
# Where a machine forbids bytecode files, each process would compile the package and rewrite the tests anew, a third of collecting them.
export PYTHONDONTWRITEBYTECODE =

.PHONY: setup demo test test-all test-comfyui test-faces check fuzz soak format bench bench-disk gpu-zoo gpu-portraits128 gpu-bench reproduce reproduce-tiny evidence wheel site notebooks clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(or $(TORCH),-c constraints.txt torch)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/lorasynth demo --out $(OUT)/demo --force

# Every claim but those that train for long; `make test-all`, which CI runs, has these too.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

# The ComfyUI nodes in ComfyUI itself, by a Python that has ComfyUI's requirements, lorasynth and pytest.
COMFYUI_PYTHON ?= $(BIN)/python
test-comfyui: setup
	@test -f "$(LORASYNTH_COMFYUI)/folder_paths.py" || { echo "test-comfyui: expected LORASYNTH_COMFYUI=FOLDER, a checkout of ComfyUI," \
		"got '$(LORASYNTH_COMFYUI)'; clone ComfyUI and name its folder" >&2; exit 2; }
	LORASYNTH_COMFYUI="$(LORASYNTH_COMFYUI)" $(COMFYUI_PYTHON) -m pytest -n0 tests/integrations/real_comfyui.py

# Published face models on a folder of photographs, a sub-folder a person: make test-faces FACES=people/ MODELS=models/opencv
test-faces: setup
	LORASYNTH_FACES="$(FACES)" LORASYNTH_MODELS="$(MODELS)" $(BIN)/python -m pytest -s tests/gallery/real_faces.py

check: setup
	$(BIN)/ruff format --check src tests benchmarks integrations examples experiments
	$(BIN)/ruff check src tests benchmarks integrations examples experiments
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not integration and not slow" tests

fuzz: setup
	LORASYNTH_FUZZ=100000 $(BIN)/python -m pytest -s --timeout 0 tests/lora/test_fuzz.py

# 64,000 items by eight processes of which 200 are killed; 2,000 subjects of 10 photos prepared, 20 kills about 4 seconds apart.
soak: setup
	LORASYNTH_SOAK=64000,200 $(BIN)/python -m pytest -s --timeout 0 tests/zoo/test_kills.py
	LORASYNTH_PHOTOS=2000,10,4 $(BIN)/python -m pytest -s --timeout 0 tests/gallery/test_prepare.py -k killed

format: setup
	$(BIN)/ruff format src tests benchmarks integrations examples experiments
	$(BIN)/ruff check --fix src tests benchmarks integrations examples experiments

# The ratios of docs/results/performance.md that a CPU gives in minutes (about 20 on two busy cores), each after the command that prints it.
BENCHMARKS = bench_adalora.py "bench_reading.py --runs 3" "importing.py --sizes 60 260" "bench_serving.py --runs 3" \
	bench_synthesis.py "bench_synthesis_sd15.py --runs 2" zoo_training.py "growth.py --sizes 500 2000 8000" \
	canonical.py "bootstrapped_zoo.py --people 8 --plain-steps 200 --steps 12 --starts adalora --learning-rate 1e-2 --usual-learning-rate 1e-3"
bench: setup
	@for command in $(BENCHMARKS); do echo "+ python benchmarks/$$command"; $(BIN)/python benchmarks/$$command || exit 1; done

# Learning from zoos of 2,000, 16,000 and 64,000 LoRAs on disk (12.8 GB of it): hours.
bench-disk: setup
	mkdir -p $(OUT)
	$(BIN)/python benchmarks/learning_from_disk.py --out $(OUT)/from-disk --json $(OUT)/from-disk.json

# Where there is a GPU: a zoo of the paper's size and what is learned from it; batched fine-tuning at Stable Diffusion 1.5's true shape.
gpu-zoo: setup
	@$(BIN)/python -c "import torch; raise SystemExit(not torch.cuda.is_available())" || { echo "gpu-zoo: skipped, torch finds no CUDA device"; exit 0; } && \
	$(BIN)/lorasynth zoo build portraits_64k --out $(OUT)/gpu/zoo --device cuda --workers 2 && \
	$(BIN)/lorasynth train all portraits_64k --zoo $(OUT)/gpu/zoo --out $(OUT)/gpu/fit --device cuda

# The sharp portraits world on a GPU, from nothing to scores; what is worth keeping lies in $(OUT)/gpu128-kept in parts.
gpu-portraits128: setup
	@$(BIN)/python -c "import torch; raise SystemExit(not torch.cuda.is_available())" || { echo "gpu-portraits128: skipped, torch finds no CUDA device"; exit 0; } && \
	$(BIN)/python -m lorasynth.recipes.reproduce --recipe portraits128_gpu --run-dir $(OUT)/gpu128 --device cuda --pack $(OUT)/gpu128-kept

gpu-bench: setup
	$(BIN)/python benchmarks/gpu_bank.py 1 4 16 32
	$(BIN)/python benchmarks/gpu_bank.py 1 4 8 --pictures 4
	$(BIN)/python benchmarks/gpu_ways.py --people 8 30

# Models, zoo, synthesizer and scores from nothing, in hours; the same again goes on.
RECIPE ?= portraits128
reproduce: setup
	$(BIN)/python -m lorasynth.recipes.reproduce --recipe $(RECIPE) --run-dir $(OUT)/reproduce/$(RECIPE)

reproduce-tiny: setup
	$(BIN)/python -m lorasynth.recipes.reproduce --recipe portraits_tiny --run-dir $(OUT)/reproduce-tiny

# The claims of docs/results/evidence.md, at 64 pixels: runs the cells that have no result yet on a zoo of portraits, then writes
# the page. evidence128.md says how those at 128 pixels are run.
ZOO ?= runs/zoo
evidence: setup
	mkdir -p $(OUT)
	$(BIN)/lorasynth experiment all --zoo $(ZOO) --workers 2 --json $(OUT)/evidence.json --report docs/results/evidence.md --force

# The notebooks, run anew, hold no output but their pictures; the tests run them too.
notebooks: setup
	$(BIN)/python dev/notebooks.py

# The wheel, and a try of it as a user has it: an empty environment without the dev extra, no network, no checkout at hand.
WHEEL_VENV = $(OUT)/wheel/venv
wheel: setup
	rm -rf dist $(OUT)/wheel && mkdir -p $(OUT)/wheel
	$(BIN)/python -m build --quiet
	@size=$$(du -k dist/*.whl | cut -f1); echo "wheel: $$size KiB"; test $$size -le 61440
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install --quiet $(or $(TORCH),-c constraints.txt torch)
	$(WHEEL_VENV)/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	cd $(OUT)/wheel && export HF_HUB_OFFLINE=1 && venv/bin/lorasynth doctor && venv/bin/lorasynth demo --out demo && \
		venv/bin/lorasynth synthesize demo/photo.png --consent synthetic -o me.safetensors && test -s me.safetensors

# The site: pages and API reference; a warning is an error. Look at it: python -m http.server -d $(OUT)/site
site: setup
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs $(OUT)/site

clean:
	rm -rf $(OUT) docs/api .pytest_cache .mypy_cache .ruff_cache
