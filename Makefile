# Two commands are all that a fresh machine needs: `make demo` and `make test` (Python 3.11 or newer, git, make).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pip compiles what it installs on one core; this does it on all. What does not compile is no module of anybody's use.
INSTALL = $(BIN)/pip install --quiet --no-compile --editable '.$(1)' && \
	{ $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true; }

.PHONY: demo test test-long serve lint browser clean

demo: $(VENV)/.installed
	rm -rf demo-output
	$(BIN)/onceforall demo --out demo-output

serve: $(VENV)/.installed
	$(BIN)/onceforall serve --data-dir demo-output/service

test: # the system's package is fetched beside the others
	$(MAKE) --no-print-directory --jobs 2 lint browser
	$(BIN)/pytest -n 2 --dist loadfile

test-long: $(VENV)/.installed-dev # what takes minutes a test: a fuzzed API, hosts and trainings that are killed
	$(BIN)/pytest -m long

lint: $(VENV)/.installed-dev
	! git grep -nE '^(<<<<<<<|[|]{7}|>>>>>>>)( |$$)' # lines that an unfinished merge leaves
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

browser: # for the tests of the pages, which are skipped without it; installed where that needs nobody's password
	@for name in chromium chromium-browser google-chrome-stable google-chrome; do \
	command -v $$name >/dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && \
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; } || \
	echo "no Chromium, and none could be installed: the tests of the pages in a browser will be skipped"

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(call INSTALL)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml
	$(call INSTALL,[dev])
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build *.egg-info demo-output
