"""`python -P -m linewatch.edge_agent`: the agent as a program of its own, for programs that start one.

Each setting is a flag of its name; what `linewatch agent` offers to people beside is in the command line.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.server import serve
from linewatch.edge_agent.settings import Settings, load_settings


def main(arguments: Sequence[str]) -> int:
    """Run the agent until SIGTERM; returns the exit code: 0, or 1 where it could not begin, with a message that says why."""
    parser = argparse.ArgumentParser(prog="python -P -m linewatch.edge_agent", allow_abbrev=False)
    parser.add_argument("--settings", type=Path, help="TOML file with settings.")
    for name in Settings.__struct_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS)
    flags = vars(parser.parse_args(arguments))
    try:
        serve(load_settings(flags.pop("settings"), flags=flags))
    except LinewatchError as error:
        sys.stderr.write(f"linewatch: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
