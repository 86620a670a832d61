"""One asynchronous client for any OpenAI-compatible endpoint.

What it promises: transport errors are tried again until they succeed or the run stops, and never become a result; 429
costs no attempt and slows everyone; a wrong key stops everything at once; caps are hard. What a request becomes never
depends on timing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import FormData

from data_gen.budget import Budget
from data_gen.config import TeacherConfig
from data_gen.environment import teacher_key
from data_gen.teacher.codec import decode, encode
from data_gen.teacher.http import Answer, Http, TransportError
from data_gen.teacher.limits import Gate, retry_after_s
from data_gen.teacher.structured import is_refusal, mend_messages, parse_json, response_format
from extes_train.errors import TeacherError, did_you_mean

FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 30.0
FIRST_CONTACT_ATTEMPTS = 4  # on a refused connection before anything was ever answered
CHARACTERS_PER_TOKEN = 4  # a guess, used for limits before the endpoint has counted
ADAPTABLE = ("response_format", "seed", "temperature", "max_tokens")  # fields some servers refuse by a 400


@dataclass(slots=True)
class Completion:
    """One reply. `finish_reason`: stop, length, content_filter, refusal or context_length (the prompt was too long)."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int = 1
    parsed: Any | None = None  # the JSON value, where a schema was given and the reply holds one
    repaired: bool = False  # it took a second request to get it


@dataclass
class ClientStats:
    """Counters for the live view; `client.snapshot()` adds what is derived."""

    sent: int = 0  # HTTP requests
    answered: int = 0  # completions
    retries: Counter[str] = field(default_factory=Counter)  # by cause: 429, 500, timeout, reset, truncated, connect
    finish_reasons: Counter[str] = field(default_factory=Counter)
    repairs: int = 0
    started: float = field(default_factory=time.monotonic)


class TeacherClient:
    """`async with TeacherClient(config) as client: await client.complete(messages)`."""

    def __init__(self, config: TeacherConfig, base_url: str | None = None, budget: Budget | None = None) -> None:
        url = base_url or config.base_url
        if not url:
            raise TeacherError("teacher.base_url: is needed; write teacher.base_url=http://host:port/v1")
        self.config = config
        self.budget = budget or Budget(config)
        self.stats = ClientStats()
        self.gate = Gate(config.concurrency, config.requests_per_minute, config.tokens_per_minute)
        self._key = teacher_key(config.key_variable)
        self._http = Http(url, self._key, config.timeout_s)
        self._fatal: Exception | None = None
        self._without: set[str] = {"response_format"} if config.structured_output == "none" else set()
        self._completion_tokens = float(config.max_tokens)  # running mean, for the tokens-per-minute estimate
        self._jitter = random.Random()

    @property
    def base_url(self) -> str:
        return self._http.base_url

    async def __aenter__(self) -> TeacherClient:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def complete(
        self,
        messages: list[dict[str, str]],
        *,
        schema: dict[str, Any] | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
    ) -> Completion:
        """Ask for one reply; with `schema`, one that holds JSON (`parsed`, None where even a repair did not help).

        Raises TeacherError where the endpoint will go on refusing and BudgetReached at a cap.
        """
        completion = await self._ask(messages, schema, seed, max_tokens)
        if schema is not None and completion.finish_reason == "stop":
            completion.parsed = parse_json(completion.text)
            if completion.parsed is None:
                if is_refusal(completion.text):
                    completion.finish_reason = "refusal"
                elif self.config.repair:
                    completion = await self.repair(messages, completion, schema, seed, max_tokens)
        self.stats.finish_reasons[completion.finish_reason] += 1
        return completion

    async def request_json(self, method: str, path: str, data: bytes | Callable[[], FormData] | None = None) -> Any:
        """The JSON value of a request to another path (files, batches), tried again like any other."""
        return decode(await self.request_bytes(method, path, data))

    async def request_bytes(self, method: str, path: str, data: bytes | Callable[[], FormData] | None = None) -> bytes:
        """The body of a request to another path, tried again like any other."""
        failures = 0
        while True:
            try:
                answer = await self._http.request(method, path, data() if callable(data) else data)
            except TransportError as error:
                retry = self._after_failure(error.cause, str(error), failures, error.reached)
            else:
                if answer.status == 200:
                    return answer.body
                if answer.status == 429:
                    retry = self._after_429(answer, failures)
                elif answer.status >= 500:
                    reason = f"HTTP {answer.status}: {_reason(answer.body)}"
                    retry = self._after_failure(str(answer.status), reason, failures, True)
                else:
                    raise self._stop(await self._refusal_error(answer.status, self._scrub(_reason(answer.body))))
            failures += not retry.is_refusal
            await asyncio.sleep(retry.seconds)

    def settle(self, completion: Completion) -> None:
        """Count a reply that came another way, out of a batch."""
        self.budget.settle(completion.prompt_tokens, completion.completion_tokens)
        self.stats.answered += 1

    async def models(self) -> list[str]:
        """The model names the endpoint lists; empty where it lists none."""
        try:
            answer = await self._http.get("/models")
            return [str(model["id"]) for model in decode(answer.body)["data"]]
        except (TransportError, ValueError, KeyError, TypeError):
            return []

    def snapshot(self) -> dict[str, float]:
        """What the live view shows: counts, rates, waiting, money."""
        seconds = max(time.monotonic() - self.stats.started, 1e-9)
        return {
            "requests": self.budget.spent.requests,
            "answered": self.stats.answered,
            "requests_per_s": self.stats.answered / seconds,
            "in_flight": self.gate.in_flight,
            "queued": self.gate.queued,
            "cooling_s": self.gate.cooling_s,
            "retries": sum(self.stats.retries.values()),
            "repairs": self.stats.repairs,
            "prompt_tokens": self.budget.spent.prompt_tokens,
            "completion_tokens": self.budget.spent.completion_tokens,
            "cost": self.budget.cost,
        }

    def body(
        self, messages: list[dict[str, str]], schema: dict[str, Any] | None, seed: int | None, max_tokens: int | None
    ) -> dict[str, Any]:
        """The JSON body of a chat completion request, without the fields this server has refused."""
        without, config = self._without, self.config
        body: dict[str, Any] = {"model": config.model, "messages": messages}
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        body[limit] = max_tokens or config.max_tokens
        if "temperature" not in without:
            body["temperature"] = config.temperature
        if seed is not None and "seed" not in without:
            body["seed"] = seed
        if schema is not None and "response_format" not in without:
            body["response_format"] = response_format(schema)
        return body

    async def repair(
        self,
        messages: list[dict[str, str]],
        broken: Completion,
        schema: dict[str, Any],
        seed: int | None = None,
        max_tokens: int | None = None,
    ) -> Completion:
        """Ask to send an unreadable reply again, once."""
        self.stats.repairs += 1
        mended = await self._ask(mend_messages(messages, broken.text), schema, seed, max_tokens)
        mended.prompt_tokens += broken.prompt_tokens
        mended.completion_tokens += broken.completion_tokens
        mended.attempts += broken.attempts
        mended.repaired = True
        if mended.finish_reason == "stop":
            mended.parsed = parse_json(mended.text)
            if mended.parsed is None and is_refusal(mended.text):
                mended.finish_reason = "refusal"
        return mended

    async def _ask(
        self, messages: list[dict[str, str]], schema: dict[str, Any] | None, seed: int | None, max_tokens: int | None
    ) -> Completion:
        """Send until there is an answer."""
        body = encode(self.body(messages, schema, seed, max_tokens))
        without = len(self._without)
        estimate = len(body) / CHARACTERS_PER_TOKEN + self._completion_tokens
        sent, failures, refusals = 0, 0, 0
        while True:
            if self._fatal is not None:
                raise self._fatal
            if without != len(self._without):  # the server has refused a field meanwhile
                body, without = encode(self.body(messages, schema, seed, max_tokens)), len(self._without)
            await self.gate.enter(estimate, front=sent > 0)
            try:
                self.budget.admit()
            except BaseException:
                self.gate.leave()
                raise
            sent += 1
            self.stats.sent += 1
            try:
                wait_s = await self._attempt(body, estimate, failures, refusals)
            finally:
                self.gate.leave()
            if isinstance(wait_s, Completion):
                wait_s.attempts = sent
                return wait_s
            if wait_s.is_refusal:
                refusals += 1
            elif not wait_s.is_adaptation:
                failures += 1
            if wait_s.seconds:
                await asyncio.sleep(wait_s.seconds)

    async def _attempt(self, body: bytes, estimate: float, failures: int, refusals: int) -> Completion | _Retry:
        """One HTTP request. The budget has admitted it; whatever happens, it is settled here."""
        try:
            answer = await self._http.post("/chat/completions", body)
            if answer.status == 200:
                completion = read_completion(answer.body, body)
                self.budget.settle(completion.prompt_tokens, completion.completion_tokens)
                self._count(completion, estimate)
                return completion
        except TransportError as error:
            self.budget.failed()
            return self._after_failure(error.cause, str(error), failures, error.reached)
        except BaseException:
            self.budget.failed()
            raise
        if answer.status == 429:
            self.budget.refund()
            return self._after_429(answer, refusals)
        self.budget.failed()
        if answer.status >= 500 or answer.status in (408, 409, 425):
            cause = f"{answer.status}"
            return self._after_failure(cause, f"HTTP {cause}: {_reason(answer.body)}", failures, True)
        return await self._after_refusal(answer, body)

    def _count(self, completion: Completion, estimate: float) -> None:
        self.stats.answered += 1
        self.gate.answered()
        self.gate.correct(completion.prompt_tokens + completion.completion_tokens - estimate)
        self._completion_tokens += (completion.completion_tokens - self._completion_tokens) / 32

    def _after_failure(self, cause: str, detail: str, failures: int, reached: bool) -> _Retry:
        """Back off after a failure of transport, or give up and stop the run."""
        self.stats.retries[cause] += 1
        allowed = self.config.max_attempts
        if not reached and not self.stats.answered:
            allowed = min(allowed, FIRST_CONTACT_ATTEMPTS)
        if failures + 1 >= allowed:
            what = "cannot be reached" if not reached else f"failed {allowed} times in a row for one request"
            raise self._stop(TeacherError(f"teacher.base_url={self.base_url}: {what}: {self._scrub(detail)}"))
        return _Retry(self._backoff_s(failures))

    def _after_429(self, answer: Answer, refusals: int) -> _Retry:
        self.stats.retries["429"] += 1
        reason = _reason(answer.body)
        if "insufficient_quota" in reason or "billing" in reason.lower():
            raise self._stop(TeacherError(f"teacher.base_url={self.base_url}: {self._scrub(reason)}"))
        wait_s = retry_after_s(answer.retry_after)
        if wait_s is None:
            wait_s = self._backoff_s(refusals)
        self.gate.refused(wait_s)
        return _Retry(wait_s, is_refusal=True)

    async def _after_refusal(self, answer: Answer, body: bytes) -> Completion | _Retry:
        """A 4xx: adapt the request to the server, tell a too long or filtered prompt from the rest, or stop."""
        status, reason = answer.status, _reason(answer.body)
        lowered = reason.lower()
        if status in (400, 422):
            for name in ADAPTABLE:
                adapts = name != "response_format" or self.config.structured_output == "auto"
                if adapts and name in lowered and f'"{name}"'.encode() in body:
                    self._without.add(name)
                    return _Retry(0.0, is_adaptation=True)
            if "response_format" in body.decode("utf-8", "replace") and "json_schema" in lowered:
                self._without.add("response_format")
                return _Retry(0.0, is_adaptation=True)
        if status in (400, 413, 422) and ("context" in lowered or "too long" in lowered or status == 413):
            return Completion("", "context_length", 0, 0)
        if status in (400, 422) and ("content_filter" in lowered or "content management policy" in lowered):
            return Completion("", "content_filter", 0, 0)
        raise self._stop(await self._refusal_error(status, self._scrub(reason)))

    async def _refusal_error(self, status: int, reason: str) -> TeacherError:
        config = self.config
        if status in (401, 403):
            have = "was refused" if self._key else "is not set, and the endpoint wants a key"
            return TeacherError(f"teacher.key_variable={config.key_variable}: {have} (HTTP {status}: {reason})")
        if status == 404:
            known = await self.models()
            if not known and not self.base_url.rstrip("/").endswith("/v1"):
                return TeacherError(
                    f"teacher.base_url={self.base_url}: nothing is served there (HTTP 404); most endpoints want /v1 "
                    f"at its end: {self.base_url.rstrip('/')}/v1"
                )
            serves = f"; it serves {', '.join(known[:10])}{did_you_mean(config.model, known)}" if known else ""
            return TeacherError(
                f"teacher.model={config.model!r}: unknown to {self.base_url} (HTTP 404: {reason}){serves}"
            )
        return TeacherError(f"teacher.base_url={self.base_url}: HTTP {status}: {reason}")

    def _stop(self, error: TeacherError) -> TeacherError:
        """Every other request ends with the same error, without being sent."""
        self._fatal = error
        self.gate.fail_waiting(error)
        return error

    def _backoff_s(self, failures: int) -> float:
        longest = min(FIRST_BACKOFF_S * 2**failures, LONGEST_BACKOFF_S)
        return longest * (0.5 + 0.5 * self._jitter.random())

    def _scrub(self, text: str) -> str:
        """The key never reaches a message, even where an endpoint sends it back."""
        return text.replace(self._key, "…") if self._key else text


@dataclass(slots=True)
class _Retry:
    seconds: float
    is_refusal: bool = False
    is_adaptation: bool = False


def read_completion(body: bytes, request: bytes) -> Completion:
    """A 200's body as a Completion; TransportError where it is no chat completion."""
    try:
        reply = decode(body)
        choice = reply["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        reason = choice.get("finish_reason") or "stop"
        if message.get("refusal"):
            text, reason = text or str(message["refusal"]), "refusal"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise TransportError("truncated", f"no chat completion: {body[:80]!r}") from None
    usage = reply.get("usage") or {}
    prompt_tokens = usage.get("prompt_tokens")
    completion_tokens = usage.get("completion_tokens")
    if prompt_tokens is None:
        prompt_tokens = len(request) // CHARACTERS_PER_TOKEN
    if completion_tokens is None:
        completion_tokens = len(text) // CHARACTERS_PER_TOKEN
    return Completion(text, str(reason), int(prompt_tokens), int(completion_tokens))


def _reason(body: bytes) -> str:
    """The endpoint's own words about an error, on one line."""
    try:
        value = decode(body)
        error = value.get("error", value) if isinstance(value, dict) else value
        if isinstance(error, dict):
            parts = [str(error[key]) for key in ("message", "code", "detail", "param") if error.get(key)]
            error = " · ".join(dict.fromkeys(parts)) or error
        text = str(error)
    except ValueError:
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:500]
