"""Training on token trees against flat samples: the same responses, model, loss, dtype and optimizer.

    python benchmarks/tree_training.py --quick     1 M parameters, few dialogues: a minute or two
    python benchmarks/tree_training.py             1 M and 25 M parameters, fp32 and bf16 weights: half an hour
    python benchmarks/tree_training.py --models 25M --dtypes fp32 --arms buckets packed --rounds 5 --no-extras

Forward, backward and AdamW of one optimizer step, arm after arm in one process, `--rounds` times, a tree step before
each flat one; medians. Prints one JSON line. Per model and dtype: `ratio_best_flat` (against the fastest flat arm),
`ratio_packed` (dense mask, as usual), `ratio_padded`, `token_ratio` (multi_turn tokens / tree tokens), `max_grad_diff`
(largest relative difference of a gradient tensor between tree and flat, fp32 only). Ratios of seconds, and of this
process's CPU seconds (`cpu_ratio_…`), which move little when other processes take the machine. Then N=0 against packed
rows, and time per token by amount of data and by length of row.
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

from benchmarks.machine import describe_machine
from benchmarks.tree_inputs import LLAMA_VOCABULARY, SHAPES, llama_tokenizer, new_model, read_dialogues, small_tokenizer

FLAT = ("buckets", "packed", "packed_ours", "padded")


def main() -> None:
    options = parse()
    import torch

    from extes_train.training.freed_memory import keep_freed_memory

    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as in training; or an arm fetches again what the one before it gave back
    tokenizer = small_tokenizer()
    cases = []
    for size in options.models:
        for dtype in options.dtypes:
            words = llama_tokenizer() if size == LLAMA_VOCABULARY else tokenizer
            if words is not None:
                cases.append(compare(size, dtype, words, options))
                say(cases[-1])
    result: dict[str, Any] = {"benchmark": "tree_training", "cases": cases}
    if options.extras:
        result["no_alternatives"] = no_alternatives(options.models[0], tokenizer, options)
        result["by_data"] = by_data(tokenizer, options)
        result["by_row"] = by_row(tokenizer, options)
    headline = next((c for c in cases if (c["model"], c["dtype"]) == ("25M", "fp32")), cases[0] if cases else {})
    names = ("ratio_best_flat", "ratio_packed", "ratio_padded", "token_ratio", "max_grad_diff")
    print(json.dumps({**{k: headline.get(k) for k in names}, **result, **machine(options)}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="1 M parameters in fp32, two dialogues, three rounds")
    parser.add_argument("--models", nargs="*", default=["1M", "25M"], choices=sorted(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--arms", nargs="+", default=list(FLAT) + ["per_response"], help="flat arms to measure")
    parser.add_argument("--dialogues", type=int, default=1)
    parser.add_argument("--alternatives", type=int, default=4)
    parser.add_argument("--context", type=int, default=2048, help="longest path in tokens")
    parser.add_argument("--tokens-per-row", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves it at its default")
    parser.add_argument("--no-extras", dest="extras", action="store_false", help="leave out N=0 and linear cost")
    options = parser.parse_args()
    if options.quick:
        options.models, options.dtypes, options.rounds = ["1M"], ["fp32"], 3
    return options


def compare(size: str, dtype: str, tokenizer: Any, options: argparse.Namespace) -> dict[str, Any]:
    """One model and dtype: tree against the flat arms at N alternatives."""
    from benchmarks.tree_arms import build_arms, gradients

    dialogues, source = read_dialogues(options.dialogues, options.alternatives)
    names = ["tree", *options.arms]
    arms = build_arms(names, dialogues, tokenizer, options.context, options.tokens_per_row)
    model = new_model(size, len(tokenizer), torch_dtype(dtype), options.context)
    worst = None
    if dtype == "fp32":
        tree, flat = (gradients(model, arm) for arm in arms[:2])
        worst = max(float((tree[n] - g).norm() / g.norm()) for n, g in flat.items())
    every, every_cpu = measure(model, arms, options.rounds)
    seconds, cpu = medians(every), medians(every_cpu)
    flat_arms = [name for name in options.arms if name in FLAT]
    tokens = {arm.name: arm.tokens for arm in arms}
    case: dict[str, Any] = {
        "model": size, "dtype": f"{dtype}", "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer), "data": source, "dialogues": options.dialogues,
        "alternatives": options.alternatives, "targets": sum(len(row.target_Q) for row in arms[0].batches),
        "token_ratio": tokens[arms[1].name] / tokens["tree"] if flat_arms else None, "max_grad_diff": worst,
        "best_flat": min(flat_arms, key=lambda name: seconds[name]) if flat_arms else None,
    }  # fmt: skip
    for prefix, table in (("", seconds), ("cpu_", cpu)):
        case[prefix + "ratio_best_flat"] = min((table[name] for name in flat_arms), default=0) / table["tree"]
        case |= {f"{prefix}ratio_{name}": table[name] / table["tree"] for name in options.arms}
    case["seconds"], case["tokens"] = seconds, tokens
    case["fastest_and_slowest_step"] = {name: [min(steps), max(steps)] for name, steps in every.items()}
    case["padding"] = {arm.name: arm.padding for arm in arms if arm.padding}
    case["longest_row"] = max(row.num_tokens for row in arms[0].batches)
    return case


def measure(model: Any, arms: list[Any], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and CPU seconds of every step of each arm, interleaved; one step of the first before counts for nothing.

    The first arm, which every ratio has below the line and whose steps are the shortest, steps beside each other one.
    """
    import torch

    from benchmarks.tree_arms import run_step

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    wall: dict[str, list[float]] = {arm.name: [] for arm in arms}
    cpu: dict[str, list[float]] = {arm.name: [] for arm in arms}
    first, others = arms[0], arms[1:]
    run_step(model, first, optimizer)
    for number in range(rounds):
        turn = number % max(1, len(others))
        for arm in [step for other in others[turn:] + others[:turn] for step in (first, other)] or [first]:
            start, start_cpu = time.perf_counter(), time.process_time()
            run_step(model, arm, optimizer)
            wall[arm.name].append(time.perf_counter() - start)
            cpu[arm.name].append(time.process_time() - start_cpu)
    return wall, cpu


def medians(table: dict[str, list[float]]) -> dict[str, float]:
    """By arm."""
    return {name: statistics.median(values) for name, values in table.items()}


def no_alternatives(size: str, tokenizer: Any, options: argparse.Namespace) -> dict[str, Any]:
    """N=0: trees are single trunks; against packed rows of multi_turn samples, ours and with a dense mask."""
    import argparse as values

    changed = values.Namespace(**vars(options))
    changed.alternatives, changed.arms, changed.dialogues = 0, ["packed_ours", "packed", "buckets"], 8
    return compare(size, "fp32", tokenizer, changed)


def by_data(tokenizer: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds per tree token at 1, 4 and 16 times the data; the step grows with it."""
    from benchmarks.tree_arms import build_arms

    model = new_model("1M", len(tokenizer), torch_dtype("fp32"), options.context)
    arms = []
    for times in (1, 4, 16):
        dialogues = read_dialogues(times, options.alternatives)[0]
        (arm,) = build_arms(["tree"], dialogues, tokenizer, options.context, options.tokens_per_row)
        arm.name = f"{times}x"
        arms.append(arm)
    return per_token(model, arms, options)


def by_row(tokenizer: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds per token in rows of 512 to 4,096 tokens, the windows (context 512) being the same."""
    from benchmarks.tree_arms import build_arms

    model = new_model("1M", len(tokenizer), torch_dtype("fp32"), options.context)
    dialogues = read_dialogues(4, options.alternatives)[0]
    arms = []
    for tokens_per_row in (512, 1024, 2048, 4096):
        (arm,) = build_arms(["tree"], dialogues, tokenizer, 512, tokens_per_row)
        arm.name = f"{tokens_per_row} tokens a row"
        arms.append(arm)
    return per_token(model, arms, options)


def per_token(model: Any, arms: list[Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Tokens, seconds and microseconds per token of each arm."""
    seconds, cpu = (medians(table) for table in measure(model, arms, options.rounds))
    return [
        {
            "case": arm.name, "tokens": arm.tokens, "seconds": seconds[arm.name],
            "us_per_token": 1e6 * seconds[arm.name] / arm.tokens, "cpu_us_per_token": 1e6 * cpu[arm.name] / arm.tokens,
        }
        for arm in arms
    ]  # fmt: skip


def torch_dtype(name: str) -> Any:
    """fp32, or bf16 weights (no autocast, no fp32 copy: AdamW works on the bf16 weights)."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def machine(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {"threads": torch.get_num_threads(), "bf16_means": "bf16 weights", **describe_machine()}


def say(case: dict[str, Any]) -> None:
    shown = {k: round(v, 3) if isinstance(v, float) and v > 1e-3 else v for k, v in case.items()}
    print(json.dumps(shown), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
