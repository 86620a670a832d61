"""What a run shows while it goes: a live view on a terminal, a line now and then otherwise."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

LINE_EVERY_S = 10.0
RATE_OVER_S = 10.0  # requests/s is what was answered in so many seconds
BAR_COLUMNS = 40


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
    accepted: int | None = None  # what was kept, where that is not `done`: the alternatives of an inpainting
    acceptance_of_rounds: Sequence[float] = ()  # of the finished rounds
    client: dict[str, float] = field(default_factory=dict)
    batch: dict[str, int] = field(default_factory=dict)  # total, completed, failed lines of the batch under way
    currency: str = "USD"

    @property
    def acceptance(self) -> float | None:
        """Share of what was judged that was accepted."""
        accepted = self.done if self.accepted is None else self.accepted
        judged = accepted + self.reasons.total()
        return accepted / judged if judged else None


class Progress:
    """`with Progress() as progress: progress.update(status)`; `enabled=False` shows nothing."""

    def __init__(self, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._enabled = enabled
        self._stream = stream or sys.stderr
        self._live: Any = None
        self._last_line = 0.0
        self._started = time.monotonic()
        self._first: Status | None = None
        self._answered: deque[tuple[float, float]] = deque()  # (time, requests answered), the last RATE_OVER_S

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
        """Show `status`, on a terminal at once, elsewhere when some time has passed. The first call is the start."""
        if self._first is None:
            self._first, self._started = status, time.monotonic()
        if status.client:
            self._answered.append((time.monotonic(), status.client["answered"]))
            while self._answered[0][0] < time.monotonic() - RATE_OVER_S and len(self._answered) > 2:
                self._answered.popleft()
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
        """Print a sentence, unless nothing is to be shown; on a terminal, lines are broken between words."""
        if self._enabled:
            if self._stream.isatty():
                columns = shutil.get_terminal_size().columns
                text = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
            self._stream.write(text + "\n")
            self._stream.flush()

    def _table(self, status: Status) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        done = min(status.done, status.total)
        table.add_row(f"[bold]{status.title}", ProgressBar(max(status.total, 1), done, width=BAR_COLUMNS))
        for key, value in self._facts(status):
            table.add_row(key, value)
        return table

    def _facts(self, status: Status) -> list[tuple[str, str]]:
        facts = [("accepted", _accepted(status)), ("rejected", _rejected(status.reasons))]
        if status.reused:
            facts.append(("from the journal", f"{status.reused:,}"))
        if client := status.client:
            facts.append(("requests", f"{client['requests']:,.0f}, {_rate(self._requests_per_s())}/s"))
            facts.append(("waiting", _waiting(client)))
            if batch := status.batch:
                failed = f", {batch['failed']:,} failed" if batch.get("failed") else ""
                facts.append(("batch", f"{batch.get('completed', 0):,} of {batch.get('total', 0):,} lines{failed}"))
            facts.append(("tokens", f"{client['prompt_tokens']:,.0f} in, {client['completion_tokens']:,.0f} out"))
            if client["cost"] > 0:
                facts.append(("cost", self._cost(status)))
        facts.append(("time left", _duration(self._seconds_left(status))))
        return facts

    def _requests_per_s(self) -> float:
        if not self._answered:
            return 0.0
        (start, before), (end, after) = self._answered[0], self._answered[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def _cost(self, status: Status) -> str:
        """So far, and projected: what an earlier process spent is spent, the rest grows with what is done."""
        cost, share = status.client["cost"], self._share_done(status)
        if share <= 0:
            return f"{_money(cost)} {status.currency} so far"
        before = self._first.client.get("cost", 0.0) if self._first else 0.0
        return f"{_money(cost)} of about {_money(before + (cost - before) / share)} {status.currency}"

    def _share_done(self, status: Status) -> float:
        """Of what this process has to do: what an earlier one did costs nothing now."""
        before = self._first.done if self._first else 0
        return (status.done - before) / max(status.total - before, 1)

    def _seconds_left(self, status: Status) -> float | None:
        share = self._share_done(status)
        if share <= 0:
            return None
        elapsed = time.monotonic() - self._started
        return max(elapsed / share - elapsed, 0.0)


def _accepted(status: Status) -> str:
    text = f"{status.done:,}/{status.total:,} {status.unit}"
    if status.accepted is not None:
        text += f", {status.accepted:,} alternatives"
    if status.acceptance is None:
        return text
    last = f", last round {status.acceptance_of_rounds[-1]:.0%}" if status.acceptance_of_rounds else ""
    return f"{text} ({status.acceptance:.0%} of candidates{last})"


def _rejected(reasons: Counter[str]) -> str:
    by_reason = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    return f"{reasons.total():,}" + (f" ({by_reason})" if by_reason else "")


def _waiting(client: dict[str, float]) -> str:
    parts = [f"in flight {client['in_flight']:,.0f}", f"queued {client['queued']:,.0f}"]
    if client["retries"]:
        parts.append(f"retries {client['retries']:,.0f}")
    if client["cooling_s"] > 0:
        parts.append(f"cooling down {client['cooling_s']:.1f} s")
    return ", ".join(parts)


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
