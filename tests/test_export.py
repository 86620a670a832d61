"""Exported weights: an adapter merged so that plain transformers gives the adapter's logits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from extes_train.errors import ModelError, RunDirError
from extes_train.export import export_weights, main, model_folder

PROBE = torch.arange(2, 30)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    shape: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=2, pad_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<unk>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, 64)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose adapter has moved."""
    folder = tmp_path_factory.mktemp("run")
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(model, settings)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tuned.save_pretrained(str(folder / "model"))
    AutoTokenizer.from_pretrained(base).save_pretrained(str(folder / "model"))
    (folder / "model" / "README.md").write_text('---\nlibrary_name: "peft"\n---\n# Adapter for emotional support\n')
    return folder


def logits(model: Any) -> torch.Tensor:
    """(1, T, V) of the probe."""
    with torch.no_grad():
        return model.eval()(input_ids=PROBE, use_cache=False).logits


def test_a_merged_adapter_gives_its_logits(base: Path, run: Path, tmp_path: Path) -> None:
    done = export_weights(run, tmp_path / "deep" / "out")
    assert "merged" in done
    adapter = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(run / "model"))
    want, got = logits(adapter), logits(AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "out"))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    plain = logits(AutoModelForCausalLM.from_pretrained(base))
    assert (plain - want).abs().max() > 1e-2, "the adapter does something"
    assert AutoTokenizer.from_pretrained(tmp_path / "deep" / "out").eos_token == "</s>"
    card = (tmp_path / "deep" / "out" / "README.md").read_text()
    assert 'library_name: "transformers"' in card and "# Model for emotional support" in card
    assert not list((tmp_path / "deep").glob(".*")), "no temporary folder stays"


def test_a_full_model_is_copied(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(base, tmp_path / "run" / "model")
    (tmp_path / "out").mkdir()
    main([str(tmp_path / "run"), str(tmp_path / "out")])
    assert "a copy of the full model" in capsys.readouterr().out
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")),
        logits(AutoModelForCausalLM.from_pretrained(base)),
    )


def test_a_moved_base_can_be_named(base: Path, run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    adapter = tmp_path / "adapter"
    shutil.copytree(run / "model", adapter)
    settings = adapter / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(base), "/gone/base"))
    with pytest.raises(ModelError, match="its base model '/gone/base' is not there; say where it is with --base"):
        export_weights(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "merged" in export_weights(adapter, tmp_path / "out", base=str(moved))


def test_refusals(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="exists and is not empty"):
        export_weights(base, base)
    with pytest.raises(ModelError, match="no such folder"):
        model_folder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="holds no model; a finished run has one in"):
        model_folder(tmp_path)
