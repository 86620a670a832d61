"""`extes_train.evaluate` and `extes_train.chat` on runs on disk: full weights and an adapter."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
from evaluation.conftest import TEXTS
from support import gloo_run

from extes_train.chat import build_generator, converse
from extes_train.composition import compose
from extes_train.errors import DataError, ModelError, Requeue
from extes_train.evaluate import evaluate, main


@pytest.fixture
def run(learned, tmp_path):
    """A run directory and the overrides that belong to it."""
    shutil.copytree(learned / "model", tmp_path / "run" / "model")
    data = f"{learned}/dialogues.jsonl"
    overrides = [f"run_dir={tmp_path}/run", f"model.path={learned}/base", f"data.train={data}", f"data.valid={data}"]
    return tmp_path / "run", [*overrides, "evaluation.max_new_tokens=24", f"tokens.cache_dir={tmp_path}/cache"]


def test_a_run_with_full_weights(run, capsys):
    folder, overrides = run
    metrics = evaluate(compose(overrides))
    written = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert written == metrics
    assert written["perplexity"] < 2 < 100 < written["base_perplexity"]
    assert written["bleu4"] == pytest.approx(100) and written["rouge_l"] == pytest.approx(1)
    assert written["meteor"] == written["meteor_exact_stem"] > 0.9
    assert written["strategy_entropy"] == pytest.approx(1) and written["strategy_repetition"] == 0
    assert 0 < written["distinct1"] < written["distinct2"] <= 1 and "tok:13a" in written["bleu_signature"]
    lines = [json.loads(line) for line in (folder / "evaluation" / "generations.jsonl").read_text().splitlines()]
    assert [line["response"] for line in lines] == [text for texts in TEXTS for text in (texts[1], texts[3])]
    assert len(written["digest"]) == 16 and written["num_responses"] == 6 and written["decoding"] == "greedy"
    assert "perplexity" in capsys.readouterr().out


def test_the_base_is_scored_once_for_all_arms(run, monkeypatch):
    _, overrides = run
    first = evaluate(compose([*overrides, "evaluation.num_responses=0"]))
    monkeypatch.setattr("extes_train.evaluation.loading.load_base", lambda *_: pytest.fail("scored again"))
    second = evaluate(compose([*overrides, "evaluation.num_responses=0"]))
    assert first == second and "bleu4" not in second


def test_supporters_are_scored_whatever_was_trained_on(run):
    _, overrides = run
    quick = [*overrides, "evaluation.num_responses=0"]
    assert evaluate(compose([*quick, "tokens.targets=all"])) == evaluate(compose(quick))


def test_a_run_with_an_adapter(run, learned):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    folder, overrides = run
    shutil.rmtree(folder / "model")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(learned / "base"), config)
    model.save_pretrained(folder / "model")
    metrics = evaluate(compose([*overrides, "evaluation.num_responses=2"]))
    full = evaluate(compose([*overrides, "evaluation.num_responses=0", f"evaluation.model={learned}/model"]))
    assert metrics["perplexity"] != pytest.approx(metrics["base_perplexity"], rel=1e-4)
    assert metrics["base_perplexity"] == full["base_perplexity"] and metrics["digest"] == full["digest"]
    assert full["perplexity"] < 2 < metrics["perplexity"]
    assert metrics["num_responses"] == 2


def test_two_ranks_write_what_one_writes(run, tmp_path, monkeypatch):
    folder, overrides = run
    sampled = [*overrides, "evaluation.temperature=2.0", "evaluation.batch_size=2", "tokens.tokens_per_row=128"]
    evaluate(compose(sampled))
    names = ("metrics.json", "generations.jsonl", "dialogues.jsonl")
    alone = {name: (folder / "evaluation" / name).read_text() for name in names}
    shutil.rmtree(folder / "evaluation")
    monkeypatch.setenv("EXTES_CACHE", str(tmp_path / "empty"))  # the base is scored again, by both
    gloo_run(main, 2, sampled)
    assert {name: (folder / "evaluation" / name).read_text() for name in names} == alone
    lines = [json.loads(line) for line in alone["dialogues.jsonl"].splitlines()]
    assert sum(line["nll"] for line in lines) == pytest.approx(json.loads(alone["metrics.json"])["nll"])
    assert [line["nll"] < line["base_nll"] for line in lines] == [True] * 3


def told_to_stop(overrides):
    """Evaluation on a rank; rank 1 gets a signal before the first round."""
    from extes_train.environment import rank_variables
    from extes_train.evaluation import perplexity

    if rank_variables().rank == 1:
        rows = perplexity._rows
        perplexity._rows = lambda *words: os.kill(os.getpid(), signal.SIGUSR2) or rows(*words)
    with pytest.raises(Requeue) as caught:
        main(overrides)
    return str(caught.value)


def test_a_signal_to_one_rank_stops_all(run):
    folder, overrides = run
    assert gloo_run(told_to_stop, 2, overrides) == [
        "a signal on another rank: evaluation stopped, to be started again",
        "SIGUSR2: evaluation stopped, to be started again",
    ]
    assert not (folder / "evaluation").exists()


def test_what_is_missing_is_named(run, tmp_path):
    folder, overrides = run
    with pytest.raises(ModelError, match="neither a model"):
        evaluate(compose([*overrides, f"evaluation.model={tmp_path}"]))
    shutil.rmtree(folder / "model")
    with pytest.raises(ModelError, match="run/model: no such folder; train first"):
        evaluate(compose(overrides))


def test_an_empty_side(run):
    _, overrides = run
    kept = [override for override in overrides if not override.startswith("data.valid")]
    with pytest.raises(DataError, match=r"evaluation\.side=valid: holds no dialogue"):
        evaluate(compose([*kept, "data.valid_fraction=0"]))


def test_a_conversation(run):
    _, overrides = run
    generator = build_generator(compose(overrides))
    written: list[str] = []
    lines = [TEXTS[0][0], TEXTS[0][2], "/new", "/help", TEXTS[1][0], "/quit", "never read"]
    assert converse(generator, iter(lines), written.append) == 3
    text = "".join(written)
    assert f"supporter> {TEXTS[0][1]}\nsupporter> {TEXTS[0][3]}\n(a new conversation)\n" in text
    assert text.endswith(f"supporter> {TEXTS[1][1]}\n")
