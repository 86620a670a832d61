"""The loss never holds logits of more than a chunk, and its memory does not grow with targets x vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from model.rows_by_hand import HandRow, add_path, tiny_llama
from torch.utils._python_dispatch import TorchDispatchMode

from extes_train.model.attention import use_attention
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import LoraConfig, LossConfig
from extes_train.model.loss import row_loss
from extes_train.model.tuning import apply_tuning

VOCAB, TOKENS, CHUNK, HIDDEN = 211, 120, 8, 32


class LargestOutput(TorchDispatchMode):
    """Remembers every shape with the vocabulary in it, of every operation, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.rows_by_vocabulary = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.ndim >= 2 and tensor.shape[-1] == VOCAB:
                self.rows_by_vocabulary = max(self.rows_by_vocabulary, tensor.numel() // VOCAB)
        return out


def most_logits(model: Any, chunk: int) -> int:
    use_attention(model, "auto")
    row = add_path(HandRow(), 0, [i % VOCAB for i in range(TOKENS)], [None, *[1.0] * (TOKENS - 1)])
    with LargestOutput() as seen:
        row_loss(model, row_batch_from_arrays(row), LossConfig(chunk_tokens=chunk))[0].backward()
    return seen.rows_by_vocabulary


def test_logits_exist_for_a_chunk_at_a_time() -> None:
    model = tiny_llama(vocab_size=VOCAB)
    assert most_logits(model, TOKENS) == TOKENS - 1  # the probe sees them where they are
    assert most_logits(model, CHUNK) <= HIDDEN  # the head's own (H, V) transpose


def test_an_adapter_on_the_head_is_chunked_too() -> None:
    plain, adapted = (
        apply_tuning(tiny_llama(vocab_size=VOCAB), LoraConfig(r=2, target_modules=targets))
        for targets in (["q_proj"], ["q_proj", "lm_head"])
    )
    assert most_logits(adapted, CHUNK) <= HIDDEN
    row = row_batch_from_arrays(add_path(HandRow(), 0, list(range(20)), [None, *[0.5] * 19]))
    losses = [row_loss(use_auto(model), row, LossConfig(chunk_tokens=3)) for model in (plain, adapted)]
    torch.testing.assert_close(losses[0][0], losses[1][0])
    torch.testing.assert_close(losses[0][1], losses[1][1])


def use_auto(model: Any) -> Any:
    use_attention(model, "auto")
    return model
