"""The report of a comparison, from files that a comparison leaves."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from extes_train.errors import DataError
from extes_train.report.differences import Side, difference, half_width, student_t
from extes_train.report.plots import smoothed, ticks
from extes_train.report.results import read_results
from extes_train.report.table import short
from extes_train.report.write import print_table, write_report

ARMS = [("full", "none"), ("lora", "none"), ("full", "dri"), ("lora", "dri")]


def metrics(i, **more):
    return {
        "base_perplexity": 30.081, "perplexity": 8.0 + i, "nll_per_byte": 0.5, "count": 1000, "responses": 90,
        "dialogues": 9, "digest": "abc", "truncated": 1, "skipped": 0, "bleu1": 9.0, "bleu2": 5.0, "bleu3": 3.0,
        "bleu4": 1.5 + i, "bleu_signature": "nrefs:1|tok:13a", "rouge_l": 0.2, "meteor": 0.1, "distinct1": 0.3,
        "distinct2": 0.6, "distinct3": 0.7, "num_responses": 2, "decoding": "greedy", "finished": 1.0, **more,
    }  # fmt: skip


def cost(i):
    return {
        "train_seconds": 12.5 + i, "steps": 40, "tokens": 123456, "flat_tokens": 234567, "targets": 45678,
        "targets_per_s": 3654.2, "tokens_per_s": 9876.0, "peak_memory_bytes": 700 * 2**20, "memory_kind": "VmHWM",
        "trainable_parameters": 1_234_567 >> (3 * (i % 2)), "dialogues": 640,
    }  # fmt: skip


def write_arm(folder, i, losses=60):
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation/metrics.json").write_text(json.dumps(metrics(i)))
    (folder / "cost.json").write_text(json.dumps(cost(i)))
    lines = [{"step": s + 1, "loss": 4 * math.exp(-s / 20) + 2 + 0.1 * i, "seconds": 0.2} for s in range(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "lo')
    scored = [
        {"dialogue": f"d{n}", "targets": 100 + n, "nll": (100 + n) * (math.log(8.0 + i) + 0.01 * ((n * (i + 1)) % 5)),
         "base_nll": (100 + n) * 3.4}
        for n in range(9)
    ]  # fmt: skip
    (folder / "evaluation/dialogues.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scored))
    answers = [
        {
            "dialogue": f"d{n}",
            "turn": 1,
            "said": "I <b>can't</b> & won't",
            "reference": f"ref {n}",
            "response": f"r{n} {i}",
        }
        for n in range(8)
    ]
    (folder / "evaluation/generations.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))


@pytest.fixture
def comparison(tmp_path):
    """A folder with four finished arms."""
    arms = []
    for i, (tuning, augmentation) in enumerate(ARMS):
        name = tuning if augmentation == "none" else f"{tuning}-{augmentation}"
        write_arm(tmp_path / "arms" / name, i)
        arms.append(
            {"name": name, "tuning": tuning, "augmentation": augmentation, "seed": 0, "state": "finished",
             "run_dir": f"arms/{name}", "overrides": []}
        )  # fmt: skip
    value = {"schema": 1, "experiment": "quickstart", "budget": "steps", "model": "base", "teacher": "offline-teacher",
             "data": {"train": "train.jsonl"}, "arms": arms}  # fmt: skip
    (tmp_path / "compare.json").write_text(json.dumps(value))
    return tmp_path


def change(folder, edit):
    value = json.loads((folder / "compare.json").read_text())
    edit(value)
    (folder / "compare.json").write_text(json.dumps(value))


def test_results_have_the_contract(comparison):
    results = write_report(comparison)
    assert json.loads((comparison / "results.json").read_text()) == results
    assert (results["schema"], results["digest"], results["budget"], results["base"]) == (1, "abc", "steps", "base")
    assert [(arm["tuning"], arm["augmentation"], arm["seed"]) for arm in results["arms"]] == [(*arm, 0) for arm in ARMS]
    for i, arm in enumerate(results["arms"]):
        assert arm["metrics"]["perplexity"] == 8.0 + i and arm["cost"]["train_seconds"] == 12.5 + i
        assert {"base_perplexity", "bleu4", "rouge_l", "meteor", "distinct1", "distinct2"} <= set(arm["metrics"])
        assert {"tokens", "targets", "peak_memory_bytes", "trainable_parameters"} <= set(arm["cost"])
    assert results["warnings"] == [] and results["groups"] == []


def test_the_table_fits_80_columns(comparison, capsys):
    change(comparison, lambda value: value["arms"][0].update(name="full-with-a-very-long-name-of-a-sweep=0.0003"))
    text = print_table(write_report(comparison))
    assert capsys.readouterr().out == text + "\n"
    assert max(map(len, text.splitlines())) <= 80
    for part in ("base ppl", "30.08", "8.000", "lora-dri", "targets/s", "3.65k", "700", "1.23M", "12.5", "full-w", "…"):
        assert part in text, part


class Elements(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone_and_shows_everything(comparison):
    write_report(comparison)
    page = (comparison / "report.html").read_text()
    elements = Elements()
    elements.feed(page)
    assert elements.links == [] and "script" not in elements.tags and "@import" not in page and "url(" not in page
    text = " ".join(elements.text)
    assert "I <b>can't</b> & won't" in text and "<b>can't" not in page
    for part in ("lora-dri", "30.08", "r0 3", "substitute for professional help", "abc"):
        assert part in text, part
    assert "prefers-color-scheme: dark" in page
    plots = [part.split("</svg>")[0] for part in page.split("<svg")[1:]]
    assert len(plots) == 1 + 2 + 4
    for plot in plots:
        ET.fromstring(f"<svg{plot}</svg>")
    assert page.count("<polyline") == 8 and page.count("<rect") == 4 * 5
    assert page.count("class=best") == 1 + 1


def test_a_line_ends_where_its_loss_does(comparison):
    write_report(comparison)
    page = (comparison / "report.html").read_text()
    points = page.split('<polyline class="line t-full a-none" points="')[1].split('"')[0].split()
    xs, ys = zip(*((float(x), float(y)) for x, y in (point.split(",") for point in points)))
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys)  # loss falls, y grows downwards
    assert len(points) == 60


def test_held_out_curves_where_there_are_any(comparison):
    lines = [{"step": step, "perplexity": 20.0 - step} for step in (2, 4, 6)] + [{"step": 8, "perplexity": math.inf}]
    (comparison / "arms/lora/heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(comparison)
    page = (comparison / "report.html").read_text()
    assert "Held-out perplexity while training" in page
    assert page.count("<polyline") == 9 and "lora: 18.000 to 14.000" in page


def test_markdown_has_the_same_numbers(comparison):
    write_report(comparison)
    text = (comparison / "report.md").read_text()
    assert "| full | 30.08 | 8.000 | 1.50 | 0.200 | 0.100 | 0.300 | 0.600 |" in text
    assert "| lora-dri | 15.5 | 40 | 45.7k | 3.65k | 123k | 700 | 154k |" in text
    assert "- lora-dri: r0 3" in text


def test_arms_scored_on_other_tokens_are_refused(comparison):
    (comparison / "arms/lora/evaluation/metrics.json").write_text(json.dumps(metrics(1, digest="xyz")))
    with pytest.raises(DataError, match=r"different tokens .*abc: full, full-dri, lora-dri; xyz: lora"):
        write_report(comparison)
    assert not (comparison / "results.json").exists()


def test_a_failed_arm_hides_no_other(comparison):
    (comparison / "arms/lora/evaluation/metrics.json").unlink()
    (comparison / "arms/lora/cost.json").unlink()
    (comparison / "arms/lora/metrics.jsonl").unlink()
    change(comparison, lambda value: value["arms"][1].update(state="failed"))
    results = write_report(comparison)
    assert results["warnings"] == ["lora: failed, not in the comparison"]
    text = print_table(results)
    assert "! lora: failed" in text and "8.000" in text
    assert (comparison / "report.html").read_text().count("<polyline") == 6


def test_nothing_finished_yet(comparison):
    for name in ("full", "lora", "full-dri", "lora-dri"):
        for file in (
            "evaluation/metrics.json",
            "evaluation/dialogues.jsonl",
            "evaluation/generations.jsonl",
            "cost.json",
            "metrics.jsonl",
        ):
            (comparison / "arms" / name / file).unlink()
    results = write_report(comparison)
    assert results["digest"] is None and "No curve was recorded" in (comparison / "report.html").read_text()


def test_warnings_say_what_to_doubt(comparison):
    odd = metrics(0, perplexity=31.0, finished=0.25, base_perplexity=30.5)
    (comparison / "arms/full/evaluation/metrics.json").write_text(json.dumps(odd))
    (comparison / "arms/full/cost.json").write_text(json.dumps({**cost(0), "steps": 20}))
    warnings = " ".join(read_results(comparison)["warnings"])
    for part in (
        "not below the base",
        "only 25% of its responses",
        "same base model",
        "different numbers of steps: 20, 40",
    ):
        assert part in warnings, part


def test_seeds_are_summed_up(comparison):
    def edit(value):
        for i, arm in enumerate(value["arms"]):
            tuning, seed = ("full", i) if i < 2 else ("lora", i - 2)
            arm.update(name=f"{tuning}-seed{seed}", tuning=tuning, seed=seed)

    change(comparison, edit)
    groups = write_report(comparison)["groups"]
    assert [(group["name"], group["seeds"]) for group in groups] == [("full", [0, 1]), ("lora", [0, 1])]
    assert groups[0]["mean"]["perplexity"] == pytest.approx(8.5)
    assert groups[0]["deviation"]["perplexity"] == pytest.approx(math.sqrt(0.5))
    assert "8.500 ± 0.707" in (comparison / "report.md").read_text()


def edit_dialogues(folder, name, edit):
    """Change each line of an arm's dialogues.jsonl."""
    path = folder / "arms" / name / "evaluation/dialogues.jsonl"
    lines = [edit(n, json.loads(line)) for n, line in enumerate(path.read_text().splitlines())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_differences_have_a_verdict(comparison, capsys):
    edit_dialogues(comparison, "lora", lambda n, line: line | {"nll": line["targets"] * (math.log(8.02) + n % 2 / 20)})
    results = write_report(comparison)
    found = {(one["arm"], one["against"]): one for one in results["differences"]}
    assert len(found) == 6 + 4
    assert found["lora", "full"]["verdict"] == "within the noise" and found["full-dri", "full"]["verdict"] == "higher"
    assert found["lora-dri", "full"]["change"] == pytest.approx(11 / 8 - 1, rel=0.1)
    low, high = found["lora-dri", "full"]["interval"]
    assert low < found["lora-dri", "full"]["change"] < high
    text = print_table(results)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("ppl against full", "within the noise", "ppl, dri against none", "an arm has one seed"):
        assert part in text and part in (comparison / "report.md").read_text(), part
    page = (comparison / "report.html").read_text()
    assert "Which differences are more than noise" in page
    assert page.count("class=best") == 2 + 1, "full and lora are alike, so both are the best"


def test_an_arm_that_only_seems_to_beat_the_base(comparison):
    edit_dialogues(comparison, "full", lambda n, line: line | {"base_nll": line["nll"] * (1.01 if n % 2 else 0.995)})
    doubt = "full: its perplexity differs from the base model's within the noise only"
    assert doubt in read_results(comparison)["warnings"]


def test_dialogues_that_are_missing_or_others(comparison):
    (comparison / "arms/lora/evaluation/dialogues.jsonl").unlink()
    results = read_results(comparison)
    assert results["differences"] == [] and "no verdict on differences" in " ".join(results["warnings"])
    edit_dialogues(comparison, "full-dri", lambda n, line: line | {"targets": 1})
    with pytest.raises(DataError, match=r"full-dri/evaluation/dialogues\.jsonl: lists other dialogues"):
        read_results(comparison)


def test_the_interval_is_the_bootstraps():
    draw = np.random.default_rng(0)
    targets = draw.integers(50, 400, 60)
    easy, gaps = draw.normal(2.0, 0.5, 60), draw.normal(0.02, 0.1, 60)
    one, other = Side("a", [list(targets * (easy + gaps))]), Side("b", [list(targets * easy)])
    found = difference(one, other, targets.tolist())
    samples = draw.integers(0, 60, (4000, 60))
    ratios = (targets * gaps)[samples].sum(1) / targets[samples].sum(1)
    low, high = np.expm1(np.quantile(ratios, [0.025, 0.975]))
    assert found["interval"] == pytest.approx([low, high], abs=0.15 * (high - low))


def test_noise_is_called_noise_nineteen_times_of_twenty():
    draw = np.random.default_rng(1)

    def verdict(shift):
        targets = draw.integers(50, 400, 30)
        easy = draw.normal(2.0, 0.5, 30)

        def side(name, by):  # what a seed changes is common to all dialogues, the rest is each dialogue's own
            return Side(
                name, [list(targets * (easy + by + draw.normal(0, 0.03) + draw.normal(0, 0.05, 30))) for _ in range(3)]
            )

        return difference(side("a", shift), side("b", 0.0), targets.tolist())["verdict"]

    nothing, much = [verdict(0.0) for _ in range(400)], [verdict(-0.3) for _ in range(50)]
    assert 0.9 < nothing.count("within the noise") / 400 < 0.995
    assert much == ["lower"] * 50


def test_students_t():
    assert [student_t(f) for f in (1, 2.9, 30)] == [12.706, 4.303, 2.042]
    assert student_t(60) == pytest.approx(2.0003, abs=2e-3) and student_t(1e9) == pytest.approx(1.96, abs=1e-3)
    assert half_width([(0.04, 10), (0.0, 1)]) == pytest.approx(2.228 * 0.2)


def test_faults_of_compare_json(tmp_path):
    with pytest.raises(DataError, match=r"compare\.json: no such file"):
        write_report(tmp_path)
    (tmp_path / "compare.json").write_text("{")
    with pytest.raises(DataError, match=r"compare\.json:1: no JSON"):
        write_report(tmp_path)
    (tmp_path / "compare.json").write_text('{"arms": []}')
    with pytest.raises(DataError, match="at least one arm"):
        write_report(tmp_path)


def test_small_helpers():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(2.1, 2.9) == [2.2, 2.4, 2.6, 2.8] and ticks(1, 1) == [1]
    assert [short(v) for v in (0.1234, 12.34, 999, 1234, 1_500_000)] == ["0.123", "12.3", "999", "1.23k", "1.5M"]
    flat = smoothed([(float(i), 1.0) for i in range(1000)])
    assert len(flat) <= 501 and all(y == pytest.approx(1.0) for _, y in flat)
