"""Structured attention against a dense mask on a CPU: which is faster for which row.

python benchmarks/attention_choice.py [--dtypes fp32 bf16] [--lengths 128 256 …] [--rounds 5]

One layer's attention, forward and backward, 8 heads of 64, on made-up trees: turns of 30 tokens of context and 30 of
response, N alternatives each as short as 12 or as long as 60 tokens. Arms are interleaved; medians. One JSON line: for
each case the milliseconds of both, calls (kernel calls of the structured path) and density (visible pairs / T^2), and
a fit `milliseconds = call x calls + pair x visible pairs` (structured), `call + pair x T^2` (dense), from which
extes_train/model/choosing.py has its rule.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from extes_train.model.batch import RowBatch, row_batch_from_arrays
from extes_train.model.choosing import kernel_calls
from extes_train.model.structured import tree_attention
from extes_train.tokens.rows import pack_rows
from extes_train.tokens.tree import ResponseWeights, build_trees
from extes_train.tokens.windows import Response, Window

HEADS, HEAD_SIZE, CONTEXT, RESPONSE = 8, 64, 30, 30
BRANCHES = {"short": 12, "long": 60}


def build_row(tokens: int, alternatives: int, branch: int, most_trunk: int = 1024) -> RowBatch:
    """A row of about `tokens` tokens: as many turns as fit, a new tree after `most_trunk` trunk tokens."""
    trees, left = [], tokens
    per_turn = CONTEXT + RESPONSE + alternatives * branch
    while left > per_turn or not trees:
        turns = max(1, min(left // per_turn, most_trunk // (CONTEXT + RESPONSE)))
        responses, trunk = [], 0
        for turn in range(turns):
            trunk += CONTEXT
            for number in range(-1, alternatives):
                ids = np.zeros(branch if number >= 0 else RESPONSE, dtype=np.int32)
                responses.append(Response(turn, number, trunk, ids, 1, 1))
            trunk += RESPONSE
        trees += build_trees(Window(0, 0, turns, np.zeros(trunk, dtype=np.int32), responses), ResponseWeights())
        left -= turns * per_turn
    (row,) = pack_rows(trees, sum(map(len, trees)))
    return row_batch_from_arrays(row)


def measure(row: RowBatch, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Median milliseconds of forward and backward, both ways, interleaved; each way's first call is not counted."""
    length = row.tree_T.numel()
    torch.manual_seed(0)
    inputs = [torch.randn(1, length, HEADS, HEAD_SIZE).to(dtype).transpose(1, 2).requires_grad_() for _ in range(3)]
    probe = torch.randn(1, length, HEADS, HEAD_SIZE).to(dtype).transpose(1, 2)

    def dense() -> Any:
        mask_TT = row.allowed_TT()[None, None]
        return torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask_TT)

    ways = {"structured": lambda: tree_attention(*inputs, row, None), "dense": dense}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            torch.autograd.grad(way(), inputs, probe)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(times[1:]) for name, times in seconds.items()}


def pairs_of(row: RowBatch) -> int:
    """Visible (query, key) pairs."""
    return int(row.allowed_TT().sum())


def fit(cases: list[dict[str, Any]]) -> dict[str, float]:
    """Least squares in relative error, microseconds: a call and a thousand pairs, structured and dense."""
    call, pair = _fit([(case["calls"], case["pairs"], case["structured"]) for case in cases])
    dense_call, dense_pair = _fit([(1, case["tokens"] ** 2, case["dense"]) for case in cases])
    return {
        "call_us": 1e3 * call, "pairs_us_per_1000": 1e6 * pair,
        "dense_call_us": 1e3 * dense_call, "dense_us_per_1000": 1e6 * dense_pair,
    }  # fmt: skip


def _fit(cases: list[tuple[int, int, float]]) -> tuple[float, float]:
    """(a, b) such that a x first + b x second is the third, in milliseconds."""
    table = np.array(cases, dtype=np.float64)
    (first, second), *_ = np.linalg.lstsq(table[:, :2] / table[:, 2:], np.ones(len(table)), rcond=None)
    return float(first), float(second)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--alternatives", nargs="+", type=int, default=[0, 1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    for name in options.dtypes:
        cases = []
        for tokens in options.lengths:
            for count in options.alternatives:
                for kind, branch in BRANCHES.items() if count else [("none", 0)]:
                    row = build_row(tokens, count, branch)
                    length, pairs = row.tree_T.numel(), pairs_of(row)
                    took = measure(row, {"fp32": torch.float32, "bf16": torch.bfloat16}[name], options.rounds)
                    cases.append({
                        "tokens": length, "alternatives": count, "branches": kind, "calls": kernel_calls(row),
                        "pairs": pairs, "density": round(pairs / length**2, 3),
                        **{way: round(value, 3) for way, value in took.items()},
                    })  # fmt: skip
                    print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
        found[name] = {"fit": fit(cases), "cases": cases}
    print(json.dumps({"benchmark": "attention_choice", **found, **describe_machine()}))


if __name__ == "__main__":
    main(sys.argv[1:])
