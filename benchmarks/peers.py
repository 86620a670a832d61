"""The same responses through other trainers and through ours: wall-clock seconds of one epoch, in one run.

    python benchmarks/peers.py --quick       few dialogues, fp32
    python benchmarks/peers.py               N=0 on 100 dialogues, N=4 on 15
    python benchmarks/peers.py --full        N=4 on 100 dialogues too (hours)

A LLaMA of 25 M parameters with the Llama vocabulary, the same token ids and labels for everybody (multi_turn samples;
the numbers of targets are compared), the same responses in a step, AdamW, fp32 or bf16 (peers: autocast over fp32
weights; ours: bf16 weights under ZeRO-1). TRL's SFTTrainer packs and runs in a virtual environment of its own; Hugging
Face's Trainer pads. Ours runs twice, first and last. Seconds are each trainer's own measure of training, without
start-up. LLaMA-Factory is not driven by this script. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from benchmarks.tree_inputs import (
    LLAMA_VOCABULARY,
    ROOT,
    build_windows,
    llama_tokenizer,
    new_model,
    read_dialogues,
    trees_of,
)

CONTEXT = 2048
TRL = "trl==1.16.0"


def main() -> None:
    options = parse()
    tokenizer = llama_tokenizer()
    if tokenizer is None:
        print(json.dumps({"benchmark": "peers", "skipped": "needs ../shared (Llama tokenizer and dialogues)"}))
        return
    import torch

    options.work.mkdir(parents=True, exist_ok=True)
    pythons = {name: python for name in options.peers if (python := python_of(name, options)) is not None}
    model = options.work / "model"
    new_model(LLAMA_VOCABULARY, len(tokenizer), torch.float32, CONTEXT).save_pretrained(model)
    tokenizer.save_pretrained(model)
    cases = []
    for num_alternatives, count in ((0, options.plain), (4, options.inpainted)):
        if count:
            for dtype in options.dtypes:
                cases.append(compare(tokenizer, model, num_alternatives, count, dtype, pythons, options))
                print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"benchmark": "peers", "cases": cases, "threads": options.threads, **describe_machine()}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="4 dialogues at N=0, 1 at N=4, fp32")
    parser.add_argument("--full", action="store_true", help="100 dialogues at N=4 too")
    parser.add_argument("--peers", nargs="*", default=["trl", "trainer"], choices=["trl", "trainer"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dialogues-per-step", type=int, default=8)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "extes-peers", help="kept")
    options = parser.parse_args()
    options.plain, options.inpainted = (4, 1) if options.quick else (100, 100 if options.full else 15)
    if options.quick:
        options.dtypes, options.dialogues_per_step = ["fp32"], 1
    return options


def python_of(peer: str, options: argparse.Namespace) -> str | None:
    """The interpreter of a peer. TRL's environment sees our packages through a .pth file and adds TRL alone."""
    if peer == "trainer":
        return sys.executable
    folder = options.work / f"venv-{peer}"
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        (site,) = (folder / "lib").glob("python*/site-packages")
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (site / "ours.pth").write_text(f"{ours}\n", encoding="utf-8")
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", "--no-deps", TRL], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{peer}: not installed: {done.stderr.strip()[-300:]}", file=sys.stderr)
            return None
    return str(python)


def compare(
    tokenizer: Any, model: Path, num_alternatives: int, count: int, dtype: str, pythons: dict[str, str],
    options: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """One epoch for everybody."""
    dialogues, source = read_dialogues(count, num_alternatives)
    samples = trees_of(build_windows(dialogues, tokenizer, CONTEXT, "flat"))
    folder = options.work / f"n{num_alternatives}-{dtype}"
    folder.mkdir(exist_ok=True)
    write_samples(samples, folder / "samples.jsonl")
    settings = {
        "model": str(model), "samples": str(folder / "samples.jsonl"), "out": str(folder / "out"), "row": CONTEXT,
        "samples_per_step": max(1, options.dialogues_per_step * len(samples) // count), "bf16": dtype == "bf16",
        "threads": options.threads,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    results = {"ours": run_ours(dialogues, model, folder / "first", dtype, options)}
    for peer, python in pythons.items():
        results[peer] = run_peer(peer, python, folder, options)
    results["ours again"] = run_ours(dialogues, model, folder / "again", dtype, options)
    targets = {name: result["targets"] for name, result in results.items() if "targets" in result}
    ours = sum(results[name]["seconds"] for name in ("ours", "ours again")) / 2
    others = {name: results[name]["seconds"] for name in pythons if "seconds" in results[name]}
    return {
        "data": source, "dialogues": count, "alternatives": num_alternatives, "dtype": dtype, "samples": len(samples),
        "flat_tokens": sum(map(len, samples)), "targets": targets, "targets_equal": len(set(targets.values())) == 1,
        "seconds": {name: result.get("seconds") for name, result in results.items()},
        "errors": {name: result["error"] for name, result in results.items() if "error" in result},
        "speedup_over_fastest": min(others.values()) / ours if others else None,
    }  # fmt: skip


def write_samples(samples: list[Any], path: Path) -> None:
    """Token ids and labels, -100 where there is no target."""
    with path.open("w", encoding="utf-8") as file:
        for tree in samples:
            labels = [-100] * len(tree)
            for target in tree.target_Q.tolist():
                labels[target] = int(tree.ids_T[target])
            file.write(json.dumps({"input_ids": tree.ids_T.tolist(), "labels": labels}) + "\n")


def run_peer(peer: str, python: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [python, str(ROOT / "benchmarks/peer_worker.py"), peer, str(folder / "settings.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(options))
    if done.returncode:
        return {"error": done.stderr.strip()[-500:]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run_ours(dialogues: list[Any], model: Path, run: Path, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """`extes_train.train` on the same dialogues; its cost.json."""
    import shutil

    from extes_train.dialogue.jsonl import write_dialogues

    shutil.rmtree(run, ignore_errors=True)
    data = run.with_suffix(".jsonl")
    write_dialogues(data, dialogues)
    words = [
        f"run_dir={run}", f"data.train={data}", "data.valid_fraction=0.0", "data.taxonomy=any", "data.leak_check=false",
        f"model.path={model}", f"model.context_length={CONTEXT}", "model.chat_template=plain", f"model.dtype={dtype}",
        "tokens.too_long=truncate_response", "tokens.min_left_context=0", f"tokens.tokens_per_row={2 * CONTEXT}",
        "augmentation=dri", "tuning=full", f"zero=zero{1 if dtype == 'bf16' else 0}", "tracker=none", "optim.epochs=1",
        f"optim.dialogues_per_step={options.dialogues_per_step}", "optim.lr=1e-4", "checkpoint.at_end=false",
    ]  # fmt: skip
    command = [sys.executable, "-m", "extes_train.train", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment(options))
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    cost = json.loads((run / "cost.json").read_text(encoding="utf-8"))
    return {"seconds": cost["train_seconds"], "targets": cost["targets"], "tokens": cost["tokens"]}


def environment(options: argparse.Namespace) -> dict[str, str]:
    import os

    threads = str(options.threads)
    return {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    main()
