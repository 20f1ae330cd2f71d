# Two commands: `make search` (install, then a search on drawn faces) and `make test` (install, then the tests).
PYTHON ?= python3
BIN := .venv/bin
# Test files, and parts of mypy, that run at a time: on two cores three of them, for they often wait for processes that
# they have started. Each worker of pytest may start a Ray of two cores.
WORKERS ?= 3
# Every process that a test starts would otherwise compile all modules again where this is set.
export PYTHONDONTWRITEBYTECODE =

.PHONY: search test lint slow soak cluster-test contracts monitoring clean

search: .venv/installed
	$(BIN)/python -m tune.search --space backbones --scale cpu --preset contest-2021

test: .venv/installed lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not soak"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers $(WORKERS)

# Tests of six seconds and more: whole searches, comparisons, browsers, other processes. CI runs them too.
slow: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow

# Long fault and load runs, whole commands one after the other, and what measures time; one test at a time.
soak: .venv/installed
	$(BIN)/python -m pytest -m soak --timeout 3600

# Several machines in Linux namespaces on this one, some of which are lost. Root, or namespaces of users; docs/cluster.md.
# With more than three clusters at a time on two cores, Ray's own time limits are too short.
cluster-test: .venv/installed
	$(BIN)/python -m pytest tests/cluster -n $(WORKERS) --dist load --maxschedchunk 1 --timeout 1800

# The contract tests against the newest releases of Ray and Optuna, whatever pyproject.toml allows. All else comes from .venv.
contracts: .venv/installed
	rm -rf .venv-contracts
	$(BIN)/python -m venv .venv-contracts
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(echo .venv-contracts/lib/python3*/site-packages)/venv.pth"
	.venv-contracts/bin/python -m pip install --quiet --upgrade 'ray[data,default,tune]' optuna cmaes
	.venv-contracts/bin/python -m pip freeze | grep -E '^(ray|optuna|cmaes)=='
	.venv-contracts/bin/python -m pytest tests/tune/contracts

# Prometheus on this machine alone, at http://127.0.0.1:9090, for the Ray that runs here. README of deploy/monitoring.
monitoring:
	@command -v prometheus > /dev/null || { echo "Prometheus is missing. On Debian or Ubuntu: apt-get install prometheus"; exit 1; }
	mkdir -p .prometheus
	sed "s/maskcls-UID/maskcls-$$(id -u)/" deploy/monitoring/prometheus.yml > .prometheus/prometheus.yml
	prometheus --config.file .prometheus/prometheus.yml --storage.tsdb.path .prometheus --web.listen-address 127.0.0.1:9090

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "Installing into .venv: 3.6 GB to fetch, 7 GB on the disk, most of it torch with CUDA. pip names each file."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off --editable '.[web,dev]'
	@echo "Installed."
	@touch $@

clean:
	rm -rf .venv .venv-contracts .mypy_cache .pytest_cache .ruff_cache
