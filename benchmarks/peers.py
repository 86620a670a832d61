"""The same responses through other trainers and through ours: wall-clock seconds of one epoch, in one run.

    python benchmarks/peers.py                    N=0 on 100 dialogues, N=4 on 15, fp32 and bf16
    python benchmarks/peers.py --full             N=4 on 100 dialogues too (hours)
    python benchmarks/peers.py --quick            few dialogues, fp32: that it works, not how fast it is
    python benchmarks/peers.py --estimate         how long this would take; makes the environments
    python benchmarks/peers.py --plain 100 --inpainted 15 --dtypes bf16 --peers llamafactory trainer

A LLaMA of 25 M parameters with the Llama vocabulary; the same token ids and labels for everybody (multi_turn samples,
which is what trees stand for), the same responses in an optimizer step on average, AdamW with the same settings. TRL's
SFTTrainer packs, Hugging Face's Trainer pads, LLaMA-Factory packs (neat_packing); each has a virtual environment of its
own under --work. Ours runs twice, first and last. `seconds` is each trainer's own measure of training, without
start-up; `process_seconds` is the whole process. `targets` are counted in what reaches each trainer's loss. bf16 is
autocast over fp32 weights for the peers, and bf16 weights with fp32 master weights for ours: `details` says what each
one computed in. An interrupted run goes on with --resume: every result is kept under --work. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from benchmarks.peer_environments import PACKAGES, InstallError, python_of
from benchmarks.peer_runs import CPU_ONLY, Case, Result, run_ours, run_peer
from benchmarks.tree_inputs import (
    LLAMA_VOCABULARY,
    build_windows,
    llama_tokenizer,
    new_model,
    read_dialogues,
    trees_of,
)

CONTEXT = 2048
AIMS = {0: 1.5, 4: 10.0}  # against the fastest peer, by alternatives
OURS = ("ours", "ours again")
# ms per token (flat for the peers, of trees for ours) on 2 cores of 193 GFLOP/s in fp32, for estimates alone
MS_PER_TOKEN = {
    "trl": {"fp32": 3.0, "bf16": 2.5}, "trainer": {"fp32": 2.6, "bf16": 1.7},
    "llamafactory": {"fp32": 1.8, "bf16": 1.35}, "ours": {"fp32": 1.0, "bf16": 0.5},
}  # fmt: skip
START_S = 20.0  # of a process


def main() -> None:
    options = parse()
    os.environ.update(CPU_ONLY)
    tokenizer = llama_tokenizer()
    if tokenizer is None:
        print(json.dumps({"benchmark": "peers", "skipped": "needs ../shared (Llama tokenizer and dialogues)"}))
        return
    import torch

    options.work.mkdir(parents=True, exist_ok=True)
    pythons, missing = environments(options)
    model = options.work / "model"
    new_model(LLAMA_VOCABULARY, len(tokenizer), torch.float32, CONTEXT).save_pretrained(model)
    tokenizer.save_pretrained(model)
    counts = ((0, options.plain), (4, options.inpainted))
    todo = [(n, count, dtype) for n, count in counts if count for dtype in options.dtypes]
    cases = [case_of(tokenizer, model, *which, options) for which in todo]
    seconds = sum(estimate(case, pythons) for case in cases)
    say(f"{len(cases)} cases; about {seconds / 60:.0f} minutes on 2 cores of 193 GFLOP/s in fp32")
    if options.estimate:
        print(json.dumps({"benchmark": "peers", "estimated_seconds": round(seconds), "not_installed": missing}))
        return
    compared = []
    for case in cases:
        compared.append(compare(case, pythons))
        say(json.dumps(compared[-1]))
    result = {"benchmark": "peers", "cases": compared, "not_installed": missing, "threads": options.threads}
    print(json.dumps({**result, "context": CONTEXT, **describe_machine()}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="4 dialogues at N=0, 1 at N=4, fp32, one a step")
    parser.add_argument("--full", action="store_true", help="100 dialogues at N=4 too")
    parser.add_argument("--estimate", action="store_true", help="say how long it would take and stop")
    parser.add_argument("--plain", type=int, help="dialogues at N=0; 0 for none (default 100)")
    parser.add_argument("--inpainted", type=int, help="dialogues at N=4; 0 for none (default 15)")
    parser.add_argument("--peers", nargs="*", default=list(PACKAGES), choices=list(PACKAGES))
    parser.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], help="default both")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dialogues-per-step", type=int, help="default 8")
    parser.add_argument("--limit-s", type=float, default=7200.0, help="of one trainer in one case")
    parser.add_argument("--resume", action="store_true", help="keep the results that are under --work already")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "extes-peers", help="kept")
    options = parser.parse_args()
    plain, inpainted = (4, 1) if options.quick else (100, 100 if options.full else 15)
    options.plain = plain if options.plain is None else options.plain
    options.inpainted = inpainted if options.inpainted is None else options.inpainted
    options.dtypes = options.dtypes or (["fp32"] if options.quick else ["fp32", "bf16"])
    options.dialogues_per_step = options.dialogues_per_step or (1 if options.quick else 8)
    options.work = options.work.absolute()
    return options


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def environments(options: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """The interpreters of the peers, and why others have none."""
    pythons, missing = {}, {}
    for peer in options.peers:
        try:
            pythons[peer] = python_of(peer, options.work)
        except InstallError as error:
            missing[peer] = str(error)
            say(f"{peer}: not installed: {error}")
    return pythons, missing


def case_of(
    tokenizer: Any, model: Path, num_alternatives: int, count: int, dtype: str, options: argparse.Namespace
) -> Case:
    """A case with its files written."""
    from extes_train.dialogue.jsonl import write_dialogues

    dialogues, source = read_dialogues(count, num_alternatives)
    samples = trees_of(build_windows(dialogues, tokenizer, CONTEXT, "flat"))
    trees = build_windows(dialogues, tokenizer, CONTEXT, "tree")
    per_step = min(options.dialogues_per_step, count)
    folder = options.work / f"n{num_alternatives}-{count}-{dtype}"
    folder.mkdir(exist_ok=True)
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    write_samples(samples, folder / "samples.jsonl")
    settings = {
        "model": str(model), "samples": str(folder / "samples.jsonl"), "row": CONTEXT, "bf16": dtype == "bf16",
        "longest": max(map(len, samples)), "steps": math.ceil(len(trees) / per_step), "threads": options.threads,
    }  # fmt: skip
    facts = {
        "data": source, "dialogues": count, "alternatives": num_alternatives, "dtype": dtype, "samples": len(samples),
        "flat_tokens": sum(map(len, samples)), "tree_tokens": sum(map(len, trees_of(trees))),
        "dialogues_per_step": per_step, "steps": settings["steps"],
    }  # fmt: skip
    return Case(folder, facts, dtype, CONTEXT, settings, per_step, options.threads, options.limit_s, options.resume)


def write_samples(samples: list[Any], path: Path) -> None:
    """Token ids and labels, -100 where there is no target."""
    with path.open("w", encoding="utf-8") as file:
        for tree in samples:
            labels = [-100] * len(tree)
            for target in tree.target_Q.tolist():
                labels[target] = int(tree.ids_T[target])
            file.write(json.dumps({"input_ids": tree.ids_T.tolist(), "labels": labels}) + "\n")


def estimate(case: Case, pythons: dict[str, str]) -> float:
    """Seconds that a case takes, from earlier measurements."""
    rates = {name: MS_PER_TOKEN[name][case.dtype] * case.facts["flat_tokens"] / 1000 for name in pythons}
    ours = MS_PER_TOKEN["ours"][case.dtype] * case.facts["tree_tokens"] / 1000
    return sum(rates.values()) + 2 * ours + START_S * (len(pythons) + 2)


def compare(case: Case, pythons: dict[str, str]) -> Result:
    """One epoch for everybody, ours first and last."""
    say(f"{case.folder.name}: {case.facts}")
    results: dict[str, Result] = {}
    for name in (OURS[0], *pythons, OURS[1]):
        results[name] = run_peer(case, name, pythons[name]) if name in pythons else run_ours(case, name)
        say(f"{case.folder.name} {name}: {json.dumps(results[name])}")
    return {**case.facts, **verdict(results, AIMS[case.facts["alternatives"]]), "details": results}


def verdict(results: dict[str, Result], aim: float) -> Result:
    """Targets compared, and ours (mean of both runs) against each peer and the fastest.

    A peer that was ended at the time limit counts with the seconds it had trained for, less than it needs: a ratio to
    it is a lower bound, and so is `speedup_over_fastest` where such a peer is the fastest; both say so.
    """
    targets = {name: found["targets"] for name, found in results.items() if "targets" in found}
    own = [results[name]["seconds"] for name in OURS if "seconds" in results[name]]
    peers = {
        name: (found["seconds"], False) if "seconds" in found else (found["seconds_at_least"], True)
        for name, found in results.items()
        if name not in OURS and ("seconds" in found or "seconds_at_least" in found)
    }
    answer: Result = {
        "targets": targets, "targets_equal": len(set(targets.values())) == 1,
        "seconds": {name: found.get("seconds") for name, found in results.items()},
        "seconds_at_least": {name: seconds for name, (seconds, bound) in peers.items() if bound},
        "errors": {name: found["error"] for name, found in results.items() if "error" in found},
        "aim": aim, "speedup_over_fastest": None,
    }  # fmt: skip
    if own and peers:
        ours = sum(own) / len(own)
        fastest = min(peers, key=lambda name: peers[name])
        answer |= {
            "speedup": {name: seconds / ours for name, (seconds, _) in peers.items()}, "fastest_peer": fastest,
            "speedup_over_fastest": peers[fastest][0] / ours, "is_lower_bound": peers[fastest][1],
        }  # fmt: skip
    return answer


if __name__ == "__main__":
    main()
