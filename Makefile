# The daily verbs. `make help` lists them.
MODEL ?= smollm2-135m
PORT ?= 30000
# One worker for each GPU; without any, two that share the CPU.
DP ?= $(or $(filter-out 0,$(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU ')),2)
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
ROUTER_SOURCES := Cargo.toml Cargo.lock router/Cargo.toml $(shell find router/src -name '*.rs' 2>/dev/null)
# The router's Python module; the first Python that is new enough, unless the caller names one.
PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3.14 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)
CLIPPY := --workspace --all-targets

export PATH := $(PATH):$(HOME)/.cargo/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help serve demo test check format build wheel bench bench-engine bench-router bench-serving clean
.DELETE_ON_ERROR:

help: ## show this list
	@echo "radixfleet: make VERB [MODEL=$(MODEL)] [PORT=$(PORT)] [DP=$(DP)] [ARGS='more flags']"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

serve: build ## set up what is missing, then serve MODEL with DP workers on PORT
	@exec $(BIN)/launch_server --model-path $(MODEL) --dp-size $(DP) --port $(PORT) $(ARGS)

demo: build ## the same on a free port, with a scripted conversation
	@exec $(BIN)/radixfleet demo --model-path $(MODEL) --dp-size $(DP) $(ARGS)

test: $(STAMPS)/dev ## everything that is tested, Rust and Python
	cargo test --locked --workspace
	$(BIN)/python -m pytest -q $(ARGS)

check: $(STAMPS)/dev ## formatters and linters, nothing is changed
	$(BIN)/ruff format --check benchmarks python tests
	$(BIN)/ruff check benchmarks python tests
	$(BIN)/pyright
	cargo fmt --all --check
	cargo clippy --locked $(CLIPPY) -- -D warnings
	cargo clippy --locked -p radixfleet-router --lib --features python -- -D warnings

format: $(STAMPS)/dev ## format Python and Rust, mend what the linters can
	$(BIN)/ruff check --fix --exit-zero benchmarks python tests
	$(BIN)/ruff format benchmarks python tests
	cargo fmt --all

build: $(STAMPS)/build ## the environment, the Rust extension and the commands

wheel: $(STAMPS)/build ## one wheel for every Python from 3.11 on, into dist/
	$(BIN)/maturin build --release --out dist

bench: $(STAMPS)/dev ## the figures of the README
	@$(BIN)/python -m benchmarks $(ARGS)

bench-engine: $(STAMPS)/dev ## the engine on this GPU, dummy weights; ARGS='--model qwen3-0.6b --workload one --peers vllm,sglang'
	@$(BIN)/python -m benchmarks.engine.offline $(ARGS)

bench-router: $(STAMPS)/dev ## the router beside sglang-router, smg, vllm-router and nginx: 40 minutes; ARGS='--quick' for 10
	@$(BIN)/python -m benchmarks.router $(ARGS)

bench-serving: $(STAMPS)/dev ## load on a running server at PORT; ARGS='--backend openai-chat --num-prompts 200 --request-rate 4'
	@$(BIN)/python -m benchmarks.serving --port $(PORT) $(ARGS)

clean: ## remove what was built; the environment and pulled models stay
	rm -rf target dist build .pytest_cache .ruff_cache .hypothesis $(STAMPS)/build
	rm -f python/router_py/_core*.so
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- how the environment comes about: each step runs again only when what it depends on changed ----

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "radixfleet needs Python 3.11 or newer; none was found. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "radixfleet needs Python 3.11 or newer; $(PYTHON) is older or does not run" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian: python3-venv)" >&2; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/maturin: constraints.txt | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet maturin
	@touch $@

# A change of Rust sources alone must not ask the package index: pip sees that all is there.
# maturin installs into the environment that is active in the shell, if it is not told of ours.
$(STAMPS)/build: pyproject.toml constraints.txt $(ROUTER_SOURCES) | $(STAMPS)/maturin
	@command -v cargo >/dev/null || { echo "radixfleet needs a Rust toolchain (cargo); install it from https://rustup.rs" >&2; exit 1; }
	@$(BIN)/python -c 'import torch' 2>/dev/null \
		|| echo "PyTorch comes with its CUDA libraries on Linux: about 3 GB to download, once"
	env -u CONDA_PREFIX VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release
	@touch $@

$(STAMPS)/dev: pyproject.toml constraints.txt | $(STAMPS)/build
	$(BIN)/python -m pip install --quiet 'radixfleet[dev]'
	@touch $@
