"""Connects a window of work to the teacher: the endpoint, its counters, the live view. Started only if it is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_gen.budget import Budget, Spent
from data_gen.config import GenerateConfig, InpaintConfig, TeacherConfig
from data_gen.progress import Progress, Status
from data_gen.prompting import Messages
from data_gen.teacher.client import Completion, TeacherClient
from data_gen.teacher.serve import background_server
from data_gen.tracking import RunTracker
from data_gen.window import Request, Window, ticking
from extes_train.dialogue.files import digest_of
from extes_train.dialogue.taxonomy import Taxonomy
from extes_train.errors import BudgetReached, TeacherError

DECIDING_KEYS = ("model", "temperature", "max_tokens", "structured_output", "repair")  # what a reply depends on


def teacher_settings(teacher: TeacherConfig) -> dict[str, Any]:
    """The teacher's keys that belong to a journal's digest: address, limits, caps and prices may change."""
    return {key: getattr(teacher, key) for key in DECIDING_KEYS}


def taxonomy_digest(taxonomy: Taxonomy) -> str:
    """Digest of every scenario and strategy with its definition."""
    return digest_of(asdict(taxonomy))


async def ask_teacher(
    window: Window,
    teacher: TeacherConfig,
    config: GenerateConfig | InpaintConfig,
    status: Callable[[], Status],
    progress: Progress | None,
    tracker: RunTracker,
) -> None:
    """Ask the teacher for everything the window still wants. Raises BudgetReached, TeacherError, RunDirError."""
    if window.idle:
        return
    if config.mode == "batch" and window.work.longest_reply:
        teacher = replace(teacher, max_tokens=window.work.longest_reply)
    async with AsyncExitStack() as stack:
        shown = stack.enter_context(progress or Progress(enabled=False))
        budget = Budget(teacher, _spent(window), cost_factor=0.5 if config.mode == "batch" else 1.0)
        if teacher.base_url is None and teacher.url_file is None:
            if teacher.name != "offline":
                raise TeacherError(f"teacher.base_url: is needed for teacher={teacher.name}")
            url = stack.enter_context(background_server())
        else:
            url = teacher.base_url or await _url_from_file(teacher)
        client = await stack.enter_async_context(TeacherClient(teacher, url, budget))

        batch: dict[str, int] = {}

        def now() -> Status:
            found = status()
            found.client, found.currency, found.batch = client.snapshot(), teacher.currency, batch
            found.client["queued"] += len(window.queue)
            found.client["in_flight"] = max(found.client["in_flight"], budget.in_flight)  # lines of a batch too
            return found

        def show() -> None:
            moment = now()
            shown.update(moment)
            tracker.update(moment)

        async def ask(messages: Messages, schema: dict[str, Any], seed: int, max_tokens: int | None) -> Completion:
            return await client.complete(messages, schema=schema, seed=seed, max_tokens=max_tokens)

        show()
        try:
            async with ticking(show):
                if config.mode == "batch":
                    await _batches(window, client, config, batch.update)
                else:
                    await window.run_live(ask, min(teacher.concurrency, config.resolved_lag))
        finally:
            moment = now()
            shown.line(moment)
            tracker.update(moment, at_once=True)


async def _batches(
    window: Window,
    client: TeacherClient,
    config: GenerateConfig | InpaintConfig,
    polled: Callable[[dict[str, int]], None],
) -> None:
    from data_gen.teacher.batch import run_batch

    async def ask_many(requests: list[Request]) -> list[Completion]:
        completions = await run_batch(client, requests, config.batch_poll_s, polled)
        if not completions and client.budget.reached is not None:
            raise BudgetReached(*client.budget.reached.args)
        return completions

    await window.run_batches(ask_many)


def _spent(window: Window) -> Spent:
    """What earlier processes spent, from the journal: caps hold for the run, not for the process."""
    spent = Spent()
    for _, record in window.journal.records():
        if record["kind"] == "reply":
            spent.requests += record["attempts"]
            spent.prompt_tokens += record["tokens"][0]
            spent.completion_tokens += record["tokens"][1]
    return spent


async def _url_from_file(teacher: TeacherConfig) -> str:
    """The base URL that a teacher job writes to `url_file` once it serves."""
    path = Path(str(teacher.url_file))
    until = time.monotonic() + teacher.url_wait_s
    while time.monotonic() < until:
        if path.is_file() and (url := path.read_text(encoding="utf-8").strip()):
            return url
        await asyncio.sleep(min(1.0, teacher.url_wait_s / 10))
    raise TeacherError(f"teacher.url_file={path}: no address in it after {teacher.url_wait_s:g} s; did the job start?")


__all__ = ["BudgetReached", "ask_teacher", "taxonomy_digest", "teacher_settings"]
