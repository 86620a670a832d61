"""The openai SDK, which no one here wrote, as a client of the offline teacher's server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel
from teacher_support import ask

from data_gen.config import FaultsConfig, ServeConfig
from data_gen.generate import expansion_schema
from data_gen.teacher.offline.teacher import MODEL
from data_gen.teacher.serve import background_server
from data_gen.teacher.structured import response_format
from extes_train.dialogue.taxonomy import load_taxonomy

EXTES = load_taxonomy("extes")
FORMAT: Any = response_format(expansion_schema(EXTES))


class Said(BaseModel):
    speaker: str
    text: str
    strategy: str | None = None
    tags: list[str] = []


class Reply(BaseModel):
    """A reply to an expansion."""

    situation: str
    turns: list[Said]


@pytest.fixture
def sdk(teacher_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=teacher_url, api_key="none", max_retries=0) as client:
        yield client


def completed(client: openai.OpenAI, number: int, **options: Any) -> ChatCompletion:
    messages: Any = ask(number)
    return client.chat.completions.create(model=MODEL, messages=messages, seed=number, **options)


def test_a_reply_in_json_is_one_the_sdk_can_read(sdk: openai.OpenAI) -> None:
    answer = completed(sdk, 1, response_format=FORMAT, max_tokens=2048, temperature=0.7)
    reply = Reply.model_validate_json(answer.choices[0].message.content or "")
    assert len(reply.turns) >= 10 and answer.choices[0].finish_reason == "stop" and answer.model == MODEL
    assert {turn.strategy for turn in reply.turns if turn.speaker == "supporter"} <= set(EXTES.strategies)
    assert answer.usage is not None and answer.usage.prompt_tokens > 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    parsed = sdk.chat.completions.parse(model=MODEL, messages=ask(2), response_format=Reply)  # type: ignore[arg-type]
    assert parsed.choices[0].message.parsed is not None and len(parsed.choices[0].message.parsed.turns) >= 10


async def test_async_calls_say_the_same(teacher_url: str, sdk: openai.OpenAI) -> None:
    async with openai.AsyncOpenAI(base_url=teacher_url, api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model=MODEL, messages=ask(i), seed=i, response_format=FORMAT)  # type: ignore[arg-type]
                for i in range(8)
            )
        )
        stream: Any = await client.chat.completions.create(model=MODEL, messages=ask(3), seed=3, stream=True)  # type: ignore[arg-type]
        chunks = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    texts = [answer.choices[0].message.content for answer in answers]
    assert len(set(texts)) == 8
    assert texts[5] == (await asyncio.to_thread(completed, sdk, 5)).choices[0].message.content
    assert "".join(chunks) == texts[3] and len(chunks) > 1


def test_files_and_batches(sdk: openai.OpenAI) -> None:
    lines = [
        {
            "custom_id": f"mine-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": ask(i), "seed": i},
        }
        for i in range(3)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = sdk.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
    assert file.bytes == len(content) and sdk.files.content(file.id).read() == content
    batch = sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    for _ in range(200):
        if (batch := sdk.batches.retrieve(batch.id)).status in ("completed", "failed"):
            break
    assert batch.status == "completed" and batch.output_file_id is not None
    assert batch.request_counts is not None and batch.request_counts.completed == 3
    assert batch.id in [known.id for known in sdk.batches.list(limit=100)]
    answers = [json.loads(line) for line in sdk.files.content(batch.output_file_id).read().splitlines()]
    for answer in answers:
        body = ChatCompletion.model_validate(answer["response"]["body"])
        number = int(answer["custom_id"].removeprefix("mine-"))
        assert body.choices[0].message.content == completed(sdk, number).choices[0].message.content
    assert len(answers) == 3


def test_errors_are_the_ones_the_sdk_knows(sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        sdk.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "Hello"}])
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model=MODEL, messages="Hello")  # type: ignore[call-overload]
    assert "messages" in str(bad.value.message)
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve("file-nowhere")
    with pytest.raises(openai.NotFoundError):
        sdk.batches.retrieve("batch-nowhere")
    monkeypatch.setenv("TEACHERS_KEY", "right")
    with background_server(ServeConfig(port=0, api_key="TEACHERS_KEY")) as url:
        with (
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            completed(stranger, 1)
        with openai.OpenAI(base_url=url, api_key="right", max_retries=0) as friend:
            assert completed(friend, 1).choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"rate_429": 1.0, "retry_after_s": 7.0}, openai.RateLimitError),
        ({"rate_500": 1.0}, openai.InternalServerError),
        ({"rate_reset": 1.0}, openai.APIConnectionError),
        ({"rate_truncated": 1.0}, openai.APIError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value.__name__,
)
def test_a_bad_day_raises_the_sdks_errors(fault: dict[str, float], error: type[Exception]) -> None:
    with (
        background_server(ServeConfig(port=0, faults=FaultsConfig(**fault))) as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
        pytest.raises(error) as raised,
    ):
        completed(client, 1)
    if isinstance(raised.value, openai.RateLimitError):
        assert raised.value.response.headers["retry-after"] == "7"


def test_replies_that_are_no_answer() -> None:
    faults = FaultsConfig(rate_length=0.34, rate_content_filter=0.33, rate_refusal=0.33)
    with (
        background_server(ServeConfig(port=0, faults=faults)) as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        answers = [completed(client, i).choices[0] for i in range(20)]
    assert {"length", "content_filter"} <= {answer.finish_reason for answer in answers}
    assert any("sorry" in str(answer.message.content) for answer in answers)
