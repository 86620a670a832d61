"""SIGTERM, which schedulers and `kill` send, ends a run as Ctrl-C does: what was paid for is taken, a line says so."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """While the body runs in the main thread, SIGTERM raises KeyboardInterrupt; a process that ignores Ctrl-C (in the
    background of a script) keeps the system's way with SIGTERM, one with a handler of its own (a Slurm job) that."""
    own_way = signal.getsignal(signal.SIGINT) == signal.SIG_IGN or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    if own_way or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
