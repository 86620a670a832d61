"""A tiny Llama that was taught a few dialogues by heart, on disk, and those dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extes_train.dialogue.jsonl import write_dialogues
from extes_train.dialogue.schema import Dialogue, Turn, make_dialogue

TEXTS = [
    ("my dog is gone", "that must hurt", "yes it does", "tell me about the dog"),
    ("i lost my job", "that sounds hard", "what now", "one step at a time"),
    ("exams make me ill", "you are not alone", "it feels so", "many feel like you"),
]


def some_dialogues() -> list[Dialogue]:
    """Three short dialogues of four turns."""
    result = []
    for a, b, c, d in TEXTS:
        turns = [
            Turn("seeker", a),
            Turn("supporter", b, "others"),
            Turn("seeker", c),
            Turn("supporter", d, "affirmation"),
        ]
        result.append(make_dialogue("academic-stress", a, turns))
    return result


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `model` (knows the dialogues by heart), `base` (random weights), `dialogues.jsonl`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from extes_train.tokens.config import TokensConfig
    from extes_train.tokens.dataset import build_dataset

    folder = tmp_path_factory.mktemp("learned")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text for texts in TEXTS for text in texts], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(shape)
    save(model, tokenizer, folder / "base")
    dialogues = some_dialogues()
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    dataset = build_dataset(dialogues, tokenizer, TokensConfig(), context_length=128, cache=False)
    teach(model, [window.trunk for window in dataset.windows])
    save(model, tokenizer, folder / "model")
    return folder


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def teach(model: Any, sequences: list[Any], steps: int = 100) -> None:
    """Plain overfitting on all tokens."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    batches = [torch.tensor(ids[None], dtype=torch.int64) for ids in sequences]
    for _ in range(steps):
        for ids_1T in batches:
            model(input_ids=ids_1T, labels=ids_1T).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
