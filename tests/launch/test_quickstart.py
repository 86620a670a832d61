"""The quickstart at full size, its control, and its page in a browser. Minutes: in the group `browser`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from launch.main import main

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart")
    assert main(["compare", "experiment=quickstart", f"compare.out={out}"]) == 0
    return out


def perplexities(out: Path) -> dict[str, tuple[float, float]]:
    """Arm -> (base, tuned) held-out perplexity."""
    arms = json.loads((out / "results.json").read_text())["arms"]
    return {arm["name"]: (arm["metrics"]["base_perplexity"], arm["metrics"]["perplexity"]) for arm in arms}


def test_every_arm_beats_its_base_by_a_fifth(quickstart: Path) -> None:
    found = perplexities(quickstart)
    assert set(found) == {"full", "lora", "full-dri", "lora-dri"}
    too_high = {name: pair for name, pair in found.items() if pair[1] > 0.8 * pair[0]}
    assert not too_high


def test_the_base_has_learnt_its_language(quickstart: Path) -> None:
    assert json.loads((quickstart / "base/pretrain.json").read_text())["ratio"] <= 0.6


def test_enough_dialogues_of_enough_turns(quickstart: Path) -> None:
    sizes = {}
    for side in ("train", "valid"):
        lines = (quickstart / f"generated/{side}.jsonl").read_text().splitlines()
        sizes[side] = len(lines)
        assert min(len(json.loads(line)["turns"]) for line in lines) >= 10
    assert sizes["train"] >= 200 and sizes["valid"] >= 40


def test_shuffled_responses_are_worse(quickstart: Path, tmp_path: Path) -> None:
    """The control: answers of other dialogues teach less about a dialogue's own answers."""
    words = ["experiment=quickstart", f"compare.out={tmp_path}", "compare.arms=[full/none]", "compare.generate=false"]
    words += ["pretrain.enabled=false", f"model.path={quickstart / 'base'}", "data.shuffle_responses=true"]
    words += [f"data.{side}={quickstart / 'generated' / side}.jsonl" for side in ("valid", "test")]
    words += [f"data.train={quickstart / 'inpainted/dialogues.jsonl'}"]
    assert main(["compare", *words]) == 0
    assert perplexities(tmp_path)["full"][1] > perplexities(quickstart)["full"][1]


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_opens_in_a_browser(quickstart: Path, tmp_path: Path, width: int) -> None:
    """The report draws its plots and table, and nothing comes from outside."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium")
    page = quickstart / "report.html"
    assert not re.findall(r'(?:src|href)="https?://', page.read_text())
    common = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    picture = tmp_path / "report.png"
    subprocess.run(
        [*common, f"--window-size={width},2000", f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert picture.stat().st_size > 20_000
    command = [*common, "--dump-dom", page.as_uri()]
    dumped = subprocess.run(command, check=True, capture_output=True, timeout=120, text=True)
    assert dumped.stdout.count("<svg") >= 2 and "full-dri" in dumped.stdout
