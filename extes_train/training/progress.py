"""How far a run is: one bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from typing import Any

LINE_EVERY_S = 10.0  # between plain lines
# room for the detail within 80 columns, which is what one looks for
BAR = "{desc} {percentage:3.0f}% |{bar:8}| {n_fmt}/{total_fmt} {remaining} left{postfix}"


class Progress:
    """A bar on stderr, or a line every LINE_EVERY_S seconds and at the end. Silent unless `enabled` (rank 0)."""

    def __init__(self, description: str, total: int | None, start: int = 0, unit: str = "step", enabled: bool = True):
        self.description, self.total, self.unit, self.enabled = description, total, unit, enabled
        self.count, self.detail, self.last_line = start, "", 0.0
        self.said: tuple[int, str] | None = None  # what the last plain line told
        self.bar: Any = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            shape = BAR if total is not None else None
            self.bar = tqdm(
                total=total, initial=start, desc=description, unit=unit, dynamic_ncols=True, bar_format=shape
            )

    def update(self, detail: str = "", count: int = 1) -> None:
        """Go `count` on; `detail` is shown beside the bar."""
        self.count += count
        self.detail = detail or self.detail
        if self.bar is not None:
            self.bar.set_postfix_str(self.detail, refresh=False)
            self.bar.update(count)
        elif self.enabled and time.monotonic() - self.last_line > LINE_EVERY_S:
            self._line()

    def say(self, text: str) -> None:
        """A line of its own that does not break the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif self.enabled:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar, or write the last line."""
        if self.bar is not None:
            self.bar.close()
        elif self.enabled and self.said != (self.count, self.detail):
            self._line()
        self.enabled, self.bar = False, None

    def _line(self) -> None:
        self.last_line, self.said = time.monotonic(), (self.count, self.detail)
        total = f"/{self.total}" if self.total is not None else ""
        print(
            f"{self.description}: {self.unit} {self.count}{total} {self.detail}".rstrip(), file=sys.stderr, flush=True
        )
