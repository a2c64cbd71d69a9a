PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CLIENTS := .clients/.ready

.PHONY: demo test lint check bench protos constraints clean

demo: $(READY)  ## The whole path on drawn parts; on your own pictures: make demo DATA=DIR
	$(BIN)/linewatch demo $(if $(DATA),--data $(DATA))

test: $(READY) $(CLIENTS)  ## All tests
	$(BIN)/python -m pytest

lint: $(READY)  ## Lint, types (ours, and the examples as a user sees them), import directions
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples/*.py
	$(BIN)/lint-imports

check: lint test  ## Everything that must pass before a change lands

bench: $(READY)  ## Latency against ONNX Runtime and OpenVINO; the server; accuracy over five seeds; a soak (an hour and more)
	$(BIN)/python -m benchmarks.agent --json benchmarks/agent.json
	$(BIN)/python -m benchmarks.compile --json benchmarks/compile.json
	$(BIN)/python -m benchmarks.server --json benchmarks/server.json
	$(BIN)/python -m benchmarks.accuracy --json benchmarks/accuracy.json
	$(BIN)/python -m benchmarks.soak --json benchmarks/soak.json

protos: $(READY)  ## Python stubs from the wire contract
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=edge_agent/protos --pyi_out=edge_agent/protos \
		--grpc_python_out=edge_agent/protos protos/edge-agent.proto
	sed -i 's/^import edge_agent_pb2/from linewatch.edge_agent.protos import edge_agent_pb2/' \
		edge_agent/protos/edge_agent_pb2_grpc.py

constraints:  ## Lock the dependencies again (hashes, no addresses)
	$(BIN)/python scripts/lock.py

clean:
	rm -rf .venv .clients demo-output .mypy_cache .ruff_cache .pytest_cache

$(READY): constraints.txt constraints-cpu.txt constraints-cuda.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Linewatch needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Name one: make PYTHON=python3.11 ...")'
	@# Debian and Ubuntu split venv from Python: fetch it where we may, say so where we may not.
	$(PYTHON) -m venv .venv || { rm -rf .venv; \
		[ $$(id -u) = 0 ] || { echo "venv is missing; run: sudo apt-get install python3-venv"; exit 1; }; \
		apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv .venv; }
	@# torch's CPU build where pip finds one; else the registry's build, with CUDA's libraries.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt -r constraints-cpu.txt || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt -r constraints-cuda.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The last boto3 and AWS CLI that knew the service, apart from ours: tests run them unmodified.
$(CLIENTS): tests/clients/constraints.txt
	$(PYTHON) -m venv .clients
	.clients/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/clients/constraints.txt
	touch $@
