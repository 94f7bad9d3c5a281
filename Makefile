# make run    install what is needed, then train an agent end to end on the embedded defaults
# make test   install what is needed, then lint, type-check and test
#
# Another interpreter: make install PYTHON=python3.12.  Arguments for mmo-rl: make run ARGS="seed=1 iterations=3"

PYTHON ?= python3
VENV := .venv
ARGS ?=
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test lint types pytest docs screenshots

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  PYTHON=python3.12 chooses another interpreter (3.11 to 3.13), ARGS="seed=1" are passed to mmo-rl by make run'

install: ## make .venv with everything in it; done again only when pyproject.toml, the constraints or Python changed
	@sh constraints/install.sh '$(PYTHON)' '$(VENV)' '$(STAMP)'

run: install ## train an agent end to end: mmo-rl with its defaults
	@$(BIN)/mmo-rl $(ARGS)

test: install lint types pytest ## ruff, import contracts, mypy and all tests

lint:
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-logo

types:
	$(BIN)/mypy

pytest:
	$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: install ## build the documentation's site in site/, offline; a dead link or anchor is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict && echo 'site/index.html'

screenshots: install ## take the pictures of report.html, compare.html and the viewer in docs/images/ (needs Chromium)
	@$(BIN)/python docs/scripts/screenshots.py $(ARGS)
