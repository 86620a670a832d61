"""What is saved opens in plain transformers and peft with the same logits; merged equals unmerged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model.rows_by_hand import tiny_llama
from torch import nn
from transformers import AutoModelForCausalLM

from extes_train.config import TrainConfig
from extes_train.errors import ModelError, TrainingError
from extes_train.model import merging, saving
from extes_train.model.attention import use_attention
from extes_train.model.config import (
    AdapterConfig,
    DoraConfig,
    FullConfig,
    LoraConfig,
    ModelConfig,
    TuningConfig,
)
from extes_train.model.saving import save_final
from extes_train.model.tuning import apply_tuning

TUNINGS = {c.name: c for c in (FullConfig(), LoraConfig(r=4), DoraConfig(r=4), AdapterConfig(adapter_len=3))}
PROBE = torch.arange(1, 20)[None]


class Words:
    """The one thing saving asks of a tokenizer."""

    chat_template = None

    def save_pretrained(self, folder: str) -> None:
        Path(folder, "tokenizer_config.json").write_text("{}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_llama().save_pretrained(path)
    return path


def moved(tuning: TuningConfig, **changes: Any) -> Any:
    """A tuned model whose trainable weights have left their start."""
    model = apply_tuning(tiny_llama(**changes), tuning)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=PROBE, use_cache=False).logits


def saved(tuning: str, base: Path, out: Path, **changes: Any) -> tuple[Any, Path]:
    model = moved(TUNINGS[tuning], **changes)
    use_attention(model, "auto")
    config = TrainConfig(tuning=TUNINGS[tuning], model=ModelConfig(name="llama", path=str(base)))
    save_final(model, weights_of(model), Words(), config, out, {"steps": 7})
    return model, out


def reopened(folder: Path, base: Path) -> Any:
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    from peft import PeftModel

    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base.resolve())
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)).eval()


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_saved_model_opens_with_the_same_logits(tuning: str, base: Path, tmp_path: Path) -> None:
    model, folder = saved(tuning, base, tmp_path / "model")
    torch.testing.assert_close(logits(reopened(folder, base)), logits(model), rtol=1e-5, atol=1e-6)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ") and "| steps | 7 |" in card
    assert not [p.name for p in tmp_path.iterdir() if p.name != "model"]
    written = json.loads((folder / "config.json").read_text()) if tuning == "full" else {}
    assert "extes" not in json.dumps(written)


def test_tied_embeddings_are_saved_once(base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    model, folder = saved("full", base, tmp_path / "model", tie_word_embeddings=True)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in set(file.keys())
    torch.testing.assert_close(logits(reopened(folder, base)), logits(model), rtol=0, atol=0)


def test_saving_again_replaces(base: Path, tmp_path: Path) -> None:
    saved("full", base, tmp_path / "model")
    (tmp_path / "model" / "stale").write_text("old")
    saved("lora", base, tmp_path / "model")
    assert (tmp_path / "model" / "adapter_config.json").is_file() and not (tmp_path / "model" / "stale").exists()


@pytest.mark.parametrize("fault", ["empty", "missing"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_weights_that_are_not_whole_are_not_saved(tuning: str, fault: str, base: Path, tmp_path: Path) -> None:
    """What ZeRO-3 would leave: tensors without elements, or none at all."""
    model = moved(TUNINGS[tuning])
    weights = weights_of(model)
    name = next(n for n in weights if "q_proj" in n)
    if fault == "empty":
        weights[name] = torch.zeros(0)
    else:
        del weights[name]
    config = TrainConfig(tuning=TUNINGS[tuning], model=ModelConfig(name="llama", path=str(base)))
    with pytest.raises(TrainingError):
        save_final(model, weights, Words(), config, tmp_path / "model", {})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("tuning", ["lora", "dora"])
def test_merged_equals_adapter(tuning: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = saved(tuning, base, tmp_path / "adapter")
    monkeypatch.setattr(merging, "load_tokenizer", lambda config: Words())
    assert merging.merge_adapter(folder, tmp_path / "merged") <= 1e-5
    torch.testing.assert_close(logits(reopened(tmp_path / "merged", base)), logits(model), rtol=1e-4, atol=1e-5)


def test_merging_refuses(base: Path, tmp_path: Path) -> None:
    _, folder = saved("adapter", base, tmp_path / "adapter")
    with pytest.raises(ModelError, match="ADAPTION_PROMPT has no merged form"):
        merging.merge_adapter(folder, tmp_path / "merged")
    with pytest.raises(ModelError, match="nothing to merge"):
        merging.merge_adapter(base, tmp_path / "merged")
    assert saving.base_model_name(TrainConfig(model=ModelConfig(path="some/hub-id"))) == "some/hub-id"
