"""model.compile changes no number, and is refused where it cannot work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model.rows_by_hand import random_dialogue, tiny_llama, tree_row
from torch import nn

from extes_train.errors import ConfigError
from extes_train.model.attention import use_attention
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.compiling import compile_layers
from extes_train.model.config import LoraConfig, LossConfig
from extes_train.model.loss import row_loss
from extes_train.model.tuning import apply_tuning


def gradients(model: Any) -> list[Any]:
    """Loss and gradients over rows of two lengths."""
    use_attention(model, "auto")
    model.zero_grad()
    total = torch.zeros(())
    for seed in range(2):
        rng = np.random.default_rng(seed)
        row = row_batch_from_arrays(tree_row([random_dialogue(rng, 97, 3, 2) for _ in range(seed + 1)]))
        total = total + row_loss(model, row, LossConfig())[0]
    total.backward()
    return [total.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own tracing
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_equals_plain(checkpointing: bool) -> None:
    """The captured graphs, run without code generation (that needs a compiler and minutes)."""
    tuning = LoraConfig(r=2)
    torch.manual_seed(0)
    plain = apply_tuning(tiny_llama(), tuning)
    torch.manual_seed(0)
    compiled = apply_tuning(tiny_llama(), tuning, checkpointing)
    assert compile_layers(compiled, zero_stage=2, backend="aot_eager") == 6
    for got, want in zip(gradients(compiled.train()), gradients(plain.train()), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"model\.compile=true does not go with zero\.stage=3"):
        compile_layers(tiny_llama(), zero_stage=3)
    other = tiny_llama()
    other.model.layers = nn.ModuleList()
    with pytest.raises(ConfigError, match="no layers of norms and MLPs"):
        compile_layers(other, zero_stage=2)
