"""The threads of one connection: one reads and runs handlers, and when a handler begins to wait another one reads on."""

import threading
from collections.abc import Callable

from linewatch.edge_agent.http2.calls import Call


class CallThreads:
    """One of them reads at a time. The first is whoever calls `run`; the others are made when they are needed, and end when they are not."""

    def __init__(
        self, more: threading.BoundedSemaphore, next_call: Callable[[], Call | None], handle: Callable[[Call], None], ended: Callable[[], None]
    ) -> None:
        """No thread yet.

        Args:
            more: threads that all connections may have beside the first of each.
            next_call: reads until there is a call; None when the connection is over.
            handle: runs a call's handler; raises nothing.
            ended: called by the last thread.
        """
        self._more, self._next_call, self._handle, self._ended = more, next_call, handle, ended
        self._reading = threading.Lock()
        self._lock = threading.Lock()
        self._waiting, self._count = 0, 1

    def run(self) -> None:
        """Read and handle, until the connection is over or others do."""
        while True:
            with self._lock:
                if self._waiting:  # one that waits is enough
                    break
                self._waiting += 1
            self._reading.acquire()
            with self._lock:
                self._waiting -= 1
            while True:
                call = self._next_call()
                if call is None:
                    self._reading.release()
                    self._thread_ends()
                    return
                self._handle(call)
                if not call.reads:
                    break
        self._thread_ends()

    def hand_over_reading(self) -> bool:
        """Have another thread read; returns False when there can be none. Called by the one that reads; see `Call.about_to_wait`."""
        with self._lock:
            somebody_waits = self._waiting > 0
        if not somebody_waits:
            if not self._more.acquire(blocking=False):
                return False
            with self._lock:
                self._count += 1
            try:
                threading.Thread(target=self.run, name="call", daemon=True).start()
            except RuntimeError:  # the system has no more
                with self._lock:
                    self._count -= 1
                self._more.release()
                return False
        self._reading.release()
        return True

    def _thread_ends(self) -> None:
        with self._lock:
            self._count -= 1
            last = self._count == 0
        if last:
            self._ended()
        else:
            self._more.release()
