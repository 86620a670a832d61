"""What a tracker hears of a run: counters while it goes, the card's numbers, tables and plots at its end.

The feed itself comes from outside (`launch/tracking.py` gives wandb's): this file says what is put into it.

    {"step": candidates, "values": {name: number}}   now and then; steps never go back, a resumed run goes on
    {"summary": {name: number}}                      the card's counts, measures and prices
    {"tables": {name: [row, …]}}                     scenarios, strategies, rounds; a row is a mapping
    {"images": {name: path}}                         the plots
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from data_gen.progress import Status

EVERY_S = 5.0  # between two records of counters
CLOSE_TIMEOUT_S = 30.0  # how long the end of a run waits for the tracker
TABLES = ("scenarios", "strategies", "rounds")
NUMBERS = ("counts", "measures", "teacher", "alternatives_per_turn")  # of the card


class Feed(Protocol):
    """Where records go. Neither method raises; `put` does not block."""

    def put(self, record: Mapping[str, Any]) -> None: ...

    def close(self, timeout_s: float) -> None: ...


OpenFeed = Callable[[], Feed]  # called once the run's folder exists


class RunTracker:
    """`with RunTracker(open_feed) as tracker`; without a feed every method does nothing."""

    def __init__(self, open_feed: OpenFeed | None) -> None:
        self._feed = open_feed() if open_feed is not None else None
        self._last = time.monotonic() - EVERY_S

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._feed is not None:
            self._feed.close(CLOSE_TIMEOUT_S)

    def update(self, status: Status, at_once: bool = False) -> None:
        """Put the counters of `status`, unless it was done a moment ago."""
        now = time.monotonic()
        if self._feed is not None and (at_once or now - self._last >= EVERY_S):
            self._last = now
            self._feed.put({"step": status.candidates, "values": counters(status)})

    def finish(self, out: Path, card: Mapping[str, Any]) -> None:
        """Put the card: its numbers, its tables and the plots that lie in `out`."""
        if self._feed is None:
            return
        summary: dict[str, Any] = {"stopped": card["stopped"], "message": card["message"], "notice": card["notice"]}
        for name in NUMBERS:
            summary.update(_flat(name, card.get(name, {})))
        self._feed.put({"summary": summary})
        self._feed.put({"tables": {name: card[name] for name in TABLES if card.get(name)}})
        images = {f"plots/{path.stem}": str(path.resolve()) for path in sorted(out.glob("*.png"))}
        self._feed.put({"images": images})


def counters(status: Status) -> dict[str, float]:
    """The numbers of the live view, by name."""
    values: dict[str, float] = {"done": status.done, "total": status.total, "rejected": status.reasons.total()}
    if status.acceptance is not None:
        values["acceptance"] = status.acceptance
    if status.acceptance_of_rounds:
        values |= {"round": len(status.acceptance_of_rounds) - 1, "round_acceptance": status.acceptance_of_rounds[-1]}
    values |= {f"rejected_by_reason/{reason}": count for reason, count in status.reasons.items()}
    return values | {f"teacher/{name}": value for name, value in status.client.items()}


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested mappings as `prefix/key: number`; anything that is no number is left to the card."""
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _flat(f"{prefix}/{key}", inner).items()}
    return {prefix: value} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}
