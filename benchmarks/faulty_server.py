"""Generation against a server that fails: is every record accounted for, and how long does it take?

    python benchmarks/faulty_server.py [--requests 2000] [--concurrency 64]

Three runs on the offline teacher in its own process: no faults; 5 % of 429 with `Retry-After: 1` and 5 % of 500; faults
of all kinds on a fifth of the requests (429, 500, hangs, resets, truncated bodies, garbage, refusals, finish reasons
length and content_filter). Seconds are of the whole run, files included. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from data_gen.config import FaultsConfig, GenerateConfig, ServeConfig, TeacherConfig
from data_gen.generate import generate
from data_gen.journal import read_journal
from data_gen.progress import Progress
from data_gen.teacher.serve import background_server

_ALL_KINDS = ("429", "500", "hang", "reset", "truncated", "garbage", "refusal", "length", "content_filter")
CASES = {
    "no_faults": FaultsConfig(),
    "429_and_500": FaultsConfig(rate_429=0.05, rate_500=0.05, retry_after_s=1.0),
    "all_kinds": FaultsConfig(**{f"rate_{kind}": 0.2 / len(_ALL_KINDS) for kind in _ALL_KINDS}, hang_s=2.0),
}


def run(faults: FaultsConfig, requests: int, concurrency: int) -> dict[str, Any]:
    """One generation of `requests` dialogues; what became of each candidate."""
    with tempfile.TemporaryDirectory() as out, background_server(ServeConfig(port=0, faults=faults)) as url:
        teacher = TeacherConfig(base_url=url, concurrency=concurrency, timeout_s=1.0)
        config = GenerateConfig(out=out, num_dialogues=requests, min_acceptance=0.0)
        began = time.perf_counter()
        result = generate(config, teacher, Progress(enabled=False))
        seconds = time.perf_counter() - began
        indices = [r["index"] for r in read_journal(Path(out, "journal.jsonl")) if r["kind"] == "reply"]
        written = Path(out, "dialogues.jsonl").read_bytes().count(b"\n")
    return {
        "seconds": round(seconds, 2),
        "candidates": result.candidates,
        "accepted": result.accepted,
        "written": written,
        "rejected": result.reasons,
        "lost": result.candidates - result.accepted - sum(result.reasons.values()),
        "journalled_once_each": sorted(indices) == list(range(result.candidates)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    cases = {name: run(faults, options.requests, options.concurrency) for name, faults in CASES.items()}
    print(json.dumps({"benchmark": "faulty_server", **cases, **describe_machine()}))


if __name__ == "__main__":
    main()
