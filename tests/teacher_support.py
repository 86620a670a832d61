"""The offline teacher's server inside a test's own event loop, and prompts for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from data_gen.config import ServeConfig
from data_gen.teacher.server import TeacherServer

SCHEMA = {"type": "object", "properties": {"turns": {"type": "array"}}, "required": ["turns"]}


def ask(number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "You write dialogues."},
        {
            "role": "user",
            "content": "Support strategies:\n- clarification: Ask.\n- affirmation: Praise.\n- offer-hope: Hope.\n\n"
            "Scenario: breakups-or-divorce — Breakups or Divorce\nUse these strategies: offer-hope\n"
            f"Number of utterances: 12\nRequest {number}\nAnswer with JSON only",
        },
    ]


@contextlib.asynccontextmanager
async def serving(config: ServeConfig | None = None) -> AsyncIterator[tuple[str, TeacherServer]]:
    """A teacher's server on a free port of this process."""
    server = TeacherServer(config or ServeConfig())
    async with serving_app(server.application()) as url:
        yield url, server


@contextlib.asynccontextmanager
async def serving_app(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
