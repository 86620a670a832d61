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
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from aiohttp import FormData

from data_gen.budget import Budget
from data_gen.config import TeacherConfig
from data_gen.environment import teacher_key
from data_gen.teacher.codec import decode, encode
from data_gen.teacher.http import Answer, Http, TransportError
from data_gen.teacher.limits import Gate, retry_after_s
from data_gen.teacher.reply import CHARACTERS_PER_TOKEN, Completion, read_completion, reason_of, status_within
from data_gen.teacher.structured import LONGEST_MENDED, is_refusal, mend_messages, parse_json, response_format
from extes_train.errors import TeacherError, did_you_mean

FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 30.0
FIRST_CONTACT_ATTEMPTS = 4  # on a refused connection before anything was ever answered
OUTAGE_S = 60.0  # an endpoint that has answered before and now answers nobody may take so long to come back
OUTAGE_BACKOFF_S = 4.0
PASSING = (408, 409, 425)  # statuses below 500 that another try may mend
TOO_LONG = ("context length", "context_length", "context window", "context size", "too long", "too many tokens")
FLAGGED = ("content_filter", "content management policy", "invalid_prompt", "flagged", "moderation")  # of a prompt
ADAPTABLE = ("response_format", "seed", "temperature", "max_tokens")  # fields some servers refuse by a 400


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
        if self._key is not None and not (self._key.isascii() and self._key.isprintable()):
            raise TeacherError(
                f"teacher.key_variable={config.key_variable}: the key in it holds a character that no HTTP header may "
                f"hold (a line end, a letter that is not ASCII); set it again"
            )
        self._http = Http(url, self._key, config.timeout_s)
        self._fatal: Exception | None = None
        self._without: set[str] = {"response_format"} if config.structured_output == "none" else set()
        self._answered_at = 0.0  # when anything was answered last
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
                elif self.config.repair and len(completion.text) <= LONGEST_MENDED:
                    completion = await self.repair(messages, completion, schema, seed, max_tokens)
        self.stats.finish_reasons[completion.finish_reason] += 1
        return completion

    async def request_json(self, method: str, path: str, data: bytes | Callable[[], FormData] | None = None) -> Any:
        """The JSON value of a request to another path (files, batches), tried again like any other."""
        return decode(await self.request_bytes(method, path, data))

    async def request_bytes(self, method: str, path: str, data: bytes | Callable[[], FormData] | None = None) -> bytes:
        """The body of a request to another path, tried again like any other."""
        trouble = _Trouble()
        while True:
            try:
                answer = await self._http.request(method, path, data() if callable(data) else data)
            except TransportError as error:
                wait_s = self._after_failure(error, trouble)
            else:
                if answer.status < 300:
                    self._answered_at = time.monotonic()
                    return answer.body
                if answer.status == 429:
                    wait_s = self._after_429(answer, trouble)
                elif answer.status >= 500 or answer.status in PASSING:
                    wait_s = self._after_failure(_failure(answer), trouble)
                else:
                    raise self._stop(await self._refusal_error(answer))
            await asyncio.sleep(wait_s)

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
        sent, trouble = 0, _Trouble()
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
                result = await self._attempt(body, estimate, trouble)
            finally:
                self.gate.leave()
            if isinstance(result, Completion):
                result.attempts = sent
                return result
            if result:
                await asyncio.sleep(result)

    async def _attempt(self, body: bytes, estimate: float, trouble: _Trouble) -> Completion | float:
        """One HTTP request: the reply, or the seconds until the next one. The budget has admitted it; whatever happens,
        it is settled here."""
        try:
            answer = await self._http.post("/chat/completions", body)
            if answer.status < 300:
                try:
                    completion = read_completion(answer.body, body)
                except TransportError:
                    status = status_within(answer.body)
                    if status is None:
                        raise
                    answer = replace(answer, status=status)
                else:
                    self.budget.settle(completion.prompt_tokens, completion.completion_tokens)
                    self._count(completion, estimate)
                    return completion
        except TransportError as error:
            self.budget.failed()
            return self._after_failure(error, trouble)
        except BaseException:
            self.budget.failed()
            raise
        if answer.status == 429:
            self.budget.refund()
            return self._after_429(answer, trouble)
        self.budget.failed()
        if answer.status >= 500 or answer.status in PASSING:
            return self._after_failure(_failure(answer), trouble)
        return await self._after_refusal(answer, body)

    def _count(self, completion: Completion, estimate: float) -> None:
        self.stats.answered += 1
        self._answered_at = time.monotonic()
        self.gate.answered()
        self.gate.correct(completion.prompt_tokens + completion.completion_tokens - estimate)
        self._completion_tokens += (completion.completion_tokens - self._completion_tokens) / 32

    def _after_failure(self, error: TransportError, trouble: _Trouble) -> float:
        """Seconds to wait after a failure of transport, or give up and stop the run.

        While nobody at all is answered by an endpoint that has answered before (it is being restarted), a request is
        tried for OUTAGE_S, whatever the number of attempts; once it is back, they count anew.
        """
        self.stats.retries[error.cause] += 1
        now = time.monotonic()
        if trouble.in_outage and self._answered_at > trouble.since:
            trouble.failures, trouble.in_outage = 0, False
        if trouble.failures == 0:
            trouble.since = now
        trouble.failures += 1
        allowed = self.config.max_attempts
        if not error.reached and not self._answered_at:
            allowed = min(allowed, FIRST_CONTACT_ATTEMPTS)
        if trouble.failures >= allowed:
            trouble.in_outage = 0 < self._answered_at <= trouble.since and now - trouble.since < OUTAGE_S
            if not trouble.in_outage:
                what = f"failed {trouble.failures} times in a row for one request"
                what = what if error.reached else "cannot be reached"
                raise self._stop(TeacherError(f"teacher.base_url={self.base_url}: {what}: {self._scrub(str(error))}"))
        wait_s = self._backoff_s(trouble.failures - 1)
        return max(min(wait_s, OUTAGE_BACKOFF_S) if trouble.in_outage else wait_s, error.retry_after_s)

    def _after_429(self, answer: Answer, trouble: _Trouble) -> float:
        self.stats.retries["429"] += 1
        reason = reason_of(answer.body)
        if "insufficient_quota" in reason or "billing" in reason.lower():
            raise self._stop(TeacherError(f"teacher.base_url={self.base_url}: {self._scrub(reason)}"))
        wait_s = retry_after_s(answer.retry_after) or self._backoff_s(trouble.refusals)  # 0 s, or a date gone by: soon
        trouble.refusals += 1
        self.gate.refused(wait_s)
        return wait_s

    async def _after_refusal(self, answer: Answer, body: bytes) -> Completion | float:
        """A 4xx: adapt the request to the server, tell a too long or filtered prompt from the rest, or stop."""
        status, reason = answer.status, reason_of(answer.body)
        lowered = reason.lower()
        if status in (400, 413, 422) and (status == 413 or any(words in lowered for words in TOO_LONG)):
            return Completion("", "context_length", 0, 0)
        if status in (400, 403, 422) and any(words in lowered for words in FLAGGED):
            return Completion("", "content_filter", 0, 0)
        if status in (400, 422):
            for name in ADAPTABLE:
                adapts = name != "response_format" or self.config.structured_output == "auto"
                if adapts and name in lowered and f'"{name}"'.encode() in body:
                    self._without.add(name)
                    return 0.0
            if "response_format" in body.decode("utf-8", "replace") and "json_schema" in lowered:
                self._without.add("response_format")
                return 0.0
        raise self._stop(await self._refusal_error(answer))

    async def _refusal_error(self, answer: Answer) -> TeacherError:
        config, status, reason = self.config, answer.status, self._scrub(reason_of(answer.body))
        if status < 400:
            return TeacherError(
                f"teacher.base_url={self.base_url}: sends every request on to {self._scrub(str(answer.location))} "
                f"(HTTP {status}); write the address that answers itself, as the key goes nowhere else"
            )
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
class _Trouble:
    """What a request has met so far."""

    failures: int = 0  # of transport, those that count
    refusals: int = 0  # for rate
    since: float = 0.0  # when the first failure was
    in_outage: bool = False


def _failure(answer: Answer) -> TransportError:
    """A status that may pass, as a failure of transport."""
    error = TransportError(f"{answer.status}", reason_of(answer.body))
    error.retry_after_s = retry_after_s(answer.retry_after) or 0.0
    return error
