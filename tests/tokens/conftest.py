"""Tokenizers and dialogues for the tests of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokens.samples import tiny_tokenizer

from extes_train.dialogue.importers import import_dialogues
from extes_train.dialogue.schema import Dialogue

REAL = ("stories260K", "llama32k-tokenizer")


@pytest.fixture(scope="session")
def esconv(shared: Path) -> dict[str, list[Dialogue]]:
    """Real dialogues: the sides train (910) and valid (195)."""
    return {side: import_dialogues("esconv", shared / f"data/esconv/{side}.jsonl")[0] for side in ("train", "valid")}


@pytest.fixture(scope="session")
def real_tokenizers(shared: Path) -> dict[str, Any]:
    """The two tokenizers beside the checkout, by folder name: one without a chat template, one with."""
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(shared / "models" / name) for name in REAL}


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A small byte-level tokenizer."""
    return tiny_tokenizer()
