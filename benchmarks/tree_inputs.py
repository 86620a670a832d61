"""Dialogues with alternatives, tokenizers and models for the benchmarks of training on trees.

Real ESConv dialogues where `../shared` is present, else the seeds that ship with the project. Responses borrowed from
other dialogues stand in for the alternatives that DRI writes: real supporter turns of real lengths.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))

# shapes of LLaMA: weights of the layers and of a tied vocabulary of 1,536 come to 1.0 and 26.1 million
SHAPES = {
    "1M": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
    "25M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
    # the same number of weights with the Llama vocabulary: 16.4 million of them are the head
    "25M-llama-vocabulary": {
        "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 3, "num_attention_heads": 8,
    },
}  # fmt: skip
LLAMA_VOCABULARY = "25M-llama-vocabulary"


def read_dialogues(count: int | None, num_alternatives: int, seed: int = 0) -> tuple[list[Any], str]:
    """The first `count` dialogues, `num_alternatives` borrowed responses at each supporter turn, and their source."""
    from extes_train.dialogue.schema import Alternative

    dialogues, source = _real_or_shipped()
    responses = [t.text for d in dialogues for t in d.turns if t.speaker == "supporter"]
    draw = random.Random(seed)
    chosen = dialogues[:count]
    for dialogue in chosen:
        for turn in dialogue.turns:
            if turn.speaker == "supporter":
                turn.alternatives = [Alternative(text) for text in draw.sample(responses, num_alternatives)]
    return chosen, source


def _real_or_shipped() -> tuple[list[Any], str]:
    if SHARED.is_dir():
        from extes_train.dialogue.importers import import_dialogues

        return import_dialogues("esconv", SHARED / "data/esconv/train.jsonl")[0], "ESConv train"
    from data_gen.seed_dialogues import read_seeds
    from extes_train.dialogue.taxonomy import load_taxonomy

    return read_seeds(None, load_taxonomy("extes")), "shipped seeds"


def small_tokenizer(vocab_size: int = 1536) -> Any:
    """Byte-level BPE learned from the dialogues, as pretraining makes it."""
    from extes_train.pretrain import train_tokenizer

    names = {"seeker": "Seeker:", "supporter": "Supporter:"}
    texts = [f"{names[t.speaker]}{t.text}\n" for d in _real_or_shipped()[0][:300] for t in d.turns]
    return train_tokenizer(texts, vocab_size)


def llama_tokenizer() -> Any:
    """The Llama tokenizer of 32,000 entries, or None where `../shared` is absent."""
    folder = SHARED / "models/llama32k-tokenizer"
    if not folder.is_dir():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def new_model(size: str, vocab_size: int, dtype: Any, context: int = 4096, seed: int = 0) -> Any:
    """A LLaMA of `size` (a key of SHAPES) with random weights and a tied vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape: dict[str, Any] = SHAPES[size]
    config = LlamaConfig(
        vocab_size=vocab_size, max_position_embeddings=context, tie_word_embeddings=True,
        num_key_value_heads=shape["num_attention_heads"], **shape,
    )  # fmt: skip
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype).train()


def build_windows(dialogues: list[Any], tokenizer: Any, context: int, layout: str, flat: str = "multi_turn") -> Any:
    """The dataset of a layout, every alternative used, without a cache. Rows may be as long as four contexts."""
    from extes_train.tokens.config import TokensConfig
    from extes_train.tokens.dataset import build_dataset

    tokens = TokensConfig(
        layout=layout, flat=flat, too_long="truncate_response", min_left_context=0, tokens_per_row=4 * context
    )
    return build_dataset(
        dialogues, tokenizer, tokens, context_length=context, num_alternatives=None, chat_template="plain", cache=False
    )


def trees_of(dataset: Any) -> list[Any]:
    """All trees of a dataset, in order."""
    return [tree for item in range(len(dataset)) for tree in dataset.trees(item)]
