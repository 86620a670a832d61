"""The published figure of the plain reference (../shared/reference): a real model on real dialogues."""

from __future__ import annotations

import pytest

from extes_train.dialogue.importers import import_dialogues
from extes_train.evaluation.loading import load_base
from extes_train.evaluation.perplexity import score_responses
from extes_train.model.config import ModelConfig
from extes_train.model.loading import load_tokenizer
from extes_train.tokens.config import TokensConfig
from extes_train.tokens.dataset import build_dataset


def test_base_perplexity_of_stories260k_on_esconv(shared):
    config = ModelConfig(name="llama", path=str(shared / "models/stories260K"))
    dialogues, _ = import_dialogues("esconv", shared / "data/esconv/valid.jsonl")
    tokens = TokensConfig(min_left_context=0, too_long="truncate_response")
    dataset = build_dataset(dialogues, load_tokenizer(config), tokens, context_length=512, cache=False)
    scores = score_responses(load_base(config, "cpu"), dataset)
    assert (len(dataset.windows), scores.count, scores.truncated) == (734, 143_349, 1)
    assert scores.perplexity == pytest.approx(30.081, abs=0.002)
