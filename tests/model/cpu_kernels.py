"""Flash kernels of sequences as their definition says, on a CPU; as strict about their inputs as the real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from extes_train.model.flash import Kernels, Sequences


def check(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> None:
    """What PyTorch's flash_api.cpp checks, and what it leaves unchecked but needs."""
    assert query.dim() == 3 and query.shape[1] % key.shape[1] == 0 and key.shape == value.shape
    for tensor, offsets, longest in (
        (query, sequences.query_offsets, sequences.longest_query),
        (key, sequences.key_offsets, sequences.longest_key),
    ):
        assert tensor.stride(-1) == 1
        assert offsets.dtype == torch.int32 and offsets.is_contiguous() and offsets[0] == 0
        assert offsets[-1] == tensor.shape[0]
        lengths = offsets.diff()
        assert lengths.min() > 0 and lengths.max() == longest
    assert len(sequences.query_offsets) == len(sequences.key_offsets)


def pieces(sequences: Sequences) -> list[tuple[slice, slice]]:
    queries, keys = sequences.query_offsets.tolist(), sequences.key_offsets.tolist()
    return [
        (slice(*queries[number : number + 2]), slice(*keys[number : number + 2])) for number in range(len(queries) - 1)
    ]


def scores(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
    """(h, q, k) in fp32; causal only where no alignment is in question."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores_hqk = torch.einsum("qhd,khd->hqk", query.float(), key.float()) * scale
    if causal:
        assert query.shape[0] == key.shape[0]
        scores_hqk.masked_fill_(~torch.ones(scores_hqk.shape[1:], dtype=torch.bool).tril(), -torch.inf)
    return scores_hqk


def forward(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    check(query, key, value, sequences)
    out, sums = torch.full_like(query, torch.nan), torch.full((query.shape[1], query.shape[0]), torch.nan)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    for q, k in pieces(sequences):
        scores_hqk = scores(query[q], key[k], causal, scale)
        sums[:, q] = scores_hqk.logsumexp(2)
        out[q] = torch.einsum("hqk,khd->qhd", scores_hqk.softmax(2), value[k].float()).to(out.dtype)
    return out, sums


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, sequences: Sequences,
    causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """From the output and log-sum-exp that it is given, as the real ones do."""
    check(query, key, value, sequences)
    assert out.shape == grad.shape == query.shape and sums.shape == (query.shape[1], query.shape[0])
    assert sums.is_contiguous() and sums.dtype == torch.float32 and grad.stride(-1) == out.stride(-1) == 1
    times = query.shape[1] // key.shape[1]
    found = [torch.full_like(x, torch.nan) for x in (query, key, value)]
    for q, k in pieces(sequences):
        given, of_q = grad[q].float(), query[q].float()
        keys, values = (x[k].repeat_interleave(times, 1).float() for x in (key, value))
        shares_hqk = (scores(query[q], key[k], causal, scale) - sums[:, q, None]).exp()
        products_hqk = torch.einsum("qhd,khd->hqk", given, values)
        means_hq1 = (given * out[q].float()).sum(2).T[..., None]
        inner_hqk = shares_hqk * (products_hqk - means_hq1) * scale
        found[0][q] = torch.einsum("hqk,khd->qhd", inner_hqk, keys).to(query.dtype)
        for into, part in (
            (found[1], torch.einsum("hqk,qhd->khd", inner_hqk, of_q)),
            (found[2], torch.einsum("hqk,qhd->khd", shares_hqk, given)),
        ):
            into[k] = part.unflatten(1, (-1, times)).sum(2).to(into.dtype)
    return found[0], found[1], found[2]


KERNELS = Kernels(forward, backward)
