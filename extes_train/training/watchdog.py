"""All stacks on stderr when a step takes too long. It never ends a process: the collectives' time-out does that."""

from __future__ import annotations

import faulthandler
import sys
from types import TracebackType
from typing import IO


class Watchdog:
    """`with Watchdog(600) as watchdog:` and `watchdog.beat()` once a step.

    faulthandler's own C thread dumps the stacks, so that it works while Python is stuck inside a collective.
    """

    def __init__(self, timeout_s: float, file: IO[str] | None = None) -> None:
        self.timeout_s = timeout_s
        self.file = file

    def __enter__(self) -> Watchdog:
        self.beat()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Start the time again."""
        file = self.file or sys.__stderr__
        if file is not None:
            faulthandler.dump_traceback_later(self.timeout_s, repeat=True, file=file)
