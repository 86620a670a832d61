"""The offline teacher as an OpenAI-compatible HTTP server, with the faults one wishes to rehearse.

Speaks POST /v1/chat/completions (also as a stream of server-sent events), GET /v1/models, GET /health, and the Batch
API (batch_server.py). What it says comes from the composing teacher in offline/, which is no language model.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from data_gen.config import ServeConfig
from data_gen.environment import teacher_key
from data_gen.teacher.batch_server import BatchDesk
from data_gen.teacher.codec import decode, encode
from data_gen.teacher.faults import REFUSAL, FaultPlan
from data_gen.teacher.offline.teacher import ABOUT, MODEL, reply
from extes_train.errors import TeacherError

CHARACTERS_PER_TOKEN = 4
LARGEST_BODY = 64 << 20


class TeacherServer:
    """State of one server. `application()` is the aiohttp application."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.faults = FaultPlan(config.faults)
        self.requests = 0
        self.desk = BatchDesk(self.answer)
        self._key = None
        if config.api_key:
            self._key = teacher_key(config.api_key)
            if self._key is None:
                raise TeacherError(f"serve.api_key={config.api_key}: this environment variable is not set")

    def application(self) -> web.Application:
        """Routes below /v1 and /health."""
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[self._guard])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name}", self._model)
        app.router.add_post("/v1/chat/completions", self._chat)
        self.desk.add_routes(app)
        return app

    def answer(self, raw: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON for one chat completion body: everything but what goes wrong on the way."""
        try:
            body = decode(raw)
        except ValueError as error:
            return 400, _error(f"the body is no JSON: {error}")
        problem = self._problem(body)
        if problem is not None:
            return problem
        text, reason = self._say(body, raw)
        limit = (body.get("max_completion_tokens") or body.get("max_tokens") or 1 << 30) * CHARACTERS_PER_TOKEN
        if len(text) > limit:
            text, reason = text[:limit], "length"
        return 200, _chat_completion(body, raw, text, reason)

    def _problem(self, body: Any) -> tuple[int, dict[str, Any]] | None:
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
            return 400, _error("messages: a list with at least one message is needed", param="messages")
        if not all(isinstance(message, dict) and "content" in message for message in body["messages"]):
            return 400, _error("messages: each needs role and content", param="messages")
        if body.get("model") != MODEL:
            return 404, _error(f"The model `{body.get('model')}` does not exist", code="model_not_found")
        if body.get("response_format") and not self.config.structured_output:
            return 400, _error("response_format: json_schema is not supported by this server", param="response_format")
        return None

    def _say(self, body: dict[str, Any], raw: bytes) -> tuple[str, str]:
        fault = self.faults.content(raw)
        if fault == "refusal":
            return REFUSAL, "stop"
        if fault == "garbage":
            return self.faults.garbage(raw), "stop"
        if fault == "content_filter":
            return "", "content_filter"
        text = reply(body["messages"], body.get("seed") or 0)
        if fault == "length":
            return text[: len(text) // 2], "length"
        return text, "stop"

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.requests += 1
        if self.config.faults.latency_s:
            await asyncio.sleep(self.config.faults.latency_s)
        fault = self.faults.transport(raw)
        if fault == "429":
            return self._too_many()
        if fault == "500":
            return _json(500, _error("a planned fault", kind="server_error"))
        if fault in ("hang", "reset"):
            if fault == "hang":
                await asyncio.sleep(self.config.faults.hang_s)
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        status, value = self.answer(raw)
        if status == 200 and raw.find(b'"stream"') >= 0 and decode(raw).get("stream"):
            return await _stream(request, value)
        if fault == "truncated":
            return await _half(request, encode(value))
        return _json(status, value)

    def _too_many(self) -> web.Response:
        seconds = self.config.faults.retry_after_s
        if self.config.faults.retry_after_date:
            after = email.utils.formatdate(time.time() + seconds, usegmt=True)
        else:
            after = f"{seconds:g}"
        response = _json(429, _error("a planned limit on requests", kind="rate_limit_error"))
        response.headers["Retry-After"] = after
        return response

    async def _health(self, request: web.Request) -> web.Response:
        return _json(200, {"status": "ok", "about": ABOUT, "requests": self.requests, "faults": self.faults.counts})

    async def _models(self, request: web.Request) -> web.Response:
        return _json(200, {"object": "list", "data": [_model_card()]})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name != MODEL:
            return _json(404, _error(f"The model `{name}` does not exist", code="model_not_found"))
        return _json(200, _model_card())

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        """401 without the key, where one is configured; /health is open."""
        given = request.headers.get("Authorization")
        if self._key is not None and request.path != "/health" and given != f"Bearer {self._key}":
            return _json(401, _error("Incorrect API key provided", code="invalid_api_key"))
        return await handler(request)


def _json(status: int, value: Any) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json")


def _error(
    message: str, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _model_card() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": 0, "owned_by": "extes", "description": ABOUT}


def _chat_completion(body: dict[str, Any], raw: bytes, text: str, reason: str) -> dict[str, Any]:
    prompt = sum(len(str(message["content"])) for message in body["messages"]) // CHARACTERS_PER_TOKEN
    completion = len(text) // CHARACTERS_PER_TOKEN
    return {
        "id": "chatcmpl-" + hashlib.blake2b(raw, digest_size=12).hexdigest(),
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }


async def _half(request: web.Request, body: bytes) -> web.StreamResponse:
    """Promise the whole body, send half of it and hang up."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _stream(request: web.Request, value: dict[str, Any]) -> web.StreamResponse:
    """The completion as server-sent events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    choice, shared = value["choices"][0], {key: value[key] for key in ("id", "created", "model")}
    shared["object"] = "chat.completion.chunk"
    text = choice["message"]["content"]

    async def send(delta: dict[str, Any], reason: str | None = None) -> None:
        chunk = {**shared, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        await response.write(b"data: " + encode(chunk) + b"\n\n")

    await send({"role": "assistant", "content": ""})
    for start in range(0, len(text), 64):
        await send({"content": text[start : start + 64]})
    await send({}, choice["finish_reason"])
    await response.write(b"data: " + encode({**shared, "choices": [], "usage": value["usage"]}) + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response
