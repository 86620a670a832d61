"""A GPU backend is tried once in a process, on a small row, before a model goes through it.

Kernels differ by card, by PyTorch's version and by head size, and a wrong one would train on without an error. The
trial compares output and gradients, token by token, with a dense mask in fp32.
"""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from extes_train.model.attention import TreeAttentionFunction, dense_tree_attention, tree_backend
from extes_train.model.batch import RowBatch, row_batch_from_arrays

log = logging.getLogger(__name__)

# largest error of a token, relative to its norm or the mean one: bf16 kernels err by 0.01 to 0.02, a leak by 0.1
TOLERANCE = {torch.float32: 0.01}
HALF_TOLERANCE = 0.06
# (trunk, ((attached at, branches), …)) of each tree: at the first and the last token, one token, several kernel blocks
TREES = ((70, ((0, (3, 9)), (20, (5, 33, 1)), (70, (17, 2)))), (200, ()), (40, ((31, (130,)),)))


@dataclass(frozen=True)
class Heads:
    """What a backend is chosen and tried for: attention heads of queries and of keys, their size, dtype and device."""

    queries: int
    keys: int
    size: int
    dtype: torch.dtype
    device: torch.device


def heads_of(query: Tensor, key: Tensor) -> Heads:
    """Those of query and key (1, h, T, D)."""
    return Heads(query.shape[1], key.shape[1], query.shape[3], query.dtype, query.device)


def model_heads(model: nn.Module, device: torch.device | str) -> Heads:
    """Those of `model`, by its configuration, once it is on `device`."""
    from extes_train.model.forward import causal_lm, next_dtype

    config: Any = causal_lm(model).config
    count = config.num_attention_heads
    where = torch.device(device)
    if where.type == "cuda" and where.index is None and torch.cuda.is_available():
        where = torch.device("cuda", torch.cuda.current_device())
    size = getattr(config, "head_dim", None) or config.hidden_size // count
    return Heads(count, getattr(config, "num_key_value_heads", None) or count, size, next_dtype(model), where)


@cache
def failure(name: str, heads: Heads) -> str | None:
    """Why the backend `name` cannot be used for such heads, None where it computes what the dense mask does."""
    # a thread of its own: the hooks of gradient checkpointing, under which this may be called, are the caller's alone
    with ThreadPoolExecutor(1) as pool:
        reason = pool.submit(try_backend, tree_backend(name), heads).result()
    if reason is not None:
        log.warning("attention=%s cannot be used here: %s", name, reason)
    return reason


def try_backend(function: TreeAttentionFunction, heads: Heads) -> str | None:
    """What is wrong with `function` for such heads, None if nothing is. Raises nothing that a backend raises."""
    cuda = heads.device.type == "cuda"
    try:
        with torch.cuda.device(heads.device) if cuda else contextlib.nullcontext():
            return _compare(function, heads)
    except Exception as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _compare(function: TreeAttentionFunction, heads: Heads) -> str | None:
    row = trial_row().to(heads.device)
    length, generator = row.tree_T.numel(), torch.Generator().manual_seed(0)

    def draw(count: int) -> Tensor:  # (1, h, T, D), laid out as a model's projections leave it
        drawn = torch.randn(1, length, count, heads.size, generator=generator)
        return drawn.to(heads.device, heads.dtype).transpose(1, 2)

    given = [draw(heads.queries), draw(heads.keys), draw(heads.keys)]
    probe_1ThD = draw(heads.queries).transpose(1, 2)
    got = _with_gradients(function, given, probe_1ThD, row)
    want = _with_gradients(dense_tree_attention, [x.float() for x in given], probe_1ThD.float(), row)
    tolerance = TOLERANCE.get(heads.dtype, HALF_TOLERANCE)
    for name, ours, theirs in zip(("output", "queries", "keys", "values"), got, want, strict=True):
        error = _largest_error(ours.float(), theirs)
        if not error <= tolerance:
            what = name if name == "output" else f"gradient of the {name}"
            return f"its {what} differs from a dense mask's by {error:.2g} (at most {tolerance} is rounding)"
    return None


def _with_gradients(
    function: TreeAttentionFunction, given: list[Tensor], probe_1ThD: Tensor, row: RowBatch
) -> list[Tensor]:
    """Output and the gradients of queries, keys and values, each (T, h, D)."""
    leaves = [x.detach().requires_grad_() for x in given]
    out_1ThD = function(leaves[0], leaves[1], leaves[2], row, None, 0.0)
    gradients = torch.autograd.grad(out_1ThD, leaves, probe_1ThD)
    return [out_1ThD.detach()[0], *(gradient[0].transpose(0, 1) for gradient in gradients)]


def _largest_error(got: Tensor, want: Tensor) -> float:
    norms_T = want.flatten(1).norm(dim=1)
    return float(((got - want).flatten(1).norm(dim=1) / norms_T.clamp_min(norms_T.mean())).max())


def trial_row() -> RowBatch:
    """A row of the trees in TREES; no targets."""
    tree_T: list[int] = []
    branch_T: list[int] = []
    attach_T: list[int] = []
    for number, (trunk, groups) in enumerate(TREES):
        start, branch = len(tree_T), 0
        pieces = [(0, 0, trunk)]
        for attach, lengths in groups:
            for length in lengths:
                branch += 1
                pieces.append((branch, start + attach, length))
        for branch_id, attach, length in pieces:
            tree_T += [number] * length
            branch_T += [branch_id] * length
            attach_T += [attach] * length
    zeros_T = [0] * len(tree_T)
    arrays = {"tree_T": tree_T, "branch_T": branch_T, "attach_T": attach_T}
    none: dict[str, list[int]] = {"target_Q": [], "predictor_Q": [], "weight_Q": []}
    return row_batch_from_arrays(SimpleNamespace(ids_T=zeros_T, position_T=zeros_T, **arrays, **none))
