PYTHON ?= python3
BIN := .venv/bin
DEMO := .venv/.demo
DEV := .venv/.dev
BENCH := .venv/.bench
CLIENTS := .clients/.ready

# A process for each core and one more, as a fifth of the time tests wait for what they started; each takes whole files, so that fixtures
# of a file are made once. Threads of torch and BLAS beside them would wait for each other, turning: with one in each process the same work
# takes half the processor's time.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(shell expr 1 + $$(nproc)) --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick lint check environments bench protos constraints docs release release-check clean

demo: $(DEMO)  ## The whole path on drawn parts; on your own pictures: make demo DATA=DIR
	$(BIN)/linewatch demo $(if $(DATA),--data $(DATA))

environments: $(DEV) $(CLIENTS)  ## Everything that tests and checks need, without running them

test: $(DEV) $(CLIENTS)  ## All tests, on every core
	$(PYTEST)

quick: $(DEV)  ## Unit tests that compile, train and start nothing; less than a minute
	$(PYTEST) -m "not slow" tests/unit

lint: $(DEV)  ## Lint, types (ours, and the examples as a user sees them), import directions
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples/*.py
	$(BIN)/lint-imports
	$(BIN)/hadolint Containerfile

check: lint test  ## Everything that must pass before a change lands

bench: $(BENCH)  ## Latency against ONNX Runtime and OpenVINO; the server; accuracy over five seeds of five kinds; a soak (some hours)
	$(BIN)/python -m benchmarks.agent --json benchmarks/agent.json
	$(BIN)/python -m benchmarks.compile --json benchmarks/compile.json
	$(BIN)/python -m benchmarks.server --json benchmarks/server.json
	$(BIN)/python -m benchmarks.accuracy --json benchmarks/accuracy.json
	$(BIN)/python -m benchmarks.soak --json benchmarks/soak.json

protos: $(DEV)  ## Python stubs from the wire contract
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=edge_agent/protos --pyi_out=edge_agent/protos \
		--grpc_python_out=edge_agent/protos protos/edge-agent.proto
	sed -i 's/^import edge_agent_pb2/from linewatch.edge_agent.protos import edge_agent_pb2/' \
		edge_agent/protos/edge_agent_pb2_grpc.py

constraints: $(DEV)  ## Lock what is new among the dependencies; UPGRADE=1 takes the newest versions of all (hashes, no addresses)
	$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade)

docs: $(DEV)  ## The documents as a site with a search that needs no server: build/docs/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -j 2 -b html -c docs . build/docs

release: $(DEV)  ## Wheel, sdist, bill of materials and checksums in dist/, the same bytes from the same commit
	$(BIN)/python scripts/release.py

release-check: release  ## Install them in empty environments, with each extra and each Python at hand
	$(BIN)/python scripts/check_release.py dist

clean:
	rm -rf .venv .clients build dist demo-output .mypy_cache .ruff_cache .pytest_cache

# One environment that grows: demo, then what tests and checks add, then what benchmarks add; scripts/setup.py tells how far it is.
LOCKS := constraints.txt constraints-cpu.txt constraints-cuda.txt pyproject.toml scripts/setup.py
SETUP = @command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; install Python 3.11 or newer, or name one: make PYTHON=python3.11 ..." >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Linewatch needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Name one: make PYTHON=python3.11 ...")' && \
	$(PYTHON) scripts/setup.py

$(DEMO): $(LOCKS)
	$(SETUP) demo

$(DEV): $(DEMO) constraints-dev.txt
	$(SETUP) dev

$(BENCH): $(DEV) constraints-bench.txt
	$(SETUP) bench

# The last boto3 and AWS CLI that knew the service, apart from ours: tests run them unmodified.
$(CLIENTS): tests/clients/constraints.txt
	$(PYTHON) -m venv .clients
	.clients/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/clients/constraints.txt
	touch $@
