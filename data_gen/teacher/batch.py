"""OpenAI's Batch API: many requests in a file, answered within a day at half the price."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from data_gen.teacher.client import TeacherClient
from data_gen.teacher.codec import decode, encode
from data_gen.teacher.http import TransportError
from data_gen.teacher.reply import Completion, read_completion
from data_gen.teacher.structured import LONGEST_MENDED, is_refusal, parse_json
from extes_train.errors import BudgetReached, TeacherError

MOST_REQUESTS = 50_000  # OpenAI's limits for one input file
MOST_BYTES = 190 << 20
ENDPOINT = "/v1/chat/completions"
ENDED = ("completed", "expired", "cancelled", "failed")
UNUSABLE = ("expired", "cancelling", "cancelled", "failed")

Request = tuple[list[dict[str, str]], dict[str, Any] | None, int | None]  # messages, schema, seed


async def run_batch(
    client: TeacherClient,
    requests: Sequence[Request],
    poll_s: float = 30.0,
    on_poll: Callable[[dict[str, int]], None] | None = None,
) -> list[Completion]:
    """One completion for each request, in order; fewer, the first ones, where a cap does not allow all.

    Lines that failed or expired are sent again in another batch until they succeed. Unreadable JSON is asked for once
    more, live. A run that was killed finds its batch again and does not pay twice. Raises TeacherError, and
    BudgetReached where the cap allows nothing.
    """
    done: dict[int, Completion] = {}
    for attempt in range(client.config.max_attempts):
        missing = [index for index in range(len(requests)) if index not in done]
        if not missing or (attempt and client.budget.reached):
            break
        for part in _parts(client, requests, missing):
            allowed = _admit(client, part)
            for index, completion in (await _one_batch(client, allowed, poll_s, on_poll)).items():
                completion.attempts = attempt + 1
                done[index] = completion
            if len(allowed) < len(part):
                break
    first_missing = next((index for index in range(len(requests)) if index not in done), len(requests))
    if client.budget.reached is not None and not first_missing:
        raise BudgetReached(*client.budget.reached.args)
    if client.budget.reached is None and first_missing < len(requests):
        raise TeacherError(f"teacher.base_url={client.base_url}: request {first_missing} failed in every batch")
    return [await _finish(client, requests[index], done[index]) for index in range(first_missing)]


def _admit(client: TeacherClient, lines: dict[int, bytes]) -> dict[int, bytes]:
    """As many lines as the caps allow. Raises BudgetReached where that is none."""
    allowed: dict[int, bytes] = {}
    for index, line in lines.items():
        try:
            client.budget.admit()
        except BudgetReached:
            if not allowed:
                raise
            break
        allowed[index] = line
    return allowed


def _parts(client: TeacherClient, requests: Sequence[Request], indexes: list[int]) -> list[dict[int, bytes]]:
    """The input files' lines by request number, within OpenAI's limits."""
    parts: list[dict[int, bytes]] = [{}]
    size = 0
    for index in indexes:
        messages, schema, seed = requests[index]
        body = client.body(messages, schema, seed, None)
        line = encode({"custom_id": f"request-{index}", "method": "POST", "url": ENDPOINT, "body": body})
        if parts[-1] and (len(parts[-1]) >= MOST_REQUESTS or size + len(line) > MOST_BYTES):
            parts.append({})
            size = 0
        parts[-1][index] = line
        size += len(line) + 1
    return parts


async def _one_batch(
    client: TeacherClient,
    lines: dict[int, bytes],
    poll_s: float,
    on_poll: Callable[[dict[str, int]], None] | None,
) -> dict[int, Completion]:
    """Upload, start, wait and read; what came back, by request number. The budget has admitted every line."""
    batch = await _start(client, b"\n".join(lines.values()) + b"\n")
    until = time.monotonic() + 25 * 3600
    while batch["status"] not in ENDED:
        if time.monotonic() > until:
            raise TeacherError(f"teacher.base_url={client.base_url}: batch {batch['id']} has not ended after a day")
        await asyncio.sleep(poll_s)
        batch = await client.request_json("GET", f"/batches/{batch['id']}")
        if on_poll is not None:
            on_poll(batch.get("request_counts") or {})
    if batch["status"] in ("failed", "cancelled"):
        reasons = [str(error.get("message")) for error in (batch.get("errors") or {}).get("data") or []]
        raise TeacherError(f"batch {batch['id']} {batch['status']}: {'; '.join(reasons[:3]) or 'no reason given'}")
    result: dict[int, Completion] = {}
    if batch.get("output_file_id"):
        content = await client.request_bytes("GET", f"/files/{batch['output_file_id']}/content")
        for line in content.splitlines():
            _read_line(decode(line), lines, result)
    for index in lines:
        if index in result:
            client.settle(result[index])
        else:
            client.budget.failed()
    return result


async def _start(client: TeacherClient, content: bytes) -> dict[str, Any]:
    """A batch over `content`: the one that an earlier, killed process started for the same lines, or a new one."""
    digest = hashlib.sha256(content).hexdigest()
    known = await client.request_json("GET", "/batches?limit=100")
    for batch in known.get("data") or []:
        if (batch.get("metadata") or {}).get("extes_input") == digest and batch["status"] not in UNUSABLE:
            return batch

    def form() -> aiohttp.FormData:
        value = aiohttp.FormData()
        value.add_field("purpose", "batch")
        value.add_field("file", content, filename="requests.jsonl", content_type="application/jsonl")
        return value

    uploaded = await client.request_json("POST", "/files", form)
    wanted = {
        "input_file_id": uploaded["id"],
        "endpoint": ENDPOINT,
        "completion_window": "24h",
        "metadata": {"extes_input": digest},
    }
    return await client.request_json("POST", "/batches", encode(wanted))


def _read_line(value: dict[str, Any], lines: dict[int, bytes], result: dict[int, Completion]) -> None:
    index = int(str(value["custom_id"]).rpartition("-")[2])
    response = value.get("response") or {}
    if response.get("status_code") == 200 and index in lines:
        try:
            result[index] = read_completion(encode(response["body"]), lines[index])
        except TransportError:
            return  # no chat completion in it: asked for again


async def _finish(client: TeacherClient, request: Request, completion: Completion) -> Completion:
    """Parse the JSON; where that fails, one live request to mend it."""
    messages, schema, seed = request
    if schema is not None and completion.finish_reason == "stop":
        completion.parsed = parse_json(completion.text)
        if completion.parsed is None:
            if is_refusal(completion.text):
                completion.finish_reason = "refusal"
            elif client.config.repair and len(completion.text) <= LONGEST_MENDED:
                completion = await client.repair(messages, completion, schema, seed)
    client.stats.finish_reasons[completion.finish_reason] += 1
    return completion
