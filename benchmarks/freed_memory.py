"""A CPU step on a token tree with freed memory given back at once, as launchers set it, and kept, as training does.

    python benchmarks/freed_memory.py [--models 25M] [--steps 5] [--threads 2]

Forward, backward and AdamW in fp32 of one real dialogue with N=4, each way in a child process of its own; the first
step counts for nothing. Seconds (median), page faults of a step (median) and peak memory. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from extes_train.environment import GIVE_BACK_THRESHOLD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["25M"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=["given back", "kept"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.models[0], options.steps, options.threads, options.child == "kept")))
        return
    cases = []
    for size in options.models:
        for way in ("given back", "kept"):
            words = ["--models", size, "--steps", str(options.steps), "--threads", str(options.threads)]
            child = subprocess.run(
                [sys.executable, __file__, "--child", way, *words],
                env={**os.environ, "MALLOC_MMAP_THRESHOLD_": GIVE_BACK_THRESHOLD, "OMP_WAIT_POLICY": "passive"},
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            cases.append({"model": size, "memory": way, **json.loads(child.stdout.splitlines()[-1])})
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"benchmark": "freed_memory", "cases": cases, "threads": options.threads, **describe_machine()}))


def measure(size: str, steps: int, threads: int, keep: bool) -> dict[str, Any]:
    """In a child: median seconds and page faults of a step, peak resident bytes."""
    import torch

    from benchmarks.tree_arms import build_arms, run_step
    from benchmarks.tree_inputs import new_model, read_dialogues, small_tokenizer
    from extes_train.training.freed_memory import keep_freed_memory

    torch.set_num_threads(threads)
    tokenizer = small_tokenizer()
    (arm,) = build_arms(["tree"], read_dialogues(1, 4)[0], tokenizer, 2048, 4096)
    model = new_model(size, len(tokenizer), torch.float32, 2048)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run_step(model, arm, optimizer)
    if keep and not keep_freed_memory():
        raise SystemExit("freed memory cannot be kept here")
    run_step(model, arm, optimizer)
    seconds, faults = [], []
    for _ in range(steps):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        run_step(model, arm, optimizer)
        seconds.append(time.perf_counter() - start)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(seconds), "page_faults": statistics.median(faults), "peak_bytes": peak}


if __name__ == "__main__":
    main()
