"""Checks before a launch: each refusal names the key and what to do, and the launcher stays without torch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from extes_train.dialogue.jsonl import write_dialogues
from extes_train.dialogue.schema import Turn, make_dialogue
from extes_train.errors import EXIT_USER, LaunchError
from launch import audit as auditing
from launch import preflight
from launch.composing import compose_request
from launch.estimates import measured_rate
from launch.hardware import gpu_of_type
from launch.main import main

SHAPE = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Overrides of a launch that passes: three dialogues and the shape of a 7B model."""
    dialogues = [
        make_dialogue(
            "breakups-or-divorce", f"Case {index}.",
            [Turn("seeker", f"It ended {index} days ago."), Turn("supporter", f"That is hard, number {index}.")], {},
        )
        for index in range(3)
    ]  # fmt: skip
    write_dialogues(tmp_path / "train.jsonl", dialogues)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(SHAPE))
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return [
        f"data.train={tmp_path}/train.jsonl", f"model.path={model}", f"run_dir={tmp_path}/run", "model.dtype=bf16",
        "launcher=deepspeed", f"launcher.hostfile={tmp_path}/hosts",
    ]  # fmt: skip


def problems(*words: str) -> list[str]:
    return preflight.examine(compose_request(words), with_audit=False).problems


@pytest.fixture(autouse=True)
def two_hosts_and_a_large_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts").write_text("a slots=8\nb slots=8\n")
    disk_with(monkeypatch, free=10**13)


def disk_with(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**14, 0, free))


def test_a_launch_that_passes(words: list[str]) -> None:
    report = preflight.examine(compose_request(words), with_audit=False)
    assert report.problems == []
    shown = report.render()
    assert "6,738.4 M parameters" in shown and "per rank" in shown


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("model.path=/nowhere/model", r"model\.path=/nowhere/model: no such folder"),
        ("data.train=/nowhere/train.jsonl", r"data\.train=/nowhere/train\.jsonl: no such file"),
        ("model.attention=flash_attention_2", "flash-attn is not installed"),
        ("tuning=qlora", "bitsandbytes is not installed"),
        ("loss.kernel=liger", "liger-kernel is not installed"),
    ],
)
def test_refusals(words: list[str], word: str, problem: str) -> None:
    import re

    key = word.partition("=")[0]
    found = problems(*[w for w in words if not w.startswith(f"{key}=")], word)
    assert any(re.search(problem, text) for text in found), found


def test_a_folder_without_weights_is_refused(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    assert any("has no *.safetensors" in text for text in problems(*words))
    (tmp_path / "model" / "config.json").unlink()
    assert any("has no config.json" in text for text in problems(*words))


def test_a_model_too_large_gets_the_smallest_change(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from launch import estimates
    from launch.estimates import Place

    place = Place(world_size=16, ranks_per_node=8, cuda=True, device_bytes=39e9, node_bytes=1e12)
    monkeypatch.setattr(estimates, "place_of", lambda launcher: place)
    (found,) = problems(*words, "zero=zero1", "model.gradient_checkpointing=true")
    assert "39" not in found.split("a rank has")[0] and "the smallest change that fits: zero=zero" in found
    with pytest.raises(LaunchError, match="the smallest change that fits"):
        monkeypatch.setattr(preflight, "audit", lambda request: auditing.Audit(error=None, row_tokens=2048))
        preflight.check_launch(compose_request([*words, "zero=zero1", "model.gradient_checkpointing=true"]))


def test_a_run_directory_that_is_a_file(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert problems(*words, f"run_dir={tmp_path}/file/run") == [
        f"run_dir={tmp_path}/file/run: {tmp_path}/file is a file; choose another run_dir"
    ]


def test_a_directory_that_cannot_be_written(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert any("cannot be written; choose another run_dir" in text for text in problems(*words))


def test_no_room_for_checkpoints(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    disk_with(monkeypatch, free=10**9)
    assert any("set checkpoint.keep_last=1" in text for text in problems(*words))


def test_another_configuration_in_the_run_directory(words: list[str], tmp_path: Path) -> None:
    from extes_train.composition import compose, to_yaml

    run = tmp_path / "run"
    run.mkdir()
    config = compose(compose_request(words).overrides)
    (run / "config.yaml").write_text(to_yaml(config))
    assert problems(*words) == []
    assert any("optim.lr: 0.001 there, 0.5 now" in text for text in problems(*words, "optim.lr=0.5"))


def test_the_launcher_never_imports_torch(words: list[str]) -> None:
    code = (
        "import sys, launch.preflight as p, launch.slurm.submit, launch.runs\n"
        "from launch.composing import compose_request\n"
        f"p.examine(compose_request({words!r}), with_audit=False).render()\n"
        "print(sorted(name for name in ('torch', 'transformers', 'deepspeed', 'numpy') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_audits_key_follows_data_and_configuration(words: list[str], tmp_path: Path) -> None:
    first = auditing.audit_key(compose_request(words))
    assert auditing.audit_key(compose_request([*words, "launcher.dry_run=true"])) == first
    assert auditing.audit_key(compose_request([*words, "tokens.tokens_per_row=1024"])) != first
    (tmp_path / "train.jsonl").write_text((tmp_path / "train.jsonl").read_text() * 2)
    assert auditing.audit_key(compose_request(words)) != first


def test_an_audit_says_what_is_wrong_and_is_not_kept(words: list[str]) -> None:
    found = auditing.audit(compose_request(words))  # the model folder has no tokenizer
    assert found.error and "tokenizer" in found.error
    assert not list((auditing.cache_directory() / "preflight").glob(f"{auditing.audit_key(compose_request(words))}*"))


def test_doctor_prints_and_returns_the_exit_code(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight.doctor([w for w in words if "model.path" not in w]) == 2
    assert "model.path: needs a folder" in capsys.readouterr().out


def test_gpus_by_name() -> None:
    assert gpu_of_type("a100").memory_gib == 40  # type: ignore[union-attr]
    assert gpu_of_type("nvidia_a100-sxm4-80gb").memory_gib == 80  # type: ignore[union-attr]
    assert gpu_of_type("NVIDIA H200").memory_gib == 141  # type: ignore[union-attr]
    assert gpu_of_type("abacus") is None


def test_a_runs_own_speed(tmp_path: Path) -> None:
    assert measured_rate(tmp_path) is None
    lines = [json.dumps({"step": step, "tokens_per_s": rate}) for step, rate in ((1, 5.0), (2, 100.0), (3, 110.0))]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"torn']))
    assert measured_rate(tmp_path) == 100.0


def test_a_comparison_is_refused_before_its_first_arm(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model" / "model.safetensors").write_bytes(struct.pack("<Q", 200) + b"{")
    assert main(["compare", *words, f"compare.out={tmp_path}/out", "compare.arms=[full/none,lora/none]"]) == EXIT_USER
    shown = capsys.readouterr().err
    assert shown.startswith("extes: arm full: ") and "is cut off in its header" in shown
    assert not (tmp_path / "out").exists()
