"""A worker process, seen from the agent: started, asked, ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from linewatch.edge_agent.errors import WorkerError
from linewatch.edge_agent.settings import Settings
from linewatch.edge_agent.workers.channel import WorkerChannel
from linewatch.edge_agent.workers.messages import ErrorReply, Ready, WorkerOptions

_END_S = 5
CHANNELS = 2
"""To each worker: while it inspects one picture the next one's request is there already, so that it never waits for the agent."""


class WorkerLink:
    """One worker with one loaded model.

    Attributes:
        folder: of the bundle that it loaded.
        process: of the worker.
        channels: to it.
        runtime: what runs the model there.
        makes_masks: whether its answers come with masks.
        version: of the model.
        unconfined: why it kept what workers give up; empty when it did give it up.
        cpus: processors that it may use; empty means any.
        broken: whether it is gone, or was ended; nothing goes through its channels any more.
        aborted_for: the channel for whose call's sake it was ended.
    """

    def __init__(self, folder: Path, settings: Settings, cpus: list[int]) -> None:
        """Start a worker; `load` must follow.

        Raises:
            WorkerError: no process can be started.
        """
        self.folder, self.cpus, self._settings = folder, cpus, settings
        self.broken = False
        self.aborted_for: WorkerChannel[WorkerLink] | None = None
        self.runtime, self.makes_masks, self.unconfined, self.version = "", False, "", ""
        self.channels: list[WorkerChannel[WorkerLink]] = [WorkerChannel(self) for _ in range(CHANNELS)]
        options = WorkerOptions(
            [(channel.theirs.fileno(), channel.buffer.descriptor) for channel in self.channels], str(folder), settings.runtime,
            settings.threads, settings.trusted_keys, settings.measured, cpus, settings.other_sizes, settings.confine,
            settings.worker_mib,
        )  # fmt: skip
        command = [sys.executable, "-P", "-m", "linewatch.edge_agent.workers.worker", msgspec.json.encode(options).decode()]
        user = settings.worker_user or None
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[descriptor for channel in options.channels for descriptor in channel],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                user=user, group=_group_of(user) if user else None, extra_groups=[] if user else None,
            )  # fmt: skip
        except (OSError, KeyError, ValueError) as error:
            self._close_channels()
            raise WorkerError(f"the worker process cannot be started: {error}") from error
        finally:
            for channel in self.channels:
                channel.theirs.close()

    def load(self) -> None:
        """Wait until the worker has loaded, checked and warmed its model.

        Raises:
            WorkerError: it refuses the model, died, or took too long. No process is left then.
        """
        try:
            ready = self._wait_until_ready()
        except BaseException:
            self.end()
            raise
        self.runtime, self.makes_masks, self.unconfined, self.version = ready.runtime, ready.makes_masks, ready.unconfined, ready.version

    def _wait_until_ready(self) -> Ready:
        try:
            reply = self.channels[0].wait_until_loaded(self._settings.start_timeout_s)
        except TimeoutError:
            self.process.kill()
            raise WorkerError(f"the model did not load within {self._settings.start_timeout_s} s") from None
        match reply:
            case Ready():
                return reply
            case ErrorReply(_, message):
                raise WorkerError(message)
            case _:
                code = self.process.wait(self._settings.call_timeout_s)
                raise WorkerError(f"the worker process ended while loading ({exit_text(code)})")

    def abort(self, channel: WorkerChannel["WorkerLink"] | None = None) -> None:
        """End the process, whatever its channels have; see `aborted_for`."""
        self.broken, self.aborted_for = True, self.aborted_for or channel
        self.process.kill()

    def end(self) -> None:
        """End the process and give its memory back. Nobody uses its channels any more."""
        for channel in self.channels:
            channel.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close_channels()

    def _close_channels(self) -> None:
        for channel in self.channels:
            channel.close()
            channel.buffer.close()


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def exit_text(code: int) -> str:
    """How a process ended, for people."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
