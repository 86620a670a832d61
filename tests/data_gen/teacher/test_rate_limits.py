"""The gate in front of the endpoint, with a clock of its own."""

from __future__ import annotations

import asyncio
import email.utils

import pytest

from data_gen.teacher.limits import Gate, Pace, retry_after_s


def test_retry_after_in_both_forms() -> None:
    now = 1_700_000_000.0
    assert retry_after_s("2") == 2.0 and retry_after_s("0.25") == 0.25
    assert retry_after_s(email.utils.formatdate(now + 7, usegmt=True), now) == pytest.approx(7.0)
    assert retry_after_s(email.utils.formatdate(now - 7, usegmt=True), now) == 0.0
    assert retry_after_s(None) is None and retry_after_s("soon") is None and retry_after_s("nan") is None
    assert retry_after_s("999999") == 3600.0


def test_pace_keeps_the_rate_after_a_burst() -> None:
    pace, now, granted = Pace(per_minute=600), 100.0, []
    while now < 110.0:
        wait = pace.wait_s(now)
        if wait > 1e-9:
            now += wait
            continue
        pace.take(1, now)
        granted.append(now)
    assert len([moment for moment in granted if moment == 100.0]) == 10  # a second's worth at once
    assert len(granted) == pytest.approx(10 + 100, abs=1)


def test_pace_charges_what_was_really_used() -> None:
    pace = Pace(per_minute=6000)
    pace.take(1000, 0.0)
    assert pace.wait_s(0.0) == pytest.approx(9.0, abs=0.02)
    pace.take(-900, 0.0)
    assert pace.wait_s(0.0) <= 0.02


async def test_oldest_first_and_refused_ones_to_the_front() -> None:
    gate, order = Gate(1, None, None), []

    async def one(name: str, front: bool) -> None:
        await gate.enter(0, front)
        order.append(name)
        await asyncio.sleep(0)
        gate.leave()

    await gate.enter(0)
    tasks = [asyncio.create_task(one(name, name == "back again")) for name in ("a", "b", "back again")]
    await asyncio.sleep(0)
    assert gate.queued == 3 and gate.in_flight == 1
    tasks[1].cancel()
    await asyncio.sleep(0)
    gate.leave()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["back again", "a"] and gate.in_flight == 0


async def test_a_429_narrows_and_answers_widen() -> None:
    gate = Gate(64, None, None)
    gate.refused(5.0)
    assert int(gate.width) == 48 and gate.cooling_s == 0.0  # one refusal: slower, not shut
    for _ in range(16):
        gate.answered()
    assert gate.width == 64
    for _ in range(7):
        gate.refused(5.0)
    assert gate.cooling_s > 4 and gate.width < 10  # a wall: shut for all
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(gate.enter(0), 0.05)


async def test_waiters_hear_of_a_fatal_error() -> None:
    gate = Gate(1, None, None)
    await gate.enter(0)
    task = asyncio.create_task(gate.enter(0))
    await asyncio.sleep(0)
    gate.fail_waiting(ValueError("no key"))
    with pytest.raises(ValueError, match="no key"):
        await task
