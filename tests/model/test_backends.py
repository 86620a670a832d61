"""Every backend computes what the dense mask says; names are resolved or refused by device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model.rows_by_hand import HandRow, add_path, random_dialogue, tiny_llama, tree_row
from torch import Tensor

from extes_train.errors import ConfigError
from extes_train.model import attention
from extes_train.model.attention import attention_inputs, choose, use_attention
from extes_train.model.batch import RowBatch, row_batch_from_arrays
from extes_train.model.flex import flex_tree_attention
from extes_train.model.structured import _by_calls, tree_attention
from extes_train.model.varlen import varlen_tree_attention


def a_row(seed: int = 0) -> RowBatch:
    rng = np.random.default_rng(seed)
    return row_batch_from_arrays(tree_row([random_dialogue(rng, 97, 3, 3) for _ in range(3)]))


def random_qkv(length: int, heads: int = 4, kv_heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query = torch.randn(1, heads, length, 8, requires_grad=True)
    key, value = (torch.randn(1, kv_heads, length, 8, requires_grad=True) for _ in range(2))
    return query, key, value


def dense(query: Tensor, key: Tensor, value: Tensor, row: RowBatch) -> Tensor:
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=row.allowed_TT()[None, None])


def varlen_by_loops(
    q: Tensor, k: Tensor, v: Tensor, *, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
    max_seqlen_k: int, dropout_p: float, softmax_scale: float | None, causal: bool,
) -> Tensor:  # fmt: skip
    """flash_attn_varlen_func as its documentation defines it: (T, h, D), causal aligned at the end."""
    assert causal and dropout_p == 0.0
    parts = []
    for s in range(len(cu_seqlens_q) - 1):
        own_q, own_k = slice(*cu_seqlens_q[s : s + 2].tolist()), slice(*cu_seqlens_k[s : s + 2].tolist())
        queries, keys, values = (x.transpose(0, 1)[None] for x in (q[own_q], k[own_k], v[own_k]))
        shape = queries.shape[2], keys.shape[2]
        assert shape[0] <= max_seqlen_q and shape[1] <= max_seqlen_k
        mask = torch.ones(shape, dtype=torch.bool).tril(shape[1] - shape[0])
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=softmax_scale)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["structured", "by calls", "varlen", "flex"])
@pytest.mark.parametrize("seed", range(3))
def test_attention_equals_the_dense_mask(name: str, seed: int) -> None:
    row = a_row(seed)
    query, key, value = random_qkv(row.tree_T.numel())
    if name == "structured":
        got = tree_attention(query, key, value, row, None)
    elif name == "by calls":  # structured attention with dropout, or in fp32 on a GPU
        got = _by_calls(query, key, value, row, None, 0.0)
    elif name == "varlen":
        got = varlen_tree_attention(query, key, value, row, None, 0.0, varlen_by_loops).transpose(1, 2)
    else:  # forward only on a CPU
        frozen = [x.detach() for x in (query, key, value)]
        got = flex_tree_attention(*frozen, row).transpose(1, 2)
    want = dense(query, key, value, row)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    if got.requires_grad:
        probe = torch.randn_like(want)
        for got_grad, want_grad in zip(
            torch.autograd.grad((got * probe).sum(), (query, key, value)),
            torch.autograd.grad((want * probe).sum(), (query, key, value)),
            strict=True,
        ):
            torch.testing.assert_close(got_grad, want_grad, rtol=1e-5, atol=1e-5)


def test_no_row_of_the_mask_is_all_false() -> None:
    assert bool(a_row().allowed_TT().any(dim=1).all())


def test_a_row_whose_branch_has_no_trunk_is_refused() -> None:
    row = HandRow()
    row.add(1, 0, 1, 0, -1, None)
    with pytest.raises(ValueError, match="does not follow its trunk"):
        row_batch_from_arrays(row)
    row = add_path(HandRow(), 0, [1, 2], [None, 1.0])
    row.predictor_Q = [-1]
    with pytest.raises(ValueError, match="without a parent"):
        row_batch_from_arrays(row)


def test_generation_is_that_of_sdpa() -> None:
    """Calls without a row, with a cache and left padding, behave as with stock attention."""
    model = tiny_llama().eval()
    ids = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5]])
    mask = (torch.arange(5)[None] >= torch.tensor([[2], [0]])).long()
    texts = []
    for name in ("sdpa", "structured"):
        use_attention(model, name)
        texts.append(model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0))
    assert torch.equal(*texts)


def test_names_are_resolved_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["auto", "sdpa", "eager", "structured"]
    assert [choose(name, "cpu") for name in names] == names
    for name in ("flex", "varlen", "flash_attention_2"):
        with pytest.raises(ConfigError, match=r"model\.attention=(flex|varlen)"):
            choose(name, "cpu")
    monkeypatch.setattr(attention, "flash_attn_installed", lambda: True)
    assert choose("flash_attention_2", "cuda") == "varlen"


def test_a_model_without_a_backend_of_ours_is_refused() -> None:
    model = tiny_llama()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ConfigError, match="call use_attention first"):
        attention_inputs(model.config, a_row(), torch.float32)
