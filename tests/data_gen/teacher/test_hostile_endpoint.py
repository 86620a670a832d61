"""The client against endpoints that answer in ways no specification allows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from teacher_support import SCHEMA, ask, serving_app

from data_gen.config import TeacherConfig
from data_gen.teacher import client as client_module
from data_gen.teacher.client import TeacherClient
from data_gen.teacher.http import TransportError, check_address
from data_gen.teacher.reply import read_completion, reason_of, status_within
from extes_train.errors import TeacherError

KEY = "sk-a-key-nobody-may-see"


def application(chat: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    return app


def body(text: object = '{"a": 1}', reason: str | None = "stop", usage: object = None) -> dict:
    return {"choices": [{"message": {"content": text}, "finish_reason": reason}], "usage": usage}


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [1],
        "none",
        {"prompt_tokens": -5},
        {"prompt_tokens": 10**30},
        {"prompt_tokens": "x"},
        {"prompt_tokens": {}},
    ],
)
def test_token_counts_without_sense_are_guessed(usage: object) -> None:
    completion = read_completion(json.dumps(body("x" * 40, usage=usage)).encode(), b"r" * 400)
    assert (completion.prompt_tokens, completion.completion_tokens) == (100, 10)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\xef\xbb\xbf" + json.dumps(body("ok")).encode(), "ok"),
        (json.dumps(body("ok")).encode("utf-16"), "ok"),
        (json.dumps(body("ok")).replace('"usage"', '"x": NaN, "usage"').encode(), "ok"),
        (json.dumps(body("half \ud83d")).encode(), "half �"),
        (json.dumps(body("é"), ensure_ascii=False).encode("latin-1"), "�"),
        (json.dumps(body([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}])).encode(), "in parts"),
        (json.dumps(body(None)).encode(), ""),
    ],
)
def test_bodies_that_are_almost_json_are_read(raw: bytes, text: str) -> None:
    completion = read_completion(raw, b"")
    assert completion.text == text and json.dumps(completion.text, ensure_ascii=False).encode()


@pytest.mark.parametrize("raw", [b"", b"null", b'"a"', b'{"choices": []}', b'{"choices": null}', b"[" * 100_000])
def test_what_is_no_completion_is_a_failure_of_the_way(raw: bytes) -> None:
    with pytest.raises(TransportError, match="no chat completion"):
        read_completion(raw, b"")
    for content in (5, {"text": "a"}):
        with pytest.raises(TransportError):
            read_completion(json.dumps(body(content)).encode(), b"")


def test_finish_reasons_of_other_servers() -> None:
    for theirs, ours in {"eos_token": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}.items():
        assert read_completion(json.dumps(body("a", theirs)).encode(), b"").finish_reason == ours
    with pytest.raises(TransportError, match="broke the reply off"):
        read_completion(json.dumps(body("a", "abort")).encode(), b"")


def test_errors_inside_a_200_have_their_status() -> None:
    assert status_within(b'{"error": {"message": "slow", "code": 429}}') == 429
    assert status_within(b'{"error": {"message": "slow", "code": "slow"}}') is None
    assert status_within(b'{"error": "slow"}') is None
    assert reason_of(b"<html><style>p{}</style><h1>502 Bad Gateway</h1></html>") == "502 Bad Gateway"


@pytest.mark.parametrize(
    "url", ["ftp://x/v1", "http://", "http://[::1/v1", "http://h:99999/v1", "http://me:pass@h/v1", "http://h/v1?a=b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TeacherError, match=r"^teacher\.base_url") as refused:
        check_address(url)
    assert "pass@" not in str(refused.value)
    assert check_address("http://[::1]:80/v1/") == "http://[::1]:80/v1"


async def test_a_redirect_is_told_and_the_key_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    seen: list[str | None] = []

    async def chat(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(status=307, headers={"Location": "http://localhost:9/v1/chat/completions"})

    async with (
        serving_app(application(chat)) as url,
        TeacherClient(TeacherConfig(key_variable="MY_KEY"), url) as client,
    ):
        with pytest.raises(TeacherError, match=r"HTTP 307\); write the address"):
            await client.complete(ask(1))
    assert seen == [f"Bearer {KEY}"]


async def test_a_key_that_comes_back_is_in_no_reply_and_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    answers = [(200, body(f'{{"a": "{KEY}"}}')), (401, {"error": {"message": "x" * 390 + KEY}})]

    async def chat(request: web.Request) -> web.Response:
        status, value = answers.pop(0)
        return web.json_response(value, status=status)

    async with (
        serving_app(application(chat)) as url,
        TeacherClient(TeacherConfig(key_variable="MY_KEY"), url) as client,
    ):
        completion = await client.complete(ask(1), schema=SCHEMA)
        assert completion.parsed == {"a": "…"}
        with pytest.raises(TeacherError) as refused:
            await client.complete(ask(2))
    assert KEY[:6] not in str(refused.value)


async def test_a_key_that_fits_no_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-\nsecret")
    with pytest.raises(TeacherError, match=r"teacher\.key_variable=MY_KEY: the key") as refused:
        TeacherClient(TeacherConfig(key_variable="MY_KEY"), "http://127.0.0.1:9/v1")
    assert "secret" not in str(refused.value)


async def test_an_endpoint_that_is_restarted_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(client_module, "OUTAGE_BACKOFF_S", 0.02)
    count = 0

    async def chat(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.Response(status=503, text="restarting") if 1 < count < 30 else web.json_response(body())

    async with serving_app(application(chat)) as url, TeacherClient(TeacherConfig(max_attempts=3), url) as client:
        await client.complete(ask(0))
        replies = await asyncio.gather(*(client.complete(ask(i)) for i in range(4)))
        assert [reply.text for reply in replies] == ['{"a": 1}'] * 4 and client.stats.retries["503"] == 28
        count = 1
        monkeypatch.setattr(client_module, "OUTAGE_S", 0.1)
        with pytest.raises(TeacherError, match=r"times in a row for one request: 503: restarting"):
            await client.complete(ask(9))


async def test_a_poisonous_request_is_given_up_while_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)

    async def chat(request: web.Request) -> web.Response:
        poisonous = (await request.json())["messages"] == ask(9)
        return web.Response(status=500) if poisonous else web.json_response(body())

    async def others(client: TeacherClient) -> None:
        while True:
            await client.complete(ask(1))
            await asyncio.sleep(0.005)

    async with serving_app(application(chat)) as url, TeacherClient(TeacherConfig(max_attempts=4), url) as client:
        task = asyncio.create_task(others(client))
        with pytest.raises(TeacherError, match="failed 4 times in a row for one request"):
            await client.complete(ask(9))
        task.cancel()


async def test_retry_after_zero_is_no_reason_to_hammer(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    async def chat(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.Response(status=429, headers={"Retry-After": "0"})

    async with serving_app(application(chat)) as url, TeacherClient(TeacherConfig(), url) as client:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.complete(ask(1)), 0.6)
    assert 1 <= count <= 4


async def test_flagged_and_too_long_prompts_are_counted_and_stop_nothing() -> None:
    answers = [
        (403, "Your model requires moderation and your input was flagged"),
        (400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy (invalid_prompt)"),
        (400, "'max_tokens' is too large. This model's maximum context length is 512 tokens"),
    ]

    async def chat(request: web.Request) -> web.Response:
        assert "max_tokens" in await request.json()
        status, message = answers.pop(0)
        return web.json_response({"error": {"message": message}}, status=status)

    async with serving_app(application(chat)) as url, TeacherClient(TeacherConfig(), url) as client:
        reasons = [(await client.complete(ask(i))).finish_reason for i in range(3)]
    assert reasons == ["content_filter", "content_filter", "context_length"]
