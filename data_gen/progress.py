"""What a run shows while it goes: a live view on a terminal, a line now and then otherwise."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TextIO

LINE_EVERY_S = 10.0


@dataclass
class Status:
    """A moment of a run. `client`: `TeacherClient.snapshot()`, empty while nothing was asked."""

    title: str
    total: int  # accepted dialogues, or turns to inpaint
    done: int
    candidates: int
    unit: str = "dialogues"
    reused: int = 0  # candidates taken from the journal
    reasons: Counter[str] = field(default_factory=Counter)
    client: dict[str, float] = field(default_factory=dict)
    currency: str = "USD"


class Progress:
    """`with Progress() as progress: progress.update(status)`; `enabled=False` shows nothing."""

    def __init__(self, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._enabled = enabled
        self._stream = stream or sys.stderr
        self._live: Any = None
        self._last_line = 0.0
        self._started = time.monotonic()
        self._first: Status | None = None

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        if self._enabled and self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def update(self, status: Status) -> None:
        """Show `status`, on a terminal at once, elsewhere when some time has passed."""
        if self._first is None:
            self._first = status
        if self._live is not None:
            self._live.update(self._table(status), refresh=True)
        elif self._enabled and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self.line(status)

    def line(self, status: Status) -> None:
        """Print one plain line, whatever the time."""
        if self._enabled and self._live is None:
            self._last_line = time.monotonic()
            self._stream.write(f"{status.title}: {'; '.join(f'{k} {v}' for k, v in self._facts(status))}\n")
            self._stream.flush()

    def say(self, text: str) -> None:
        """Print a sentence, unless nothing is to be shown."""
        if self._enabled:
            self._stream.write(text + "\n")
            self._stream.flush()

    def _table(self, status: Status) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_row(
            f"[bold]{status.title}", ProgressBar(max(status.total, 1), min(status.done, status.total), width=40)
        )
        for key, value in self._facts(status):
            table.add_row(key, value)
        return table

    def _facts(self, status: Status) -> list[tuple[str, str]]:
        client = status.client
        facts = [("accepted", f"{status.done}/{status.total} {status.unit}")]
        rejected = status.reasons.total()
        by_reason = ", ".join(f"{reason} {count}" for reason, count in status.reasons.most_common(6))
        facts.append(("rejected", f"{rejected}{f' ({by_reason})' if by_reason else ''}"))
        if status.reused:
            facts.append(("from the journal", str(status.reused)))
        if client:
            facts.append(
                (
                    "requests",
                    f"{client['requests']:.0f} ({client['requests_per_s']:.0f}/s), "
                    f"in flight {client['in_flight']:.0f}, "
                    f"queued {client['queued']:.0f}, retries {client['retries']:.0f}"
                    + (f", cooling down {client['cooling_s']:.1f} s" if client["cooling_s"] > 0 else ""),
                )
            )
            facts.append(("tokens", f"{client['prompt_tokens']:.0f} in, {client['completion_tokens']:.0f} out"))
            if client["cost"] > 0:
                projected = client["cost"] / max(self._share_done(status), 1e-9)
                facts.append(("cost", f"{client['cost']:.2f} of about {projected:.2f} {status.currency}"))
        left = self._seconds_left(status)
        facts.append(("time left", "-" if left is None else f"{left // 60:.0f}:{left % 60:02.0f}"))
        return facts

    def _share_done(self, status: Status) -> float:
        """Of what this process has to do: what an earlier one did costs nothing now."""
        before = self._first.done if self._first else 0
        return (status.done - before) / max(status.total - before, 1)

    def _seconds_left(self, status: Status) -> float | None:
        share = self._share_done(status)
        if share <= 0:
            return None
        elapsed = time.monotonic() - self._started
        return elapsed / share - elapsed
