"""Held-out perplexity: exp(sum NLL / count) over content and end-of-turn of the original responses, each turn once.

fp32 log-softmax, teacher forcing, corpus level; headers never count. `nll_per_byte` is over content only, so that it
compares across tokenizers; truncated responses, whose bytes are not all there, count for perplexity but not for it.
Rows are packed alike for any number of ranks and sums are taken in the responses' order, so ranks change no digit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from extes_train.evaluation.ranks import Alone, Ranks, rounds
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import LossConfig
from extes_train.model.loss import target_nll
from extes_train.tokens.row import Row
from extes_train.tokens.rows import pack_rows
from extes_train.tokens.tree import ResponseWeights, build_trees
from extes_train.tokens.windows import Response, Window

WINDOWS_AT_A_TIME = 64  # packed together; bounds what lies in memory


class Windows(Protocol):
    """The part of a TokenDataset that scoring needs."""

    windows: list[Window]
    tokens_per_row: int


@dataclass(frozen=True)
class DialogueScore:
    """One dialogue's share of the sums: what arms are compared by, dialogue against dialogue."""

    dialogue: int  # index in the dataset
    targets: int
    nll: float


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
    by_dialogue: tuple[DialogueScore, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything but `by_dialogue`."""
        values = asdict(self)
        del values["by_dialogue"]
        return values


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
    ranks: Ranks | None = None,
    loss: LossConfig | None = None,
    advance: Callable[[int], None] = lambda responses: None,
) -> Scores:
    """Score the original responses of `dataset`; every one of the `ranks` takes a share and gets the whole.

    `advance` is told how many responses a round has done, on all ranks alike. Raises ValueError where there is no
    response to score.
    """
    ranks = ranks or Alone()
    windows = [replace(w, responses=_originals(w)) for w in dataset.windows if _originals(w)]
    if not windows:
        raise ValueError("no original response to score")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    mine: dict[tuple[int, int], tuple[float, float]] = {}
    for rows in rounds(_rows(windows, dataset.tokens_per_row), ranks.world_size):
        if ranks.rank < len(rows):
            row = rows[ranks.rank]
            nll_Q = target_nll(model, row_batch_from_arrays(row, device), loss).double().cpu().numpy()
            mine.update(_by_response(row, nll_Q))
        advance(sum(int(row.response_Q[-1]) + 1 for row in rows))
    model.train(was_training)
    found = {name: sums for part in ranks.gather(mine) for name, sums in part.items()}
    return _scores(windows, found, token_list_digest(dataset.windows))


def _originals(window: Window) -> list[Response]:
    return [response for response in window.responses if response.alternative < 0]


def _rows(windows: Sequence[Window], tokens_per_row: int) -> Iterator[Row]:
    """The rows that hold `windows`, whose items are their indices; the same whoever computes them."""
    for start in range(0, len(windows), WINDOWS_AT_A_TIME):
        chunk = enumerate(windows[start : start + WINDOWS_AT_A_TIME], start)
        yield from pack_rows([t for i, w in chunk for t in build_trees(w, ResponseWeights(), item=i)], tokens_per_row)


def _by_response(row: Row, nll_Q: np.ndarray) -> dict[tuple[int, int], tuple[float, float]]:
    """(window, number of its response) -> NLL of the whole response and of its content alone."""
    whole = np.bincount(row.response_Q, weights=nll_Q)
    content = np.bincount(row.response_Q, weights=np.where(row.end_Q, 0.0, nll_Q))
    counts: dict[int, int] = {}
    names = []
    firsts = np.flatnonzero(np.diff(row.response_Q, prepend=-1))  # each response's first target
    for tree in row.tree_T[row.target_Q[firsts]].tolist():
        item = row.sources[tree][0]
        names.append((item, counts.setdefault(item, 0)))
        counts[item] += 1
    return {name: (float(all_), float(part)) for name, all_, part in zip(names, whole, content)}


def _scores(windows: Sequence[Window], found: dict[tuple[int, int], tuple[float, float]], digest: str) -> Scores:
    responses = [(found[i, n], r, w.dialogue) for i, w in enumerate(windows) for n, r in enumerate(w.responses)]
    whole = [(sums[1], response.num_bytes) for sums, response, _ in responses if response.num_end > 0]
    count = sum(len(response.ids) for _, response, _ in responses)
    nll = math.fsum(sums[0] for sums, _, _ in responses)
    size = sum(num_bytes for _, num_bytes in whole)
    mean = nll / count
    return Scores(
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        nll=nll,
        nll_per_byte=math.fsum(content for content, _ in whole) / size if size else None,
        count=count,
        bytes=size,
        responses=len(responses),
        truncated=len(responses) - len(whole),
        digest=digest,
        by_dialogue=_by_dialogue([(dialogue, len(r.ids), sums[0]) for sums, r, dialogue in responses]),
    )


def _by_dialogue(responses: Sequence[tuple[int, int, float]]) -> tuple[DialogueScore, ...]:
    """Sums of (dialogue, targets, NLL) by dialogue."""
    lists: dict[int, list[tuple[int, float]]] = {}
    for dialogue, targets, nll in responses:
        lists.setdefault(dialogue, []).append((targets, nll))
    return tuple(
        DialogueScore(dialogue, sum(t for t, _ in parts), math.fsum(n for _, n in parts))
        for dialogue, parts in sorted(lists.items())
    )
