"""stories260K on ESConv, ours against the plain PyTorch reference of ../shared/reference/plain_sft.py.

Same text format, windows, optimizer and budget (200 steps of 16 windows, AdamW, lr 1e-3 cosine). Needs ../shared.

    python benchmarks/reference.py [--arms full lora] [--seeds 0 1]

Prints one JSON line: base perplexity, and per arm and seed ours, the reference's published figure, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
# printed by plain_sft.py on 2 x86-64 cores; base, then (arm, seed)
REFERENCE_BASE = 30.081
REFERENCE = {("full", 0): 7.811, ("full", 1): 7.793, ("lora", 0): 11.35, ("lora", 1): 11.297}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arms", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--out", type=Path, default=None, help="keep the runs here")
    options = parser.parse_args()
    if not SHARED.is_dir():
        print(json.dumps({"benchmark": "reference", "skipped": "needs ../shared"}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        for side in ("train", "valid"):
            extes("import", "esconv", str(SHARED / f"data/esconv/{side}.jsonl"), "-o", str(out / f"{side}.jsonl"))
        runs = [run_arm(out, arm, seed) for arm in options.arms for seed in options.seeds]
    print(json.dumps({"benchmark": "reference", "runs": runs, "reference_base": REFERENCE_BASE, **describe_machine()}))


def run_arm(out: Path, arm: str, seed: int) -> dict[str, object]:
    """Train and score one arm; perplexities of base and tuned model beside the reference's."""
    run_dir = out / f"{arm}-{seed}"
    words = [
        "experiment=esconv", f"tuning={arm}", f"seed={seed}", f"run_dir={run_dir}",
        f"data.train={out / 'train.jsonl'}",
        f"data.valid={out / 'valid.jsonl'}", f"model.path={SHARED / 'models/stories260K'}",
        "evaluation.num_responses=0", "tracker=none", "zero=zero0",
    ]  # fmt: skip
    extes("train", *words)
    extes("evaluate", *words)
    metrics = json.loads((run_dir / "evaluation/metrics.json").read_text())
    cost = json.loads((run_dir / "cost.json").read_text())
    reference = REFERENCE[arm, seed]
    return {
        "arm": arm,
        "seed": seed,
        "base_perplexity": metrics["base_perplexity"],
        "targets": metrics["count"],
        "perplexity": metrics["perplexity"],
        "reference": reference,
        "ratio": metrics["perplexity"] / reference,
        "seconds": cost["train_seconds"],
    }


def extes(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "launch", *words], check=True, cwd=ROOT, stdout=sys.stderr)


if __name__ == "__main__":
    main()
