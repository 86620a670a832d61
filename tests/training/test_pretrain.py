"""The tiny base: learns more than word frequencies, is cached, and is a model like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training.tiny import write_dialogue_file

from extes_train.dialogue.files import read_json
from extes_train.errors import DataError
from extes_train.pretrain import main


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A base of a few thousand weights."""
    write_dialogue_file(tmp_path / "base.jsonl", number=60, alternatives=0)
    return [
        f"--data={tmp_path / 'base.jsonl'}", f"--out={tmp_path / 'base'}", "--max-steps=60", "--dialogues-per-step=8",
        "--vocab-size=400", "--context-length=128", "--hidden-size=32", "--num-hidden-layers=2", "--lr=1e-2",
        "--num-attention-heads=2", "--tokens-per-row=512", f"--cache-dir={tmp_path / 'cache'}",
    ]  # fmt: skip


def test_the_base_beats_a_unigram_model_and_is_cached(arguments: list[str], tmp_path: Path, capsys: Any) -> None:
    main(arguments)
    result = read_json(tmp_path / "base" / "pretrain.json")
    assert result["ratio"] == pytest.approx(result["loss"] / result["unigram_loss"])
    assert result["ratio"] < 0.8
    assert 2.0 < result["unigram_loss"] < 6.0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert tokenizer.chat_template is None
    assert tokenizer.decode(tokenizer("That sounds hard today. Ünïcode").input_ids) == "That sounds hard today. Ünïcode"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "base").config.hidden_size == 32
    main(arguments)
    assert "pretrained before" in capsys.readouterr().err
    main([*arguments, f"--out={tmp_path / 'other'}"])
    assert "from the cache" in capsys.readouterr().err
    assert read_json(tmp_path / "other" / "pretrain.json") == result


def test_a_missing_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        main([f"--data={tmp_path / 'no.jsonl'}", f"--out={tmp_path / 'base'}"])
