"""kill -9 at random moments of a generation, resumed each time: is the data byte-equal to an uninterrupted run's?

    python benchmarks/kill_resume.py [--kills 20] [--concurrency 1 8 64] [--dialogues 200] [--what generate|inpaint]

The moments are uniform over the measured duration of an uninterrupted run, from the first line of the run to the end of
the process, saving included (imports are not). Prints one JSON line; `phases` counts where the kills fell.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from data_gen.config import GenerateConfig, InpaintConfig, TeacherConfig
from data_gen.teacher.serve import background_server

SIDES = {"train": 0.6, "valid": 0.1, "test": 0.1, "base": 0.2}
NAMES = ("dialogues.jsonl", "train.jsonl", "valid.jsonl", "test.jsonl", "base.jsonl", "quarantine.jsonl", "seeds.jsonl")


def child(what: str, out: str, url: str, concurrency: int, dialogues: int, source: str) -> None:
    """One process of a run, killed or not."""
    from data_gen.generate import generate
    from data_gen.inpaint import inpaint
    from data_gen.progress import Progress

    teacher = TeacherConfig(base_url=url, concurrency=concurrency)
    silent = Progress(enabled=False)
    print("begin", flush=True)
    if what == "generate":
        generate(GenerateConfig(out=out, num_dialogues=dialogues, sides=SIDES), teacher, silent)
    else:
        inpaint(InpaintConfig(input=source, out=out, num_alternatives=3), teacher, silent)


def start(what: str, out: Path, url: str, concurrency: int, dialogues: int, source: Path) -> subprocess.Popen[bytes]:
    """Start a child and return once its run begins."""
    arguments = [what, str(out), url, str(concurrency), str(dialogues), str(source)]
    process = subprocess.Popen([sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"begin\n"
    return process


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child that must succeed."""
    if process.wait(300):
        raise SystemExit(f"a run ended with {process.returncode}")


def bytes_of(out: Path) -> dict[str, bytes]:
    """Every file that must be equal."""
    names = [*NAMES, "card.json", "README.md"]
    return {name: (out / name).read_bytes() for name in names if (out / name).is_file()}


def phase_of(out: Path, replies_in_all: int) -> str:
    """Where a killed run was: before its journal, asking, saving, or at its end."""
    journal = out / "journal.jsonl"
    if not journal.is_file() or not journal.stat().st_size:
        return "starting"
    if journal.read_bytes().count(b'{"kind":"reply"') < replies_in_all:
        return "asking"
    return "ended" if (out / "README.md").is_file() else "saving"


def kill_and_resume(
    what: str, concurrency: int, kills: int, dialogues: int, url: str, folder: Path, source: Path, seed: int = 0
) -> dict[str, Any]:
    """Kill `kills` runs at random moments and compare each, resumed, with the uninterrupted one."""
    reference = folder / f"{what}-{concurrency}"
    process = start(what, reference, url, concurrency, dialogues, source)
    began = time.perf_counter()
    finish(process)
    duration_s = time.perf_counter() - began
    expected = bytes_of(reference)
    replies = (reference / "journal.jsonl").read_bytes().count(b'{"kind":"reply"')
    rng, phases, equal, twice = random.Random(seed), Counter[str](), 0, 0
    for number in range(kills):
        out = folder / f"{what}-{concurrency}-{number}"
        process = start(what, out, url, concurrency, dialogues, source)
        time.sleep(rng.random() * duration_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        phases[phase_of(out, replies)] += 1
        finish(start(what, out, url, concurrency, dialogues, source))
        equal += bytes_of(out) == expected
        lines = (out / "journal.jsonl").read_bytes().splitlines()
        indices = [json.loads(line)["index"] for line in lines if line.startswith(b'{"kind":"reply"')]
        twice += len(indices) - len(set(indices))
    return {
        "kills": kills,
        "byte_equal": equal,
        "journalled_twice": twice,
        "duration_s": round(duration_s, 2),
        "phases": dict(phases),
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        what, out, url, concurrency, dialogues, source = sys.argv[2:]
        child(what, out, url, int(concurrency), int(dialogues), source)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--dialogues", type=int, default=200)
    parser.add_argument("--what", choices=("generate", "inpaint"), default="generate")
    options = parser.parse_args()
    with background_server() as url, tempfile.TemporaryDirectory() as name:
        folder, result = Path(name), {}
        source = folder / "source"
        if options.what == "inpaint":
            finish(start("generate", source, url, 16, options.dialogues, source))
        for concurrency in options.concurrency:
            result[str(concurrency)] = kill_and_resume(
                options.what, concurrency, options.kills, options.dialogues, url, folder, source
            )
    print(json.dumps({"benchmark": "kill_resume", "what": options.what, "by_concurrency": result}))


if __name__ == "__main__":
    main()
