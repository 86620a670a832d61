"""Held-out perplexity: exp(sum NLL / count) over content and end-of-turn of the original responses, each turn once.

fp32 log-softmax, teacher forcing, corpus level; headers never count. `nll_per_byte` is over content only, so that it
compares across tokenizers; truncated responses, whose bytes are not all there, count for perplexity but not for it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import LossConfig
from extes_train.model.loss import target_nll
from extes_train.tokens.row import Row
from extes_train.tokens.rows import pack_rows
from extes_train.tokens.tree import ResponseWeights, build_trees
from extes_train.tokens.windows import Response, Window

WINDOWS_AT_A_TIME = 64  # packed together; bounds what lies in memory


class Group(Protocol):
    """The part of a process group that scoring needs."""

    rank: int
    world_size: int

    def sum(self, values: list[float]) -> list[float]: ...


class Windows(Protocol):
    """The part of a TokenDataset that scoring needs."""

    windows: list[Window]
    tokens_per_row: int


@dataclass(frozen=True)
class Scores:
    """What a model scores on a token list. `digest` names the list; `count` targets, `responses` turns."""

    perplexity: float
    nll: float  # nats, over all targets
    nll_per_byte: float | None  # nats; None where no whole response was scored
    count: int
    bytes: int
    responses: int
    truncated: int
    digest: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def token_list_digest(windows: Sequence[Window]) -> str:
    """16 hex digits that two runs share exactly when they score the same tokens in the same contexts."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(b"window")
        for response in _originals(window):
            digest.update(np.array([response.attach, len(response.ids)], dtype=np.int64).tobytes())
            digest.update(np.asarray(window.trunk[: response.attach], dtype=np.int32).tobytes())
            digest.update(np.asarray(response.ids, dtype=np.int32).tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def score_responses(
    model: torch.nn.Module,
    dataset: Windows,
    process_group: Group | None = None,
    loss: LossConfig | None = None,
    advance: Callable[[int], None] = lambda windows: None,
) -> Scores:
    """Score the original responses of `dataset`; with a `process_group` every rank takes a share and gets the sums.

    `advance` is told how many windows are done. Raises ValueError where there is no response to score.
    """
    rank, world_size = (process_group.rank, process_group.world_size) if process_group else (0, 1)
    originals = [replace(w, responses=_originals(w)) for w in dataset.windows if _originals(w)]
    if not originals:
        raise ValueError("no original response to score")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nll = content_nll = 0.0
    mine = originals[rank::world_size]
    for start in range(0, len(mine), WINDOWS_AT_A_TIME):
        chunk = mine[start : start + WINDOWS_AT_A_TIME]
        trees = [tree for i, w in enumerate(chunk) for tree in build_trees(w, ResponseWeights(), item=i)]
        for row in pack_rows(trees, dataset.tokens_per_row):
            nll_Q = target_nll(model, row_batch_from_arrays(row, device), loss).double().cpu().numpy()
            nll += float(nll_Q.sum())
            content_nll += float(nll_Q[_whole_content(row, chunk)].sum())
        advance(len(chunk))
    model.train(was_training)
    if process_group is not None:
        nll, content_nll = process_group.sum([nll, content_nll])
    return _scores(originals, nll, content_nll, token_list_digest(dataset.windows))


def _originals(window: Window) -> list[Response]:
    return [response for response in window.responses if response.alternative < 0]


def _whole_content(row: Row, windows: Sequence[Window]) -> np.ndarray:
    """Which targets of `row` are content of a response that was not truncated."""
    whole = [response.num_end > 0 for item, _ in row.sources for response in windows[item].responses]
    return np.asarray(whole)[row.response_Q] & ~row.end_Q


def _scores(windows: Sequence[Window], nll: float, content_nll: float, digest: str) -> Scores:
    responses = [response for window in windows for response in window.responses]
    count = sum(len(response.ids) for response in responses)
    whole = [response for response in responses if response.num_end > 0]
    size = sum(response.num_bytes for response in whole)
    mean = nll / count
    return Scores(
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        nll=nll,
        nll_per_byte=content_nll / size if size else None,
        count=count,
        bytes=size,
        responses=len(responses),
        truncated=len(responses) - len(whole),
        digest=digest,
    )
