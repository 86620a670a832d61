"""Folders that are no models are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from model.rows_by_hand import tiny_llama

from extes_train.errors import ModelError
from extes_train.model.config import ModelConfig
from extes_train.model.loading import context_length, load_model, load_tokenizer, new_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with a tokenizer that has an end-of-sequence token and no pad."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(path)
    words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", "hello", "you"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>")
    fast.save_pretrained(path)
    return path


def copied(folder: Path, target: Path, without: str) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        if not file.name.endswith(without):
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_folder_is_loaded_as_it_was_saved(folder: Path) -> None:
    model = load_model(ModelConfig(path=str(folder)), trees=True)
    for name, weight in tiny_llama().state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert load_model(ModelConfig(path=str(folder), dtype="bf16")).dtype == torch.bfloat16
    tokenizer = load_tokenizer(ModelConfig(path=str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [(None, "model.path is not set"), ("/no/such/folder", "no such folder"), ("a/b/c", "model.path=a/b/c: no such")],
)
def test_a_missing_folder(path: str | None, message: str) -> None:
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=message):
            load(ModelConfig(path=path))  # type: ignore[operator]


def test_incomplete_folders(folder: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, str]] = [
        ("config.json", "no config.json"),
        (".safetensors", r"no \*.safetensors; found config.json"),
    ]
    for number, (without, message) in enumerate(cases):
        path = copied(folder, tmp_path / str(number), without)
        with pytest.raises(ModelError, match=message):
            load_model(ModelConfig(path=str(path)))
    (tmp_path / "1" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_model(ModelConfig(path=str(tmp_path / "1")))
    (tmp_path / "0" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter, not a model"):
        load_model(ModelConfig(path=str(tmp_path / "0")))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        load_model(ModelConfig(path=str(tmp_path / "file")))


def test_weights_of_another_shape(folder: Path, tmp_path: Path) -> None:
    path = copied(folder, tmp_path / "m", "nothing")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"do not fit llama.*missing keys: model.layers.2"):
        load_model(ModelConfig(path=str(path)))


def test_tokenizers_that_cannot_serve(folder: Path, tmp_path: Path) -> None:
    path = copied(folder, tmp_path / "m", "tokenizer_config.json")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer(ModelConfig(path=str(path)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no tokenizer in it .*; found an empty folder; copy"):
        load_tokenizer(ModelConfig(path=str(tmp_path / "empty")))


def test_a_new_tiny_model_has_the_shape_asked_for(folder: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(path=str(folder)))
    config = ModelConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, context_length=64)
    model, again = new_tiny_model(config, tokenizer), new_tiny_model(config, tokenizer)
    assert model.config.vocab_size == 5 and model.config.max_position_embeddings == 64
    assert model.config.eos_token_id == 2 and len(model.model.layers) == 2
    assert torch.equal(model.model.embed_tokens.weight, again.model.embed_tokens.weight)


def test_context_length_is_the_models_or_less() -> None:
    made_for = SimpleNamespace(max_position_embeddings=128)
    assert context_length(ModelConfig(), made_for) == 128
    assert context_length(ModelConfig(context_length=64), made_for) == 64
    with pytest.raises(ModelError, match=r"model\.context_length=256.*128"):
        context_length(ModelConfig(context_length=256), made_for)
