"""Progress of long work: a bar with time left on a terminal, one line a stage elsewhere. Always on standard error."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class StageProgress:
    """Call it with what is being done, how many steps are done, and how many there are."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""

    def __enter__(self) -> "StageProgress":
        if not self._quiet and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=self._console,
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report progress."""
        if self._quiet:
            return
        if self._bar:
            if what != self._stage:
                self._task = self._bar.add_task(what, total=total)
            assert self._task is not None
            self._bar.update(self._task, completed=done, total=total)
        elif what != self._stage:
            sys.stderr.write(f"{what} ...\n")
            sys.stderr.flush()
        self._stage = what
