"""Generation against a server that no one here wrote: `transformers serve` with a tiny model that talks nonsense."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import free_port

from data_gen.journal import read_journal
from launch.main import main

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"
STARTS_WITHIN_S = 120.0
PROMPTS = {
    "system": "You write dialogues about $domain.",
    "expansion": "Scenario: $scenario_line\nNumber of utterances: $turns\n$exemplars\nAnswer with JSON only.",
}  # a small model's context is soon full; the shipped prompts are long


def build_random_llama(folder: Path) -> None:
    """A Llama with random weights over bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["<s>", "</s>", *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real tiny model where there is one, else one of random weights, with a chat template."""
    folder = tmp_path_factory.mktemp("model")
    if SHARED.is_dir():
        for path in SHARED.iterdir():
            shutil.copyfile(path, folder / path.name)
    else:
        build_random_llama(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@contextlib.contextmanager
def transformers_serve(folder: Path, log: Path) -> Iterator[str]:
    """The base URL of `transformers serve` for the model in `folder`."""
    port = free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", folder]
    with log.open("w") as file:
        server = subprocess.Popen(
            [*map(str, command), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)],
            stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=log.parent,
        )  # fmt: skip
    try:
        until = time.monotonic() + STARTS_WITHIN_S
        while not _healthy(port):
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_nonsense_of_a_real_server_is_rejected_and_the_run_says_so(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for name, text in PROMPTS.items():
        (prompts / f"{name}.txt").write_text(text)
    out, log = tmp_path / "out", tmp_path / "server.log"
    words = [
        *("generate", f"generate.out={out}", "generate.num_dialogues=20", f"generate.prompts={prompts}"),
        *("generate.num_exemplars=0", "generate.round_size=6", "generate.lag=2"),
        *("teacher=http", f"teacher.model={model_folder}", "teacher.max_tokens=24", "teacher.concurrency=2"),
    ]
    with transformers_serve(model_folder, log) as url:
        assert main([*words, f"teacher.base_url={url}"]) == 0, log.read_text()
        refused = main([*words, f"teacher.base_url={url}", f"generate.out={tmp_path / 'no'}", "teacher.model=no-such"])
    told = capsys.readouterr().err
    card = json.loads((out / "card.json").read_text())
    counts = card["counts"]
    assert counts["accepted"] == 0 and counts["rejected"] == counts["candidates"] == 6
    assert counts["rejected"] == sum(counts["rejected_by_reason"].values())
    assert set(counts["rejected_by_reason"]) <= {"finish_length", "unreadable", "schema"}
    assert card["stopped"] == "acceptance"
    assert "0 of 20 dialogues accepted out of 6 candidates; stopped because fewer than" in told
    assert "rejected: " in told and told.count("Traceback") == 0
    replies = [record for record in read_journal(out / "journal.jsonl") if record["kind"] == "reply"]
    assert all(record["tokens"][0] > 10 and record["tokens"][1] > 0 for record in replies)
    counted = [record["tokens"][1] for record in replies if record["index"] < counts["candidates"]]
    assert card["teacher"]["completion_tokens"] == sum(counted)
    assert (out / "dialogues.jsonl").read_bytes() == b""
    assert refused == 2 and "no-such" in told
