"""The client against the real server on loopback, in this process and in one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from aiohttp import web
from teacher_support import SCHEMA, ask, serving, serving_app

from data_gen.budget import Budget
from data_gen.config import FaultsConfig, ServeConfig, TeacherConfig
from data_gen.environment import child_environment
from data_gen.teacher.client import TeacherClient
from data_gen.teacher.offline.teacher import ABOUT, MODEL
from data_gen.teacher.serve import background_server, run_server
from extes_train.errors import BudgetReached, TeacherError


async def test_asks_and_parses() -> None:
    async with serving() as (url, _), TeacherClient(TeacherConfig(), url) as client:
        completion = await client.complete(ask(1), schema=SCHEMA, seed=3)
        again = await client.complete(ask(1), schema=SCHEMA, seed=3)
        other = await client.complete(ask(1), schema=SCHEMA, seed=4)
    assert completion.finish_reason == "stop" and completion.attempts == 1 and not completion.repaired
    assert completion.parsed is not None and 10 <= len(completion.parsed["turns"]) <= 14
    assert completion.prompt_tokens > 20 and completion.completion_tokens > 100
    assert completion.text == again.text != other.text
    assert client.budget.spent.requests == 3 and client.snapshot()["answered"] == 3
    assert client.budget.spent.tokens == client.snapshot()["prompt_tokens"] + client.snapshot()["completion_tokens"]


async def test_every_fault_of_the_way_is_survived_and_changes_nothing() -> None:
    faults = FaultsConfig(
        rate_429=0.06, retry_after_s=0.05, rate_500=0.06, rate_hang=0.02, hang_s=5, rate_reset=0.05, rate_truncated=0.05
    )
    config = TeacherConfig(concurrency=32, timeout_s=0.5)
    async with serving() as (url, _), TeacherClient(config, url) as client:
        expected = [c.text for c in await asyncio.gather(*(client.complete(ask(i)) for i in range(200)))]
    async with serving(ServeConfig(faults=faults)) as (url, server), TeacherClient(config, url) as client:
        got = [c.text for c in await asyncio.gather(*(client.complete(ask(i)) for i in range(200)))]
    assert got == expected
    assert set(server.faults.counts) == {"429", "500", "hang", "reset", "truncated"}
    retries = client.stats.retries
    assert {"429", "500", "timeout", "reset", "truncated"} <= set(retries)
    assert sum(retries.values()) == sum(server.faults.counts.values())
    assert client.budget.spent.requests == 200 + sum(retries.values()) - retries["429"]


async def test_what_is_said_wrongly_does_not_depend_on_the_way() -> None:
    faults = FaultsConfig(rate_garbage=0.2, rate_refusal=0.1, rate_length=0.1, rate_content_filter=0.1, seed=5)
    results = []
    for extra in (0.0, 0.1):
        config = ServeConfig(faults=replace(faults, rate_500=extra))
        async with serving(config) as (url, _), TeacherClient(TeacherConfig(max_attempts=20), url) as client:
            replies = await asyncio.gather(*(client.complete(ask(i), schema=SCHEMA) for i in range(60)))
        results.append([(reply.finish_reason, reply.parsed, reply.repaired) for reply in replies])
    assert results[0] == results[1]
    reasons = [reason for reason, _, _ in results[0]]
    assert {"stop", "length", "content_filter", "refusal"} == set(reasons)
    assert any(repaired and parsed for _, parsed, repaired in results[0])
    assert all(parsed is None for reason, parsed, _ in results[0] if reason != "stop")


@pytest.mark.parametrize("date", [False, True])
async def test_retry_after_is_waited_for(date: bool) -> None:
    faults = FaultsConfig(rate_429=1.0, retry_after_s=2.0 if date else 0.5, retry_after_date=date)
    async with (
        serving(ServeConfig(faults=faults)) as (url, server),
        TeacherClient(TeacherConfig(max_attempts=1), url) as client,
    ):
        task = asyncio.create_task(client.complete(ask(1)))
        await asyncio.sleep(0.3)
        assert server.requests == 1
        server.faults = type(server.faults)(FaultsConfig())
        started = time.monotonic()
        assert (await task).attempts == 2
        assert time.monotonic() - started > 0.1
    assert client.stats.retries["429"] == 1 and client.budget.spent.requests == 1


async def test_a_closed_endpoint_closes_the_gate_for_all() -> None:
    faults = FaultsConfig(rate_429=1.0, retry_after_s=0.6)
    async with (
        serving(ServeConfig(faults=faults)) as (url, server),
        TeacherClient(TeacherConfig(concurrency=16), url) as client,
    ):
        tasks = [asyncio.create_task(client.complete(ask(i))) for i in range(100)]
        await asyncio.sleep(0.4)
        assert server.requests <= 16 + 8 and client.snapshot()["queued"] >= 70 and client.gate.cooling_s > 0
        server.faults = type(server.faults)(FaultsConfig())
        assert len(await asyncio.gather(*tasks)) == 100


async def test_wrong_key_stops_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SERVER_KEY", "right")
    monkeypatch.setenv("MY_KEY", "sk-wrong-secret")
    config = TeacherConfig(key_variable="MY_KEY", concurrency=4)
    async with serving(ServeConfig(api_key="SERVER_KEY")) as (url, server), TeacherClient(config, url) as client:
        replies = await asyncio.gather(*(client.complete(ask(i)) for i in range(50)), return_exceptions=True)
        assert server.requests == 0 and client.stats.sent <= 4
    assert all(isinstance(reply, TeacherError) for reply in replies)
    assert "teacher.key_variable=MY_KEY: was refused (HTTP 401" in str(replies[0])
    assert "sk-wrong" not in str(replies) + "".join(capfd.readouterr())
    monkeypatch.setenv("MY_KEY", "right")
    async with serving(ServeConfig(api_key="SERVER_KEY")) as (url, _), TeacherClient(config, url) as client:
        assert (await client.complete(ask(1))).finish_reason == "stop"


async def test_an_address_without_v1_is_told() -> None:
    async with serving() as (url, _), TeacherClient(TeacherConfig(), url.removesuffix("/v1")) as client:
        with pytest.raises(TeacherError, match=rf"nothing is served there \(HTTP 404\); .*{url}$"):
            await client.complete(ask(1))


async def test_unknown_model_names_the_known_ones() -> None:
    async with serving() as (url, server), TeacherClient(TeacherConfig(model="offline-teachr"), url) as client:
        with pytest.raises(TeacherError, match=r"teacher\.model='offline-teachr': unknown .*did you mean"):
            await client.complete(ask(1))
        assert server.requests == 1


async def test_unreachable_endpoint() -> None:
    async with TeacherClient(TeacherConfig(), "http://127.0.0.1:9/v1") as client:
        with pytest.raises(TeacherError, match=r"teacher\.base_url=http://127.0.0.1:9/v1: cannot be reached"):
            await client.complete(ask(1))
    with pytest.raises(TeacherError, match="must start with http"):
        TeacherClient(TeacherConfig(), "localhost:8000")


async def test_caps_are_hard() -> None:
    async with serving() as (url, server):
        async with TeacherClient(TeacherConfig(max_requests=20, concurrency=8), url) as client:
            replies = await asyncio.gather(*(client.complete(ask(i)) for i in range(60)), return_exceptions=True)
        assert server.requests == 20
        assert sum(isinstance(reply, BudgetReached) for reply in replies) == 40
        one = replies[0].prompt_tokens + replies[0].completion_tokens  # type: ignore[union-attr]
        config = TeacherConfig(max_total_tokens=one * 10, concurrency=8)
        async with TeacherClient(config, url) as client:
            replies = await asyncio.gather(*(client.complete(ask(i)) for i in range(60)), return_exceptions=True)
        assert one * 8 < client.budget.spent.tokens < one * 18
        config = TeacherConfig(max_cost=0.001, price_per_million_completion_tokens=1.0, concurrency=1)
        async with TeacherClient(config, url) as client:
            for i in range(20):
                with contextlib.suppress(BudgetReached):
                    await client.complete(ask(i))
        assert 0.0008 < client.budget.cost < 0.0016


async def test_server_without_structured_output_is_noticed_once() -> None:
    async with (
        serving(ServeConfig(structured_output=False)) as (url, server),
        TeacherClient(TeacherConfig(), url) as client,
    ):
        assert (await client.complete(ask(1), schema=SCHEMA)).parsed
        assert (await client.complete(ask(2), schema=SCHEMA)).parsed
    assert server.requests == 3 and client.stats.sent == 3


async def test_requests_per_minute() -> None:
    async with (
        serving() as (url, _),
        TeacherClient(TeacherConfig(requests_per_minute=600, concurrency=64), url) as client,
    ):
        started = time.monotonic()
        await asyncio.gather(*(client.complete(ask(i)) for i in range(20)))
        seconds = time.monotonic() - started
    assert 0.8 < seconds < 2.5  # ten at once, the other ten at ten a second


async def test_a_prompt_that_is_too_long_and_other_refusals() -> None:
    answers = iter(
        [
            (400, {"error": {"message": "This model's maximum context length is 4096 tokens"}}),
            (400, {"error": {"message": "flagged", "code": "content_filter"}}),
            (400, {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."}}),
            (200, {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}),
            (429, {"error": {"message": "no money left", "code": "insufficient_quota"}}),
        ]
    )
    seen = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(await request.json())
        status, value = next(answers)
        return web.json_response(value, status=status)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    async with serving_app(app) as url, TeacherClient(TeacherConfig(), url) as client:
        assert (await client.complete(ask(1))).finish_reason == "context_length"
        assert (await client.complete(ask(1))).finish_reason == "content_filter"
        assert (await client.complete(ask(1))).finish_reason == "refusal"
        assert "max_tokens" in seen[2] and seen[3]["max_completion_tokens"] == 2048
        with pytest.raises(TeacherError, match="no money left"):
            await client.complete(ask(1))


def test_server_in_its_own_process_dies_with_us(tmp_path: os.PathLike[str]) -> None:
    code = (
        "import time; from data_gen.teacher.serve import background_server\n"
        "with background_server() as url: print(url, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=child_environment())
    assert parent.stdout is not None
    url = parent.stdout.readline().decode().strip()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    async def gone() -> bool:
        async with TeacherClient(TeacherConfig(), url) as client:
            for _ in range(50):
                if not await client.models():
                    return True
                await asyncio.sleep(0.1)
        return False

    assert asyncio.run(gone())


def test_openai_sdk_is_a_client_of_our_server(tmp_path: os.PathLike[str]) -> None:
    openai = pytest.importorskip("openai")
    url_file = os.path.join(tmp_path, "url")
    with background_server(ServeConfig(port=0, url_file=url_file)) as url:
        with open(url_file, encoding="utf-8") as file:
            assert file.read().strip() == url
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        try:
            assert [model.id for model in client.models.list()] == [MODEL]
            reply = client.chat.completions.create(model=MODEL, messages=ask(1), seed=3)
            chunks = client.chat.completions.create(model=MODEL, messages=ask(1), seed=3, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert streamed == reply.choices[0].message.content and len(streamed) > 500
            who = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Who are you?"}])
            assert who.choices[0].message.content == ABOUT and "no language model" in ABOUT
        finally:
            client.close()
    assert not os.path.exists(url_file)


def test_budget_of_a_resumed_run_starts_where_it_was() -> None:
    from data_gen.budget import Spent

    budget = Budget(TeacherConfig(max_requests=10), Spent(requests=9))
    budget.admit()
    with pytest.raises(BudgetReached, match=r"teacher\.max_requests=10"):
        budget.admit()


def test_a_port_that_is_taken_says_what_to_do() -> None:
    with background_server() as url:
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(TeacherError, match=rf"serve.port={port}: .*Address already in use.*; choose another"):
            run_server(ServeConfig(port=port))
