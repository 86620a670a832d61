"""Signals that ask a run to stop. The handler only sets a flag; all ranks agree on it at the next step boundary."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

REQUEUE_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # time limit, preemption, a node going down

# What ranks agree on, as numbers so that a maximum over ranks decides; an interruption by a person wins.
GO_ON, OUT_OF_TIME, REQUEUE, INTERRUPT = 0, 1, 2, 3


class StopRequest:
    """The flag. `value` is GO_ON, REQUEUE or INTERRUPT."""

    def __init__(self) -> None:
        self.value = GO_ON
        self.signal_name = ""

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler: a second SIGINT does not wait for the step's end."""
        if number == signal.SIGINT and self.value == INTERRUPT:
            raise KeyboardInterrupt
        # torchrun passes SIGTERM on after a Ctrl-C: what the person asked for stays
        self.value = max(self.value, INTERRUPT if number == signal.SIGINT else REQUEUE)
        self.signal_name = self.signal_name or signal.Signals(number).name


@contextlib.contextmanager
def catching_signals() -> Iterator[StopRequest]:
    """Install the handlers (main thread only) and put the old ones back."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[signal.Signals, Any] = {}
    for number in (*REQUEUE_SIGNALS, signal.SIGINT):
        before[number] = signal.signal(number, request.handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
