"""From a chunk's logits to each target's nll and the gradient, where the logits are: through torch or liger-kernel.

    torch   softmax in fp32, a block of rows at a time
    liger   the Triton kernel of liger-kernel (arXiv 2410.10989), fp32 in its registers: two passes over the logits and
            nothing beside them. A GPU and the package; `auto` takes it where a trial agrees with torch

liger-kernel's own fused linear cross-entropy is not used. With weights per target (`reduction="none"`) it computes the
logits once more in the backward pass, multiplies the weights on the wide side and asks the GPU for the number of
targets. The chunks, the weights and the products stay ours (loss.py); the kernel they share is this one.

Shapes: C targets of a chunk, B of a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from extes_train.errors import ConfigError

LIGER_FROM, LIGER_BELOW = (0, 8, 3), (0, 9)  # where the kernel has this signature; setup.py's extra `gpu` has the same
CACHED_LOGITS = 1 << 19  # fp32 logits that a CPU's cache holds, 2 MiB
GPU_SCRATCH_LOGITS = 1 << 26  # fp32 logits that torch's way needs beside those of a chunk, 256 MiB

NllKernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""logits (C, V), labels (C,) int64 -> nll (C,) fp32 and its gradient (C, V) in the memory and dtype of the logits."""


def nll_kernel(name: str, device: torch.device) -> NllKernel:
    """What `loss.kernel=name` stands for on `device`. Raises ConfigError where it cannot run."""
    return {"torch": torch_nll, "liger": liger_nll}[choose_kernel(name, device)[0]]


@cache
def choose_kernel(name: str, device: torch.device) -> tuple[str, str]:
    """("torch" or "liger", why), found once: every row asks. Raises ConfigError where `name` cannot run on `device`."""
    if name == "torch":
        return "torch", "loss.kernel"
    obstacle = liger_obstacle(device)
    if obstacle is None:
        return "liger", f"liger-kernel {version('liger-kernel')} on a GPU"
    if name == "liger":
        raise ConfigError(f"loss.kernel=liger: {obstacle}; use auto or torch here")
    return "torch", obstacle


@cache
def liger_obstacle(device: torch.device) -> str | None:
    """Why liger's kernel cannot be used on `device`; None where it can. The first call compiles it for a trial."""
    if device.type != "cuda":
        return f"liger-kernel needs a GPU, not {device.type}"
    found = liger_version()
    if found is None:
        return f'liger-kernel is not installed (pip install "liger-kernel>={_text(LIGER_FROM)},<{_text(LIGER_BELOW)}")'
    if not LIGER_FROM <= found < LIGER_BELOW:
        return f"liger-kernel {_text(found)}: must be at least {_text(LIGER_FROM)} and below {_text(LIGER_BELOW)}"
    try:
        return trial(device)
    except Exception as error:  # no C compiler for Triton's launcher, an old GPU, a folder that cannot be written
        return f"liger-kernel fails here ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def liger_version() -> tuple[int, ...] | None:
    """The installed release of liger-kernel."""
    try:
        found = version("liger-kernel")
    except PackageNotFoundError:
        return None
    return tuple(int(part) for part in found.split("+")[0].split(".") if part.isdigit())


def _text(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


@torch.no_grad()
def trial(device: torch.device) -> str | None:
    """Two targets through both kernels; what is wrong where they differ."""
    logits_CV = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, 1.0]], device=device)
    labels_C = torch.tensor([2, 1], device=device)
    want, got = torch_nll(logits_CV.clone(), labels_C), liger_nll(logits_CV, labels_C)
    same = all(torch.allclose(g, w, rtol=1e-4, atol=1e-6) for g, w in zip(got, want, strict=True))
    return None if same else "liger-kernel computes something else than torch here"


def liger_nll(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """An NllKernel: liger-kernel's. Reads nothing back to the host."""
    with torch.cuda.device_of(logits_CV):  # Triton launches on the current device
        nll_C, _, _, _, gradient_CV = _liger_function()(
            logits_chunk=logits_CV, target_chunk=labels_C, ce_weight=None, ignore_index=-100, lse_square_scale=0.0,
            label_smoothing=0.0, reduction="none", softcap=None, n_non_ignore=1, sum_non_ignore_weight=1.0,
            weight_sum=0.0, return_z_loss=False, return_token_accuracy=False, return_predicted_tokens=False,
            has_gradients=True,
        )  # fmt: skip
    return nll_C, gradient_CV


@cache
def _liger_function() -> Callable[..., Any]:
    """The primitive under liger-kernel's fused linear cross-entropy, in Triton whatever else is installed.

    Its public `resolve_impl` finds the same one, and warns of every other that is not there.
    """
    from liger_kernel.ops.backends._triton.cross_entropy import cross_entropy_loss_and_grad_triton

    found: Callable[..., Any] = cross_entropy_loss_and_grad_triton
    return found


def torch_nll(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """An NllKernel. Computed in fp32: on a CPU as many rows at a time as its cache holds, on a GPU by the 256 MiB."""
    logits = CACHED_LOGITS if logits_CV.device.type == "cpu" else GPU_SCRATCH_LOGITS
    rows = max(1, logits // logits_CV.shape[1])
    if logits_CV.dtype == torch.float32:
        parts = [_softmax_in_place(logits_CV[block], labels_C[block]) for block in chunks_of(len(labels_C), rows)]
        return torch.cat(parts), logits_CV
    parts, scratch_BV = [], logits_CV.new_empty((min(rows, len(labels_C)), logits_CV.shape[1]), dtype=torch.float32)
    for block in chunks_of(len(labels_C), rows):
        float_BV = scratch_BV[: block.stop - block.start].copy_(logits_CV[block])
        parts.append(_softmax_in_place(float_BV, labels_C[block]))
        logits_CV[block] = float_BV
    return torch.cat(parts), logits_CV


def _softmax_in_place(logits_BV: Tensor, labels_B: Tensor) -> Tensor:
    """nll (B,); the fp32 logits become their own gradient: softmax minus one at the label.

    nll comes from the largest probability p and its logit m: log sum exp = m - log p, well conditioned because p is at
    least 1 / V; the label's own probability may underflow.
    """
    labels_B1 = labels_B[:, None]
    label_logit_B = logits_BV.gather(1, labels_B1)[:, 0]
    largest_B, where_B = logits_BV.max(dim=1)
    torch.softmax(logits_BV, dim=1, out=logits_BV)
    nll_B = largest_B - logits_BV.gather(1, where_B[:, None])[:, 0].log() - label_logit_B
    logits_BV.scatter_add_(1, labels_B1, -torch.ones_like(labels_B1, dtype=logits_BV.dtype))
    return nll_B


def chunks_of(total: int, size: int) -> list[slice]:
    """`total` items in slices of `size`, the last one shorter."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
