"""Requests a second of the whole generation path on one core: prompt, request, parse, validate, filter, journal.

    python benchmarks/teacher_client.py            # about 2 minutes
    python benchmarks/teacher_client.py --memory   # adds rss_bytes_per_request (200,000 requests) and dedup_p99_ms

The path is data_gen's own (Window, Generation, TeacherClient, Journal), the server instant_server.py in its own process
on another core. Request phase only: from the first request to the last commit; seeds are read before, the card is
written after. The journal is written record by record and fsynced every 32 records in a thread (the default).
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

import aiohttp  # noqa: E402
from instant_server import instant_server  # noqa: E402
from machine import describe_machine  # noqa: E402

from data_gen.config import FiltersConfig, GenerateConfig, TeacherConfig  # noqa: E402
from data_gen.dedup import NearDuplicates, shingle_hashes  # noqa: E402
from data_gen.expansion import Expansion  # noqa: E402
from data_gen.filters.text import TextView  # noqa: E402
from data_gen.generate import Generation  # noqa: E402
from data_gen.journal import Journal  # noqa: E402
from data_gen.prompting import Messages, load_prompts  # noqa: E402
from data_gen.seed_dialogues import read_seeds  # noqa: E402
from data_gen.teacher.client import Completion, TeacherClient  # noqa: E402
from data_gen.teacher.offline.teacher import reply  # noqa: E402
from data_gen.window import Window  # noqa: E402
from extes_train.dialogue.taxonomy import load_taxonomy  # noqa: E402

REAL_REPLY = 3000  # characters
SHORT_REPLY = 700
SHORT_PROMPT = "Scenario: $scenario_line\nHint: $situation_hint\nStrategies: $strategies\n$exemplars"


@dataclass
class Measured:
    """One run, its warm-up excluded."""

    requests_per_s: float
    cpu_ms: float
    prompt_chars: float
    accepted: int
    reasons: dict[str, int] = field(default_factory=dict)
    rss: dict[int, int] = field(default_factory=dict)  # requests -> bytes


def compose_replies(count: int, characters: int, turns: int) -> list[str]:
    """`count` different dialogues of about so many characters, from the composing teacher."""
    taxonomy = load_taxonomy("extes")
    prompts = load_prompts(None, taxonomy)
    rng, names, scenarios = random.Random(1), list(taxonomy.strategies), list(taxonomy.scenarios)
    texts: list[str] = []
    for number in range(count):
        chosen = rng.sample(names, 4)
        messages = prompts.expansion(scenarios[number % len(scenarios)], "", chosen, False, turns, [])
        value: dict[str, Any] = json.loads(reply(messages, number))
        value["turns"] = _cycled(value["turns"], turns)
        _stretch(value, json.loads(reply(messages, -number - 1))["turns"], characters)
        _shrink(value["turns"], len(json.dumps(value)) - characters)
        texts.append(json.dumps(value))
    return texts


def _cycled(turns: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Exactly `count` turns: cut, or an exchange from the middle told again with another word before it."""
    while len(turns) < count:
        turns[2:2] = [{**turn, "text": "Anyway. " + turn["text"]} for turn in turns[4:6]]
    return turns[:count]


def _stretch(value: dict[str, Any], more: list[dict[str, Any]], characters: int) -> None:
    """Append sentences of another dialogue until the reply is long enough."""
    size = len(json.dumps(value))
    for turn, other in zip(value["turns"], more):
        if size >= characters:
            return
        turn["text"] += " " + other["text"]
        size += len(other["text"]) + 1


def _shrink(turns: list[dict[str, Any]], excess: int) -> None:
    """Drop last sentences, of the longest turns first, until so many characters are gone."""
    while excess > 40:
        turn = max(turns, key=lambda turn: len(turn["text"]))
        kept = turn["text"][:-1].rpartition(". ")[0]
        kept = kept + "." if kept else " ".join(turn["text"].split()[:-2])
        excess -= len(turn["text"]) - len(kept)
        turn["text"] = kept


def run_path(
    url: str,
    requests: int,
    concurrency: int,
    *,
    short: bool = False,
    pool: list[str] | None = None,
    watch: tuple[int, ...] = (),
) -> Measured:
    """`requests` candidates through the whole path. `pool`: replies already known to the near-duplicate search."""
    with tempfile.TemporaryDirectory() as folder:
        prompts_folder = None
        if short:
            prompts_folder = f"{folder}/prompts"
            os.mkdir(prompts_folder)
            Path(prompts_folder, "expansion.txt").write_text(SHORT_PROMPT)
            Path(prompts_folder, "system.txt").write_text("You write dialogues as JSON.\n")
        filters = FiltersConfig(near_duplicate=0.7 if pool is not None else 0.0, min_turns=4 if short else 10)
        config = GenerateConfig(
            out=folder,
            num_dialogues=requests,
            max_candidates=requests,
            sides={"train": 1.0},
            prompts=prompts_folder,
            num_exemplars=0 if short else 2,
            lag=4 * concurrency,
            min_acceptance=0.0,
            filters=filters,
        )
        return asyncio.run(_run(config, TeacherConfig(concurrency=concurrency, base_url=url), requests, pool, watch))


async def _run(
    config: GenerateConfig, teacher: TeacherConfig, requests: int, pool: list[str] | None, watch: tuple[int, ...]
) -> Measured:
    taxonomy = load_taxonomy("extes")
    expansion = Expansion(config, load_prompts(config.prompts, taxonomy), read_seeds(None, taxonomy))
    for number, text in enumerate(pool or ()):
        assert expansion.near is not None
        turns = json.loads(text)["turns"]
        expansion.near.add(f"known-{number}", shingle_hashes(TextView([turn["text"] for turn in turns])))
    work = Generation(config, teacher, expansion)
    warm, done, characters = requests // 10, 0, 0
    clocks: list[tuple[float, float]] = []
    rss: dict[int, int] = {}
    with Journal(Path(config.out, "journal.jsonl"), "generate", {}, config.fsync_every) as journal:
        window = Window(work, journal)
        window.advance()
        async with TeacherClient(teacher) as client:

            async def ask(messages: Messages, schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
                nonlocal done, characters
                completion = await client.complete(messages, schema=schema, seed=seed, max_tokens=max_tokens)
                done += 1
                characters += len(messages[0]["content"]) + len(messages[1]["content"])
                if done == warm:
                    clocks.append((time.perf_counter(), time.process_time()))
                if done in watch:
                    rss[done] = _rss()
                return completion

            await window.run_live(ask, teacher.concurrency)
            clocks.append((time.perf_counter(), time.process_time()))
    seconds, cpu = (after - before for before, after in zip(*clocks))
    measured = requests - warm
    reasons = dict(expansion.reasons)
    return Measured(
        measured / seconds, 1000 * cpu / measured, characters / done, expansion.accepted.total(), reasons, rss
    )


def _rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def bare(url: str, requests: int, concurrency: int) -> tuple[float, float]:
    """Requests a second and milliseconds of CPU a request of aiohttp alone; the reply's body is read, not looked at."""
    left = iter(range(requests))
    body = b'{"model": "instant", "messages": [{"role": "user", "content": "' + b"x" * 300 + b'"}]}'
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as session:

        async def worker() -> None:
            for _ in left:
                async with session.post(url + "/chat/completions", data=body) as response:
                    await response.read()

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        left = iter(range(requests))
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        cpu_ms = 1000 * (time.process_time() - cpu) / requests
        return requests / (time.perf_counter() - started), cpu_ms


def dedup_p99_ms(texts: list[str], dialogues: int) -> float:
    """p99 of one query with its hashing, in a pool of so many dialogues (random shingles beyond `texts`)."""
    import numpy as np

    near, rng = NearDuplicates(0.7), np.random.default_rng(0)
    views = [[turn["text"] for turn in json.loads(text)["turns"]] for text in texts]
    pool = [shingle_hashes(TextView(view)) for view in views[1000:]]
    for number in range(dialogues):
        base = pool[number % len(pool)]
        fresh = rng.integers(0, 1 << 32, len(base), dtype=np.uint32)
        mixed = np.unique(np.where(rng.random(len(base)) < 0.35, base, fresh))
        near.add(str(number), mixed)
    times = []
    for view in views[:1000]:
        started = time.perf_counter()
        near.find(shingle_hashes(TextView(view)))
        times.append(time.perf_counter() - started)
    return 1000 * sorted(times)[990]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--memory", action="store_true", help="also 200,000 requests and a pool of 100,000 dialogues")
    parser.add_argument("--scale", type=float, default=1.0, help="fewer requests, for a quick look")
    arguments = parser.parse_args()
    cores, machine = sorted(os.sched_getaffinity(0)), describe_machine()
    server_core = cores[1] if len(cores) > 1 else None

    def scaled(number: int) -> int:
        return max(400, int(number * arguments.scale))

    known = scaled(10_000)
    short_texts = compose_replies(scaled(10_000), SHORT_REPLY, 4)
    real_texts = compose_replies(known + scaled(6_000), REAL_REPLY, 16)
    fresh, pool = real_texts[known:], real_texts[:known]
    os.sched_setaffinity(0, {cores[0]})
    result: dict[str, Any] = {}
    figures: dict[str, Measured] = {}
    with instant_server(short_texts, core=server_core) as url:
        per_s, cpu_ms = asyncio.run(bare(url, scaled(10_000), 64))
        result["bare_requests_per_s"], result["bare_cpu_ms_per_request"] = round(per_s), round(cpu_ms, 3)
        figures["short_64"] = run_path(url, scaled(10_000), 64, short=True)
    with instant_server(short_texts, core=server_core) as url:
        figures["short_256"] = run_path(url, scaled(10_000), 256, short=True)
    for concurrency in (64, 256):
        with instant_server(fresh, core=server_core) as url:
            figures[f"real_{concurrency}"] = run_path(url, len(fresh), concurrency)
    with instant_server(fresh, core=server_core) as url:
        figures["dedup"] = run_path(url, len(fresh), 64, pool=pool)
    with instant_server(short_texts, latency_s=0.2, core=server_core) as url:
        figures["200ms"] = run_path(url, scaled(8_000), 256, short=True)
    if arguments.memory:
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(instant_server(short_texts, core=server_core))
            grown = run_path(url, 200_000, 64, short=True, watch=(len(short_texts), 199_000))
            first, last = sorted(grown.rss)
            result["rss_bytes_per_request"] = round((grown.rss[last] - grown.rss[first]) / (last - first), 1)
        result["dedup_p99_ms"] = round(dedup_p99_ms(real_texts, 100_000), 2)
    result |= {
        "requests_per_s": round(figures["short_64"].requests_per_s),
        "cpu_ms_per_request": round(figures["short_64"].cpu_ms, 3),
        "requests_per_s_real": round(figures["real_64"].requests_per_s),
        "requests_per_s_dedup": round(figures["dedup"].requests_per_s),
        "requests_per_s_200ms": round(figures["200ms"].requests_per_s),
        "requests_per_s_256": round(figures["short_256"].requests_per_s),
        "requests_per_s_real_256": round(figures["real_256"].requests_per_s),
        "cpu_ms": {name: round(figure.cpu_ms, 3) for name, figure in figures.items()},
        "prompt_characters": {name: round(figure.prompt_chars) for name, figure in figures.items()},
        "reply_characters": {"short": _mean_length(short_texts), "real": _mean_length(fresh)},
        "accepted": {name: figure.accepted for name, figure in figures.items()},
        "rejected": {name: figure.reasons for name, figure in figures.items() if figure.reasons},
        "fsync_every": GenerateConfig().fsync_every,
        "machine": machine,
    }
    print(json.dumps(result))


def _mean_length(texts: list[str]) -> int:
    return round(sum(map(len, texts)) / len(texts))


if __name__ == "__main__":
    main()
