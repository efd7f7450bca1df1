# What stands behind a target here is what `make` lists. ARGS goes on to the command that a target runs.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
# Threads that wait briefly instead of spinning: a machine shared with others is several times faster.
export GOMP_SPINCOUNT ?= 1000

.DEFAULT_GOAL := help
.PHONY: help demo demo-models-report check lint test test-slow host-tests gpu-check bench evidence readme-figures texts release clean

help: # this list
	@awk -F ':.*# ' '/^[a-z-]+:.*# / { printf "%-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[headless,demo,dev]"
	touch $(READY)

demo: $(READY) # protect three real pictures on the built-in demo model; IMAGES="a.png b.jpg" takes yours
	$(BIN)/python -m mist_attack.demo.pictures demo/original
	$(BIN)/mist protect $(or $(IMAGES),demo/original) --out demo --checkpoint demo --report demo/report.json
	$(BIN)/python -m mist_attack.demo.contact_sheet demo/report.json
	@echo "Look at demo/contact_sheet.png; the figures are in demo/report.json."

demo-models-report: $(READY) # measure the demo models on pictures they have not seen; PICTURES=folder takes yours
	$(BIN)/python -m training.judge --out demo/models $(if $(PICTURES),--unseen $(PICTURES))

check: lint test # what must pass before a change is taken: the same as CI

lint: $(READY) # style and types: ruff, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: $(READY) # every test that needs no host and no accelerator; WORKERS=1 for one process, ARGS="-k words"
	$(BIN)/python -m pytest $(if $(filter-out 1,$(WORKERS)),-n $(WORKERS) --dist worksteal) $(ARGS)

test-slow: $(READY) # those and the tests that take minutes or gigabytes, one after the other
	$(BIN)/python -m pytest --slow $(ARGS)

host-tests: $(READY) # the same promises in real hosts: COMFYUI_DIR, WEBUI_DIR, FORGE_DIR (their Python: COMFYUI_PYTHON ...)
	$(BIN)/python -m pytest tests/host -rs $(ARGS)

gpu-check: $(READY) # all that a card must show, in six minutes, into bench/results-gpu.json; COMFYUI_DIR: also there
	$(BIN)/python -m mist_attack.bench.gpu $(ARGS)

bench: $(READY) # what protection costs against Mist's own loop, into bench/results.json; REAL=folder
	$(BIN)/mist bench --out bench/results.json $(if $(REAL),--real $(REAL))

evidence: $(READY) # every figure that is claimed about protection, measured again; IMAGES=folder, REAL=folder
	$(BIN)/python -m mist_attack.bench.evidence $(if $(IMAGES),--images $(IMAGES)) $(if $(REAL),--real $(REAL))

readme-figures: $(READY) # write evidence/results.json, bench/results.json, results-gpu.json and results-sets.json into README and docs, families.json into docs/models.md
	$(BIN)/python bench/readme_figures.py
	$(BIN)/python -m bench.model_families

texts: $(READY) # write what people read of the controls, in every face and language, from their table and texts/*.yaml
	$(BIN)/python -m texts.write

release: $(READY) # build the wheel and ComfyUI's archive into dist/, and check what is in them
	$(BIN)/python .ci/release.py

clean: # remove the environment and what was built
	rm -rf $(VENV) demo build dist *.egg-info
