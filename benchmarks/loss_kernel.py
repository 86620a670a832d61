"""liger-kernel's softmax in our loss: exact against fp64, and on a GPU time and memory beside torch's, by chunk.

    python benchmarks/loss_kernel.py

Needs liger-kernel and triton. Where there is no GPU, Triton's interpreter runs the same kernel on the CPU: exactness
only (on a machine with PyTorch's CPU build: `pip install --no-deps triton "liger-kernel>=0.8.3,<0.9"`, 1.1 GB). The
errors are relative, ||got - exact|| / ||exact||, for the sums and each gradient; `torch` is torch's way on the same
inputs. `ok`: liger's are at most twice torch's, or 1e-5 (bf16: 2^-7, a unit in the last place: the interpreter cuts
bf16 off where a GPU rounds). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from benchmarks.machine import describe_machine, version_of
from extes_train.model.config import chunk_size
from extes_train.model.loss import LinearCrossEntropy
from extes_train.model.nll import liger_nll, liger_version, torch_nll, trial

KERNELS = {"torch": torch_nll, "liger": liger_nll}
# targets, vocabulary, chunk: one chunk and several, a last one of a single target, one target, none; vocabularies
# that are no multiple of a block, of 16, and larger than the kernel's largest block (32,768)
CASES = [(12, 97, 12), (13, 1000, 4), (9, 4096, 5), (6, 32_000, 4), (5, 40_001, 2), (1, 97, 8), (0, 97, 8)]
HIDDEN = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--time", action="store_true", help="time also where there is no GPU")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--targets", type=int, default=8192)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 128_256])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    result: dict[str, Any] = {"benchmark": "loss_kernel", "device": torch.cuda.get_device_name() if cuda else "cpu"}
    if liger_version() is None:
        print(json.dumps({**result, "skipped": "liger-kernel is not installed"}))
        return
    device = torch.device("cuda" if cuda else "cpu")
    result |= {"interpreted": not cuda, **{name: version_of(name) for name in ("liger-kernel", "triton")}}
    cases = [
        exactness(*case, dtype, bias, device)
        for dtype in (torch.float32, torch.bfloat16)
        for case in CASES
        for bias in (False, True)
    ]
    result |= {"trial": trial(device), "cases": cases, "worst": worst(cases), "ok": all(case["ok"] for case in cases)}
    if cuda or options.time:
        result["timings"] = timings(options, device)
    print(json.dumps({**result, **describe_machine()}))
    sys.exit(0 if result["ok"] and result["trial"] is None else 1)


def exactness(
    targets: int, vocabulary: int, chunk: int, dtype: torch.dtype, bias: bool, device: torch.device
) -> dict[str, Any]:
    """Errors of both kernels in one case; a third of the targets have weight zero, logits reach +-20."""
    torch.manual_seed(targets + vocabulary)
    inputs = [torch.randn(targets, HIDDEN), torch.randn(vocabulary, HIDDEN)] + [torch.randn(vocabulary)] * bias
    inputs = [x.to(device, dtype) for x in inputs]
    labels = torch.randint(vocabulary, (targets,), device=device)
    weights = torch.rand(targets, device=device) * (torch.arange(targets, device=device) % 3 < 2)
    exact = reference([x.double() for x in inputs], labels, weights.double())
    errors = {}
    for name, kernel in KERNELS.items():
        leaves = [x.clone().requires_grad_() for x in inputs]
        loss, nll = LinearCrossEntropy.apply(
            leaves[0], leaves[1], leaves[2] if bias else None, labels, weights, chunk, kernel
        )
        got = [loss.detach(), nll, *torch.autograd.grad(loss, leaves)]
        errors[name] = [relative(g, e) for g, e in zip(got, exact, strict=True)]
    names = ["loss", "nll", "hidden", "weight", "bias"]
    small = 1e-5 if dtype == torch.float32 else 2**-7
    ok = all(low <= max(small, 2 * high) for low, high in zip(errors["liger"], errors["torch"], strict=True))
    return {
        "targets": targets, "vocabulary": vocabulary, "chunk": chunk, "dtype": str(dtype).removeprefix("torch."),
        **{name: dict(zip(names, found)) for name, found in errors.items()}, "ok": ok,
    }  # fmt: skip


def reference(inputs: list[torch.Tensor], labels: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """The sums and the gradients by plain autograd on all logits."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    logits = leaves[0] @ leaves[1].T + (leaves[2] if len(leaves) > 2 else 0.0)
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    loss = (nll * weights).sum()
    return [loss.detach(), nll.detach()[weights > 0].sum(), *torch.autograd.grad(loss, leaves)]


def relative(got: torch.Tensor, exact: torch.Tensor) -> float:
    """||got - exact|| / ||exact||, the plain difference where exact is zero."""
    assert bool(got.isfinite().all()) and got.shape == exact.shape
    difference, scale = float((got.double() - exact).norm()), float(exact.norm())
    return difference / scale if scale else difference


def worst(cases: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The largest error of each sum and gradient, by dtype and kernel."""
    return {
        dtype: {
            name: {
                part: max(case[name][part] for case in cases if case["dtype"] == dtype and part in case[name])
                for part in ("loss", "nll", "hidden", "weight", "bias")
            }
            for name in KERNELS
        }
        for dtype in ("float32", "bfloat16")
    }


def timings(options: Any, device: torch.device) -> list[dict[str, Any]]:
    """bf16, with and without the head's gradient, by kernel and chunk (the last one is the default of a GPU)."""
    return [
        {"vocabulary": vocabulary, "full": full, "chunk": chunk, "kernel": name,
         **timed(options, device, vocabulary, full, chunk, name)}
        for vocabulary in options.vocabularies
        for full in (False, True)
        for chunk in (256, 1024, chunk_size(None, True, vocabulary, 2))
        for name in KERNELS
    ]  # fmt: skip


def timed(options: Any, device: torch.device, vocabulary: int, full: bool, chunk: int, name: str) -> dict[str, Any]:
    """Median milliseconds of forward and backward, and what they need at their peak beyond inputs and gradients."""
    torch.manual_seed(0)
    hidden = torch.randn(options.targets, options.hidden, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(vocabulary, options.hidden, device=device, dtype=torch.bfloat16).mul_(0.02)
    weight.requires_grad_(full)
    labels = torch.randint(vocabulary, (options.targets,), device=device)
    ones, spent = torch.ones(options.targets, device=device), []
    cuda = device.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    for number in range(options.rounds + 2):  # two to warm up: compilation, memory
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        start = time.perf_counter()
        LinearCrossEntropy.apply(hidden, weight, None, labels, ones, chunk, KERNELS[name])[0].backward()
        if cuda:
            torch.cuda.synchronize()
        spent += [time.perf_counter() - start] if number >= 2 else []
        hidden.grad = weight.grad = None
    gradients = 2 * (hidden.numel() + (weight.numel() if full else 0))
    peak = torch.cuda.max_memory_allocated() - before - gradients if cuda else None
    return {"milliseconds": 1e3 * statistics.median(spent), "extra_bytes": peak}


if __name__ == "__main__":
    main()
