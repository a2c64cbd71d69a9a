#!/bin/sh
# Runs the installed agent until SIGTERM: run.sh WORK
set -eu
work=${1:?expected: run.sh WORK}
mkdir -p "$work/models.d" "$work/measured"
export LINEWATCH_AGENT_MODELS="$work/models.d" LINEWATCH_AGENT_MEASURED="$work/measured" PYTHONUNBUFFERED=1
export LINEWATCH_AGENT_SPOOL="$work/results" LINEWATCH_AGENT_STATE="$work/running.json"
exec "$work/current/bin/python" -P -m linewatch.edge_agent
