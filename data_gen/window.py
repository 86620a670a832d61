"""Requests in any order, results in one: the loop that generation and inpainting share.

Work is a list of items, numbered as they are planned. Replies are judged and journalled as they arrive and committed in
the order of the items, so a run is a function of the replies alone. An item whose record is already in the journal is
not asked again: resuming is the same loop, fed from the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar

from data_gen.journal import Journal, Span
from data_gen.prompting import Messages, prompt_sha256
from data_gen.teacher.client import Completion
from extes_train.errors import BudgetReached, RunDirError

GRACE_S = 2.0  # for requests in flight when another one has failed for good

Record = dict[str, Any]


class Item(Protocol):
    """What is asked for; `index` counts from 0 in the order of planning."""

    index: int
    seed: int


T = TypeVar("T", bound=Any)


class Work(Protocol[T]):
    """The state machine that the loop drives."""

    schema: dict[str, Any]
    longest_reply: int | None  # the largest `max_tokens`, for batches, which have one for all

    @property
    def done(self) -> bool: ...

    def plan(self) -> list[T]: ...

    def messages(self, item: T) -> Messages: ...

    def max_tokens(self, item: T) -> int | None:
        """Length of the reply, where it is not the teacher's `max_tokens`."""
        ...

    def judge(self, item: T, prompt: str, completion: Completion) -> tuple[Record, Any]:
        """The journal record of a reply and what it was found to be, without looking at the pool."""
        ...

    def restore(self, item: T, record: Record) -> Any:
        """What `judge` found, from its journal record."""
        ...

    def commit(self, item: T, outcome: Any, span: Span) -> Record | None:
        """Take the next item's outcome; returns the verdict to journal, if there is one to add."""
        ...

    def salvage(self, item: T, outcome: Any, span: Span) -> None:
        """Take an outcome out of order, because nothing will come after it."""
        ...


Request = tuple[Messages, dict[str, Any] | None, int | None]  # messages, schema, seed
Ask = Callable[..., Awaitable[Completion]]  # of the parts of a Request and max_tokens


class Window:
    """One run of `work` against `journal`."""

    def __init__(self, work: Work[Any], journal: Journal) -> None:
        self.work, self.journal = work, journal
        self.queue: deque[tuple[Any, Messages, str]] = deque()  # planned, not yet asked
        self.reused = 0  # items whose record was in the journal
        self._known = _Spans()
        self._verdicts = 0  # verdicts already in the journal
        self._arrived: dict[int, tuple[Any, Any, Span]] = {}
        self._next = 0
        self._planned = 0
        self._stopping = False
        self._wake = asyncio.Event()
        for span, record in journal.records():
            if record["kind"] == "reply":
                self._known.put(record["index"], span)
            elif record["kind"] == "verdict":
                self._verdicts = max(self._verdicts, record["index"] + 1)

    def advance(self) -> None:
        """Commit whatever is next in line and plan what that allows, until something has to be asked."""
        self._plan()
        while not self.work.done and self._next in self._arrived:
            item, outcome, span = self._arrived.pop(self._next)
            verdict = self.work.commit(item, outcome, span)
            if verdict is not None and self._next >= self._verdicts:
                self.journal.append({"kind": "verdict", "index": self._next, **verdict})
            self._next += 1
            self._plan()
        if self.work.done:
            self.queue.clear()
        self._wake.set()

    @property
    def idle(self) -> bool:
        """True when nothing is left to ask or to wait for."""
        return self.work.done or (not self.queue and self._next == self._planned and not self._arrived)

    async def run_live(self, ask: Ask, workers: int) -> None:
        """Ask with up to `workers` requests at a time until the work is done. The first error ends it."""
        with rare_collections():
            await self._run_live(ask, workers)

    async def _run_live(self, ask: Ask, workers: int) -> None:
        tasks = [asyncio.create_task(self._worker(ask)) for _ in range(workers)]
        try:
            finished, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            error = next((e for task in finished if (e := task.exception()) is not None), None)
            if error is not None and waiting:  # what was paid for is still taken
                await asyncio.wait(waiting, timeout=None if isinstance(error, BudgetReached) else GRACE_S)
            if error is not None:
                raise error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run_batches(self, ask_many: Callable[..., Awaitable[list[Completion]]]) -> None:
        """Ask for everything that may be asked, as one batch after another, until the work is done."""
        while not self.idle:
            items = list(self.queue)
            self.queue.clear()
            requests: list[Request] = [(messages, self.work.schema, item.seed) for item, messages, _ in items]
            completions = await ask_many(requests)
            for (item, _, prompt), completion in zip(items, completions):
                self._take(item, prompt, completion)
            if len(completions) < len(items):
                self.advance()
                raise BudgetReached("a cap allows no more than a part of the batch")
            self.advance()

    def salvage(self) -> None:
        """After a stop at a cap: commit what arrived behind a gap too. The journal stays as it is, so that a run with a
        higher cap goes on as if there had been no stop."""
        for index in sorted(self._arrived):
            item, outcome, span = self._arrived[index]
            self.work.salvage(item, outcome, span)
        self._arrived.clear()

    async def _worker(self, ask: Ask) -> None:
        while not self.idle and not self._stopping:
            if not self.queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            item, messages, prompt = self.queue.popleft()
            try:
                completion = await ask(messages, self.work.schema, item.seed, self.work.max_tokens(item))
            except BaseException:
                self._stopping = True
                self._wake.set()
                raise
            self._take(item, prompt, completion)
            self.advance()

    def _take(self, item: Any, prompt: str, completion: Completion) -> None:
        record, outcome = self.work.judge(item, prompt, completion)
        span = self.journal.append({"kind": "reply", "index": item.index, "prompt_sha256": prompt, **record})
        self._arrived[item.index] = (item, outcome, span)

    def _plan(self) -> None:
        for item in self.work.plan():
            self._planned = item.index + 1
            messages = self.work.messages(item)
            prompt = prompt_sha256(messages)
            span = self._known.get(item.index)
            if span is None:
                self.queue.append((item, messages, prompt))
                continue
            record = self.journal.read(span)
            if record.get("prompt_sha256") != prompt:
                raise RunDirError(
                    f"{self.journal.path}: record {item.index} answers another prompt than this version writes; "
                    f"choose another `out`"
                )
            self.reused += 1
            try:
                self._arrived[item.index] = (item, self.work.restore(item, record), span)
            except (KeyError, TypeError, ValueError) as error:
                raise RunDirError(
                    f"{self.journal.path}: record {item.index} was damaged or edited ({error}); restore the file, or "
                    f"choose another `out`"
                ) from error


class _Spans:
    """index -> span in 16 bytes each."""

    def __init__(self) -> None:
        self._starts, self._lengths = array("q"), array("q")

    def put(self, index: int, span: Span) -> None:
        while len(self._starts) <= index:
            self._starts.append(-1)
            self._lengths.append(0)
        if self._starts[index] < 0:
            self._starts[index], self._lengths[index] = span

    def get(self, index: int) -> Span | None:
        if index >= len(self._starts) or self._starts[index] < 0:
            return None
        return self._starts[index], self._lengths[index]


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Look for cycles of garbage after 50,000 new objects instead of 700 or 2,000: the pool only grows, and walking it
    so often costs a tenth of the time."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextlib.asynccontextmanager
async def ticking(update: Callable[[], None], every_s: float = 0.25) -> Any:
    """Call `update` now and then while the body runs, and once at its end."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(every_s)
            update()

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        update()
