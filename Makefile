# make demo   protect real pictures on the built-in demo model (IMAGES="a.png b.jpg" takes your own)
# make demo-models-report
#             measure the built-in demo models on pictures they have not seen; PICTURES=folder takes yours
# make test   every test that needs no host and no accelerator
# make lint   style and types
# make texts  tables of controls, ComfyUI's and the web UI's words, written from the table of controls and texts/*.yaml
# make host-tests COMFYUI_DIR=... WEBUI_DIR=... FORGE_DIR=...
#             the same promises in real hosts, on the CPU; any of them, each under its own Python
#             (COMFYUI_PYTHON=... where its environment is not in its folder). ARGS=... goes to pytest: --slow, -k words
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
IMAGES ?= demo/original
# make gpu-check
#             all that a graphics card must show, in six minutes, into bench/results-gpu.json (COMFYUI_DIR=...: also
#             in a real ComfyUI). ARGS="--only gradients cost --device cuda:1". With a Python that has its own packages:
#             python -m mist_attack.bench.gpu
# Threads that wait briefly instead of spinning: a machine shared with others is several times faster.
export GOMP_SPINCOUNT ?= 1000

.PHONY: demo demo-models-report test test-slow host-tests bench gpu-check texts lint clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[headless,demo,dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m mist_attack.demo.pictures demo/original
	$(BIN)/mist protect $(IMAGES) --out demo --checkpoint demo --report demo/report.json
	$(BIN)/python -m mist_attack.demo.contact_sheet demo/report.json
	@echo "Look at demo/contact_sheet.png; the figures are in demo/report.json."

demo-models-report: $(READY)
	$(BIN)/python -m training.judge --out demo/models $(if $(PICTURES),--unseen $(PICTURES))

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest --slow

host-tests: $(READY)
	$(BIN)/python -m pytest tests/host -rs $(ARGS)

bench: $(READY)
	$(BIN)/mist bench --out bench/results.json

texts: $(READY)
	$(BIN)/python -m texts.write

gpu-check: $(READY)
	$(BIN)/python -m mist_attack.bench.gpu $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) demo build dist *.egg-info
