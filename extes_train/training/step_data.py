"""The data of a step, made ahead of time: windows -> trees -> packed rows -> this rank's micro-batches.

Every rank packs the whole step and takes its share, so that all of them know the step's counts without asking.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from extes_train.model.batch import RowBatch, row_batch_from_arrays
from extes_train.tokens.dataset import TokenDataset
from extes_train.tokens.rows import deal_rows, pack_rows
from extes_train.tokens.tree import flat_pairs
from extes_train.training.step_plan import StepPlan

STEPS_AHEAD = 2


@dataclass(frozen=True)
class Share:
    """What one rank needs of a step. Counts are of the whole step, all ranks together."""

    step: int  # counted from 0
    rows: list[RowBatch]  # this rank's micro-batches: as many on every rank
    local_weight: float  # sum of target weights in `rows`
    tokens: int
    computed_tokens: int  # with the filling of empty rows
    flat_tokens: int
    targets: int
    pairs: int  # visible (query, key) pairs, of attention's cost
    flat_pairs: int
    dialogues: int


class StepSource:
    """Makes the share of any step; holds no state but what it was built with."""

    def __init__(
        self,
        dataset: TokenDataset,
        plan: StepPlan,
        tokens_per_row: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        hidden_size: int = 4096,
    ) -> None:
        self.dataset, self.plan, self.tokens_per_row = dataset, plan, tokens_per_row
        self.rank, self.world_size, self.device = rank, world_size, device
        self.hidden_size = hidden_size

    def share(self, step: int) -> Share:
        """This rank's share of step `step`, longest row first."""
        windows = self.plan.windows(step)
        return self.share_of(windows, step)

    def share_of(self, windows: Sequence[int], step: int = 0) -> Share:
        """This rank's share of any windows."""
        trees = [tree for window in windows for tree in self.dataset.trees(window)]
        rows = pack_rows(trees, self.tokens_per_row, multiple_of=self.world_size)
        dealt = deal_rows(rows, self.world_size, self.dataset.empty_token, self.hidden_size)
        mine = sorted(dealt[self.rank], key=lambda row: -len(row.ids_T))
        return Share(
            step=step,
            rows=[row_batch_from_arrays(row, self.device) for row in mine],
            local_weight=float(sum(row.weight_Q.sum(dtype="float64") for row in mine)),
            tokens=sum(row.num_tokens for row in rows),
            computed_tokens=sum(len(row.ids_T) for share in dealt for row in share),
            flat_tokens=sum(self.dataset.flat_tokens(window) for window in windows),
            targets=sum(row.num_targets for row in rows),
            pairs=sum(row.attention_pairs for row in rows),
            flat_pairs=sum(flat_pairs(self.dataset.windows[window]) for window in windows),
            dialogues=len(windows),
        )

    def longest_row(self) -> RowBatch:
        """The fullest row that the longest windows make, with weights of 0: what memory must hold."""
        longest = sorted(range(len(self.dataset)), key=lambda i: -self.dataset.flat_tokens(i))
        chosen, total = [], 0
        for window in longest:
            chosen += self.dataset.trees(window)
            total += sum(map(len, chosen))
            if total >= self.tokens_per_row:
                break
        row = max(pack_rows(chosen, self.tokens_per_row), key=lambda row: len(row.ids_T))
        return row_batch_from_arrays(dataclasses.replace(row, weight_Q=row.weight_Q * 0), self.device)


class Ahead:
    """The shares of steps start, start + 1, … made by a thread STEPS_AHEAD steps ahead. Close it when done."""

    def __init__(self, source: StepSource, start: int, stop: int | None) -> None:
        self.source, self.start, self.stop = source, start, stop
        self.queue: queue.Queue[Any] = queue.Queue(STEPS_AHEAD)
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._make, name="steps-ahead", daemon=True)
        self.thread.start()

    def __iter__(self) -> Iterator[Share]:
        while (item := self.queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """End the thread."""
        self.closed.set()
        while not self.queue.empty():
            self.queue.get_nowait()
        self.thread.join(10.0)

    def _make(self) -> None:
        step = self.start
        try:
            while self.stop is None or step < self.stop:
                if not self._put(self.source.share(step)):
                    return
                step += 1
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self.closed.is_set():
            try:
                self.queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False
