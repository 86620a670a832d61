"""A training step on a token tree with norms and MLPs compiled (model.compile=true) and without, on a CPU.

    python benchmarks/compiled_step.py [--models 1M 25M] [--dtypes fp32 bf16] [--rounds 4] [--threads 2]

Forward, backward and AdamW of one real dialogue with N=4, interleaved; medians. `first_step_s` is the compiled model's
first step, code generation included. Needs a C++ compiler. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.machine import describe_machine
from benchmarks.tree_arms import build_arms, run_step
from benchmarks.tree_inputs import SHAPES, new_model, read_dialogues, small_tokenizer
from benchmarks.tree_training import torch_dtype
from extes_train.model.compiling import compile_layers
from extes_train.training.freed_memory import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["1M", "25M"], choices=sorted(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    cases = [compare(size, dtype, options.rounds) for size in options.models for dtype in options.dtypes]
    print(json.dumps({"benchmark": "compiled_step", "cases": cases, "threads": options.threads, **describe_machine()}))


def compare(size: str, dtype: str, rounds: int) -> dict[str, Any]:
    """Median seconds of a step, plain and compiled."""
    tokenizer = small_tokenizer()
    (arm,) = build_arms(["tree"], read_dialogues(1, 4)[0], tokenizer, 2048, 4096)
    models = {name: new_model(size, len(tokenizer), torch_dtype(dtype), 2048) for name in ("plain", "compiled")}
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True) for name, model in models.items()}
    compile_layers(models["compiled"], zero_stage=2)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            run_step(model, arm, optimizers[name])
            seconds[name].append(time.perf_counter() - start)
    first = seconds["compiled"][0]
    found = {name: statistics.median(steps[1:]) for name, steps in seconds.items()}
    case = {"model": size, "dtype": dtype, **found, "first_step_s": first}
    print(json.dumps(case), file=sys.stderr, flush=True)
    return case


if __name__ == "__main__":
    main()
