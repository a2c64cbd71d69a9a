"""How long each file of tests takes: kept in durations.json, compared in each run, and the order in which files are begun.

    python -m pytest -n auto --keep-durations     # after a change of what tests do, on an idle machine

Long files are begun first, so that no process is left with one at the end. A file that takes half as long again as it did, and five
seconds more, is named when the run is over: machines differ, so that it is a remark and not a failure.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

KEPT = Path(__file__).with_name("durations.json")
_LONGER, _SECONDS = 1.5, 5.0
_UNKNOWN_S = 10.0


def slower(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Files that became slower, worst first, each with both figures in seconds."""
    found = {name: s for name, s in now.items() if name in before and s > max(before[name] * _LONGER, before[name] + _SECONDS)}
    return [f"{name}: {before[name]:.0f} -> {s:.0f} s" for name, s in sorted(found.items(), key=lambda item: before[item[0]] - item[1])]


def longest_first(files: Mapping[str, int], before: Mapping[str, float]) -> list[str]:
    """Files of tests (with how many they are) in the order in which they are begun."""
    return sorted(files, key=lambda name: (-before.get(name, _UNKNOWN_S), name))


def kept() -> dict[str, float]:
    """Seconds of each file in the run that was kept."""
    return dict(json.loads(KEPT.read_bytes())["files"]) if KEPT.exists() else {}


class Durations:
    """Adds up what each file took, setup and teardown included."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one phase of one test."""
        self.seconds[report.location[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what became slower."""
        total, before = sum(self.seconds.values()), kept()
        ran = [before[name] for name in self.seconds if name in before]
        terminalreporter.section("durations")
        terminalreporter.line(f"{len(self.seconds)} files, {total:.0f} s of tests; {len(ran)} of them took {sum(ran):.0f} s in the run that was kept")
        for line in slower(before, self.seconds):
            terminalreporter.line(f"slower: {line}")
        if terminalreporter.config.getoption("keep_durations"):
            files = {name: round(s, 1) for name, s in sorted(self.seconds.items())}
            KEPT.write_text(json.dumps({"cores": os.cpu_count(), "files": files}, indent=1) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that keeps a run."""
    parser.addoption("--keep-durations", action="store_true", help="write tests/durations.json from this run")


def pytest_configure(config: pytest.Config) -> None:
    """Only where reports arrive: not in the processes that pytest-xdist starts."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations(), "durations")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; within a file tests keep theirs."""
    counts: defaultdict[str, int] = defaultdict(int)
    for item in items:
        counts[item.location[0]] += 1
    places = {name: place for place, name in enumerate(longest_first(counts, kept()))}
    items.sort(key=lambda item: places[item.location[0]])
