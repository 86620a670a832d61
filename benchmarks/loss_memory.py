"""Peak memory of the loss by vocabulary and row: it must not grow with their product.

    python benchmarks/loss_memory.py

Forward and backward of the head's loss for rows of 1,024 and 4,096 targets and vocabularies of 512, 32,000 and 128,000,
each in a process of its own (resident set at its highest, VmHWM, less that before). `extra_bytes` leaves out the
gradient of the head's weight, which any method needs. `full_logits_bytes` is what logits of all targets and their
gradient would take. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine

HIDDEN, CHUNK = 64, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[512, 32_000, 128_000])
    parser.add_argument("--targets", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--one", type=int, nargs=2, metavar=("VOCABULARY", "TARGETS"), help="measure in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    cases = [child(vocabulary, targets) for vocabulary in options.vocabularies for targets in options.targets]
    growth = {
        str(vocabulary): max(extra) / max(1, min(extra))
        for vocabulary in options.vocabularies
        if (extra := [case["extra_bytes"] for case in cases if case["vocabulary"] == vocabulary])
    }
    result = {"benchmark": "loss_memory", "chunk_tokens": CHUNK, "hidden": HIDDEN, "cases": cases}
    print(json.dumps({**result, "growth_with_targets": growth, **describe_machine()}))


def child(vocabulary: int, targets: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", str(vocabulary), str(targets)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def measure(vocabulary: int, targets: int) -> dict[str, Any]:
    """Bytes by which the resident set rises over the loss and its backward pass."""
    import torch

    from extes_train.model.loss import LinearCrossEntropy

    torch.manual_seed(0)
    weight = torch.randn(vocabulary, HIDDEN, requires_grad=True)
    warm = torch.randn(CHUNK, HIDDEN, requires_grad=True)
    small = torch.randn(64, HIDDEN, requires_grad=True)
    LinearCrossEntropy.apply(warm, small, None, torch.zeros(CHUNK).long(), torch.ones(CHUNK), 64)[0].backward()
    hidden = torch.randn(targets, HIDDEN, requires_grad=True)
    labels, ones = torch.randint(vocabulary, (targets,)), torch.ones(targets)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident now
    before = status("VmRSS")
    LinearCrossEntropy.apply(hidden, weight, None, labels, ones, CHUNK)[0].backward()
    peak = status("VmHWM") - before
    return {
        "vocabulary": vocabulary, "targets": targets, "peak_bytes": peak,
        "extra_bytes": max(0, peak - weight.numel() * 4), "full_logits_bytes": 2 * targets * vocabulary * 4,
    }  # fmt: skip


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    main()
