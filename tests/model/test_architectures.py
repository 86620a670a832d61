"""Architectures: trees equal plain transformers, one sample at a time, or are refused and train on the flat layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model.rows_by_hand import HandRow, HandTurn, flat_row, paths, random_dialogue, tiny_llama, tree_row
from torch import Tensor

from extes_train.errors import ConfigError, LayoutError
from extes_train.model.architectures import TREE_MODEL_TYPES, check_takes_trees
from extes_train.model.attention import use_attention
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import LossConfig
from extes_train.model.loss import row_loss, target_nll

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT_SHAPE = {
    "vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4,
    "initializer_range": 0.1, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    "num_experts_per_tok": 2,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": GPT_SHAPE, "gptj": GPT_SHAPE, "mixtral": SHAPE | EXPERTS, "qwen2_moe": SHAPE | EXPERTS,
    "qwen3_moe": SHAPE | EXPERTS, "olmoe": SHAPE | EXPERTS, "gpt_oss": SHAPE | EXPERTS,
    "opt": {"vocab_size": 97, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 128, "init_std": 0.1, "dropout": 0.0},
    "bloom": {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.1},
    "falcon": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "mpt": {"vocab_size": 97, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "mamba": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}  # fmt: skip
LLAMA_VARIANTS: dict[str, dict[str, Any]] = {
    "one key head": {"num_key_value_heads": 1},
    "as many key heads as heads": {"num_key_value_heads": 4},
    "tied head": {"tie_word_embeddings": True},
    "head_dim of its own": {"head_dim": 12},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "rope of Llama 3": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        }
    },
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
        }
    },
    "dynamic rope": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}},
}  # fmt: skip


def new_model(model_type: str, **changes: Any) -> Any:
    """A random model of two layers without dropout."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **(SHAPES.get(model_type, SHAPE) | changes))
    for name, value in vars(config).copy().items():
        if isinstance(value, float) and ("drop" in name or "pdrop" in name):
            setattr(config, name, 0.0)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


def some_dialogues() -> list[list[HandTurn]]:
    rng = np.random.default_rng(1)
    return [random_dialogue(rng, 97, 3, 2) for _ in range(2)]


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    named = [(name, p) for name, p in model.named_parameters()]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {name: g for (name, _), g in zip(named, found, strict=True) if g is not None and float(g.norm()) > 1e-6}


def stock_loss(model: Any, dialogues: list[list[HandTurn]]) -> Tensor:
    """Plain transformers, one sample at a time, before anything of ours touches the model."""
    total = torch.zeros(())
    for turns in dialogues:
        for tokens, weights in paths(turns, "per_response"):
            log_p = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float().log_softmax(-1)
            for index, weight in enumerate(weights):
                if weight is not None:
                    total = total - weight * log_p[index - 1, tokens[index]]
    return total


def assert_equal_to_stock(model: Any, rows: dict[str, HandRow]) -> None:
    """Loss and every gradient tensor of each row, by backend, to 1e-5."""
    want = stock_loss(model, some_dialogues())
    want_gradients = gradients(model, want)
    assert len(want_gradients) > 5
    for name, row in rows.items():
        use_attention(model, name)
        loss, _ = row_loss(model, row_batch_from_arrays(row), LossConfig(chunk_tokens=7))
        torch.testing.assert_close(loss, want, rtol=1e-5, atol=0)
        got = gradients(model, loss)
        assert got.keys() == want_gradients.keys()
        for key, gradient in want_gradients.items():
            assert float((got[key] - gradient).norm()) <= 1e-5 * float(gradient.norm()), (name, key)


@pytest.mark.parametrize("model_type", TREE_MODEL_TYPES)
def test_trees_are_exact(model_type: str) -> None:
    model = new_model(model_type)
    check_takes_trees(model.config)
    dialogues = some_dialogues()
    assert_equal_to_stock(
        model,
        {"structured": tree_row(dialogues), "sdpa": tree_row(dialogues), "auto": flat_row(dialogues, "multi_turn")},
    )


@pytest.mark.parametrize("variant", LLAMA_VARIANTS)
def test_trees_are_exact_on_every_kind_of_llama(variant: str) -> None:
    model, dialogues = new_model("llama", **LLAMA_VARIANTS[variant]), some_dialogues()
    check_takes_trees(model.config)
    assert_equal_to_stock(model, {"structured": tree_row(dialogues), "sdpa": tree_row(dialogues)})


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gemma2", {}, "not known to take token trees"),
    ("cohere2", {}, "not known to take token trees"),
    ("opt", {}, "not known to take token trees"),
    ("bloom", {}, "not known to take token trees"),
    ("falcon", {}, "not known to take token trees"),
    ("mpt", {}, "not known to take token trees"),
    ("mamba", {}, "not known to take token trees"),
    ("gpt_oss", {}, "not known to take token trees"),
    ("stablelm", {}, "not known to take token trees"),
    ("llama4_text", {"num_local_experts": 2, "intermediate_size_mlp": 48}, "not known to take token trees"),
    ("mistral", {"sliding_window": 8}, r"sliding window of 8 tokens.*model\.context_length=8 would fit"),
    ("gemma3_text", {"sliding_window": 8}, "sliding window of 8 tokens"),
    ("granite", {"logits_scaling": 4.0}, r"logits_scaling=4\.0"),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "changes", "message"), REFUSED, ids=[case[0] for case in REFUSED])
def test_others_are_refused_for_trees_and_exact_when_flat(
    model_type: str, changes: dict[str, Any], message: str
) -> None:
    model, dialogues = new_model(model_type, **changes), some_dialogues()
    with pytest.raises(LayoutError, match=rf"{message}.*tokens\.layout=flat"):
        check_takes_trees(model.config)
    with pytest.raises(ConfigError, match=rf"model\.attention=sdpa: .*{message}.*model\.attention=auto"):
        use_attention(model, "sdpa")
    rows = {flat: flat_row(dialogues, flat) for flat in ("multi_turn", "per_response")}
    for row in rows.values():
        assert_equal_to_stock(model, {"auto": row})
    assert use_attention(model, "auto") == "stock"
    batch = row_batch_from_arrays(rows["multi_turn"])
    loss, nll_sum = row_loss(model, batch, LossConfig())
    torch.testing.assert_close((target_nll(model, batch) * batch.weight_Q).sum(), loss.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(target_nll(model, batch).sum(), nll_sum, rtol=1e-6, atol=0)
    with pytest.raises(LayoutError, match=r"takes no trees: tokens\.layout=flat"):
        row_loss(model, row_batch_from_arrays(tree_row(dialogues)), LossConfig())


def test_longrope_is_taken_within_its_original_length() -> None:
    """Beyond it transformers picks factors by the longest sample of a batch, so no batch of several has one truth."""
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "factor": 8.0, "original_max_position_embeddings": 16,
    }  # fmt: skip
    config = new_model("phi3", original_max_position_embeddings=16, rope_parameters=rope).config
    with pytest.raises(LayoutError, match=r"longrope.*beyond 16 tokens.*tokens\.layout=flat"):
        check_takes_trees(config)
    check_takes_trees(config, longest=16)


def test_what_fits_a_shorter_context_is_taken() -> None:
    for model_type, changes, _ in REFUSED:
        if "sliding_window" in changes:
            check_takes_trees(new_model(model_type, **changes).config, longest=8)


def test_a_row_without_targets_goes_through_stock() -> None:
    model = new_model("opt")
    use_attention(model, "auto")
    loss, _ = row_loss(model, row_batch_from_arrays(HandRow()), LossConfig())
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert loss.item() == 0 and all(g is None or float(g.abs().max()) == 0 for g in found)


def test_a_layer_that_drops_the_row_is_refused() -> None:
    """Without the row every token would see every other one, silently."""
    model = tiny_llama()
    attention = model.model.layers[1].self_attn
    original = attention.forward

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("row", None)
        return original(*args, **kwargs)

    attention.forward = forgetful
    for backend in ("auto", "structured"):
        use_attention(model, backend)
        with pytest.raises(LayoutError, match="LlamaAttention does not hand a row down"):
            row_loss(model, row_batch_from_arrays(tree_row(some_dialogues())), LossConfig())
