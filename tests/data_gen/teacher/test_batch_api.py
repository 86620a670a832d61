"""The Batch API, client against server on loopback."""

from __future__ import annotations

import asyncio
import json

import pytest
from teacher_support import SCHEMA, ask, serving

from data_gen.budget import Budget
from data_gen.config import FaultsConfig, ServeConfig, TeacherConfig
from data_gen.teacher.batch import run_batch
from data_gen.teacher.client import TeacherClient
from extes_train.errors import BudgetReached, TeacherError

REQUESTS = [(ask(i), SCHEMA, i) for i in range(20)]


async def test_a_batch_says_what_live_requests_say_for_half_the_price() -> None:
    faults = FaultsConfig(rate_garbage=0.2, rate_length=0.1)
    config = TeacherConfig(price_per_million_prompt_tokens=1.0, price_per_million_completion_tokens=2.0)
    polls: list[dict[str, int]] = []
    async with serving(ServeConfig(faults=faults)) as (url, server):
        async with TeacherClient(config, url) as client:
            live = [await client.complete(m, schema=s, seed=i) for m, s, i in REQUESTS]
        live_requests = server.requests
        async with TeacherClient(config, url, Budget(config, cost_factor=0.5)) as half:
            batch = await run_batch(half, REQUESTS, 0.01, polls.append)
    assert [(b.text, b.parsed, b.finish_reason) for b in batch] == [(r.text, r.parsed, r.finish_reason) for r in live]
    assert server.requests - live_requests == half.stats.repairs == client.stats.repairs > 0
    assert half.budget.cost == pytest.approx(client.budget.cost / 2) and client.budget.cost > 0
    assert half.budget.spent == client.budget.spent and half.budget.in_flight == 0
    assert polls and polls[-1]["completed"] == 20


async def test_lines_that_fail_are_sent_again_and_a_killed_run_finds_its_batch() -> None:
    async with serving() as (url, server), TeacherClient(TeacherConfig(), url) as client:
        answer, broken = server.desk._answer, {0, 7}

        def sometimes(raw: bytes) -> tuple[int, dict[str, object]]:
            seed = json.loads(raw)["seed"]
            if seed in broken:
                broken.discard(seed)
                return 500, {"error": {"message": "planned"}}
            return answer(raw)

        server.desk._answer = sometimes
        first = asyncio.create_task(run_batch(client, REQUESTS, 30.0))
        while not server.desk._batches:
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        batch = await run_batch(client, REQUESTS, 0.01)
        counts = [value["request_counts"] for value in server.desk._batches.values()]
    assert counts == [{"total": 20, "completed": 18, "failed": 2}, {"total": 2, "completed": 2, "failed": 0}]
    assert [item.attempts for item in batch[:3]] == [2, 1, 1] and all(item.parsed for item in batch)


async def test_caps_hold_for_batches() -> None:
    config = TeacherConfig(max_requests=5)
    async with serving() as (url, server), TeacherClient(config, url) as client:
        assert len(await run_batch(client, REQUESTS, 0.01)) == 5
        with pytest.raises(BudgetReached, match="max_requests=5"):
            await run_batch(client, REQUESTS, 0.01)
        assert [value["request_counts"]["total"] for value in server.desk._batches.values()] == [5]


async def test_a_failed_batch_says_why() -> None:
    async with serving() as (url, server), TeacherClient(TeacherConfig(), url) as client:
        real = client.body
        client.body = lambda *args: "no object"  # type: ignore[method-assign, assignment, return-value]
        with pytest.raises(TeacherError, match="failed in every batch"):
            await run_batch(client, REQUESTS[:2], 0.001)
        client.body = real  # type: ignore[method-assign]
        uploaded = server.desk._store(b'{"x": 1}\n', "bad.jsonl", "batch")
        wanted = json.dumps({"input_file_id": uploaded["id"]}).encode()
        batch = await client.request_json("POST", "/batches", wanted)
        await asyncio.sleep(0.01)
        ended = await client.request_json("GET", f"/batches/{batch['id']}")
        assert ended["status"] == "failed" and "custom_id" in ended["errors"]["data"][0]["message"]
