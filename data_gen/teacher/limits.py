"""Who may send a request, and when: concurrency, requests and tokens per minute, and the slow-down after a 429.

Everything waits in one queue, here. The endpoint's time-out starts only once a request has left this queue.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections import deque

REFUSAL_MEMORY = 1 / 16  # weight of the newest answer in the running share of 429
WALL_SHARE = 0.3  # above this share of 429 the endpoint is closed, below it is merely busy
LONGEST_WAIT_S = 3600.0


def retry_after_s(value: str | None, now: float | None = None) -> float | None:
    """Seconds to wait by a Retry-After header: a number or an HTTP date; None where it is neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        seconds = moment.timestamp() - (time.time() if now is None else now)
    if seconds != seconds:
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


class Pace:
    """A token bucket kept as one number: the moment at which what was granted so far would be paid for.

    `burst_s` is how many seconds' worth may be granted at once.
    """

    def __init__(self, per_minute: float, burst_s: float = 1.0) -> None:
        self.second_per_unit = 60.0 / per_minute if per_minute > 0 else float("inf")
        self.burst_s = max(burst_s, self.second_per_unit) if per_minute > 0 else burst_s
        self.paid_at = 0.0

    def wait_s(self, now: float) -> float:
        """How long until something may be granted again (<= 0: now)."""
        return self.paid_at - now - self.burst_s + min(self.second_per_unit, self.burst_s)

    def take(self, amount: float, now: float) -> None:
        """Grant `amount`; a negative amount gives back."""
        self.paid_at = max(self.paid_at, now) + amount * self.second_per_unit


class Gate:
    """Grants requests a place in flight, oldest first; refused ones come back to the front.

    A 429 slows everyone: the width (requests in flight) shrinks by a quarter and grows again by one for each answer.
    While more than 30 % of the recent answers are 429, the gate is shut for all until the Retry-After is over. The
    refused request itself always waits its Retry-After.
    """

    def __init__(self, concurrency: int, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.maximum = concurrency
        self.width = float(concurrency)
        self.in_flight = 0
        self.shut_until = 0.0
        self.refusal_share = 0.0
        self._requests = Pace(requests_per_minute) if requests_per_minute else None
        self._tokens = Pace(tokens_per_minute) if tokens_per_minute else None
        self._queue: deque[tuple[asyncio.Future[None], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._clock = time.monotonic

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def cooling_s(self) -> float:
        """Seconds until the gate opens again; 0 when it is open."""
        return max(0.0, self.shut_until - self._clock())

    async def enter(self, tokens: float, front: bool = False) -> None:
        """Wait for a place in flight. `tokens` is the estimate for the tokens-per-minute limit."""
        if not self._queue and self._may_pass():
            self._grant(tokens)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._queue.appendleft if front else self._queue.append)((future, tokens))
        self._dispatch()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """The request's answer is there, or it failed."""
        self.in_flight -= 1
        if self._queue:
            self._dispatch()

    def answered(self) -> None:
        """The endpoint took a request: widen again."""
        self.refusal_share *= 1 - REFUSAL_MEMORY
        if self.width < self.maximum:
            self.width = min(self.width + 1, float(self.maximum))

    def refused(self, wait_s: float) -> None:
        """The endpoint answered 429 and asked for `wait_s`."""
        self.refusal_share += (1 - self.refusal_share) * REFUSAL_MEMORY
        self.width = max(self.width * 0.75, 1.0)
        if self.refusal_share > WALL_SHARE:
            self.shut_until = max(self.shut_until, self._clock() + wait_s)

    def correct(self, tokens: float) -> None:
        """The endpoint counted `tokens` more (or fewer) than was estimated on entering."""
        if self._tokens is not None:
            self._tokens.take(tokens, self._clock())

    def fail_waiting(self, error: Exception) -> None:
        """Let nobody pass any more: each waiter gets `error`."""
        while self._queue:
            future, _ = self._queue.popleft()
            if not future.done():
                future.set_exception(error)

    def _wait_s(self) -> float:
        if not self.shut_until and self._requests is None and self._tokens is None:
            return 0.0
        now = self._clock()
        wait = self.shut_until - now
        if self._requests is not None:
            wait = max(wait, self._requests.wait_s(now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait_s(now))
        if wait <= 0:
            self.shut_until = 0.0
        return wait

    def _may_pass(self) -> bool:
        return self.in_flight < int(self.width) and self._wait_s() <= 0

    def _grant(self, tokens: float) -> None:
        self.in_flight += 1
        if self._requests is not None:
            self._requests.take(1, self._clock())
        if self._tokens is not None:
            self._tokens.take(tokens, self._clock())

    def _dispatch(self) -> None:
        """Let in whoever may pass; where only time is missing, come back then."""
        while self._queue and self.in_flight < int(self.width):
            if self._queue[0][0].done():  # cancelled while it waited
                self._queue.popleft()
                continue
            wait = self._wait_s()
            if wait > 0:
                self._come_back(wait)
                return
            future, tokens = self._queue.popleft()
            self._grant(tokens)
            future.set_result(None)

    def _come_back(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + wait_s and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = loop.call_later(min(wait_s, 3600.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatch()
