# The two commands of the README are `make demo` and `make test`; both set everything up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The tests start hundreds of programs: compiled once, kept modules make them start faster.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow coverage lint lock clean

demo: $(READY)
	$(BIN)/k25 demo $(if $(FULL),--full) $(if $(OUT),--out $(OUT))

# Three workers on two cores, as some tests wait: for time limits of sandboxes, for pages in a browser.
test: $(READY)
	$(BIN)/pytest -m "not slow" -n 3 --dist worksteal --timeout 300

# Each file's tests run on one worker, and files with many tests are handed out first: one worker is busy with the pages
# of the docs, whose servers share a port, while the other one runs nearly all the rest.
test-slow: $(READY)
	$(BIN)/pytest -m slow -n 2 --dist loadfile

# The fast tests, with the lines that they run counted: half as much time again. What runs in child processes is not seen.
coverage: $(READY)
	$(BIN)/pytest -m "not slow" -n 2 --dist worksteal --timeout 300 --cov --cov-report=
	$(BIN)/coverage report

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Resolve the newest versions that pyproject.toml allows, around the pinned torch.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 ".[all,dev]"
	.venv-lock/bin/python -m pip freeze --exclude k25 | sed -e 's/^torch==.*/torch==2.13.0/' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .coverage .pytest_cache .mypy_cache .ruff_cache
