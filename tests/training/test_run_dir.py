"""The run directory: atomic, of one configuration, with metrics that stay contiguous."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extes_train.config import TrainConfig
from extes_train.dialogue.files import read_json
from extes_train.errors import RunDirError
from extes_train.training.config import TrackerConfig
from extes_train.training.run_dir import RunDir, append_line, cut_after, open_run_dir

DATA = {"data.train": "a" * 64}


def opened(config: TrainConfig, data: dict[str, str] = DATA) -> RunDir:
    return open_run_dir(config, [f"run_dir={config.run_dir}"], data, ["python", "-m", "extes_train.train"])


def test_a_new_run_directory_says_where_it_comes_from(tmp_path: Path) -> None:
    run = opened(TrainConfig(run_dir=str(tmp_path / "deep" / "run")))
    assert run.overrides.read_text() == f"run_dir={run.path}\n"
    provenance = read_json(run.provenance)
    assert provenance["data"] == DATA
    assert provenance["versions"]["torch"]
    assert "seed: 0" in run.config.read_text()
    assert [path.name for path in run.path.parent.iterdir()] == ["run"], "no temporary directory stays"


def test_a_launchers_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    assert opened(TrainConfig(run_dir=str(tmp_path / "run"))).config.is_file()


def test_the_same_configuration_resumes_and_the_marker_goes(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=str(tmp_path / "run"))
    run = opened(config)
    run.requeue.write_text("3\n")
    config.optim.max_steps, config.tracker = 99, TrackerConfig(name="none")
    opened(config)
    assert not run.requeue.exists()


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=str(tmp_path / "run"))
    opened(config)
    config.optim.lr, config.seed = 0.5, 7
    with pytest.raises(RunDirError, match=r"optim\.lr: 0\.001 there, 0\.5 now; seed: 0 there, 7 now"):
        opened(config)


def test_other_data_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=str(tmp_path / "run"))
    opened(config)
    with pytest.raises(RunDirError, match=r"data\.train has changed"):
        opened(config, {"data.train": "b" * 64})


def test_a_directory_that_cannot_be_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="cannot be written"):
        opened(TrainConfig(run_dir=str(tmp_path / "file" / "run")))
    (tmp_path / "old" / "model").mkdir(parents=True)
    with pytest.raises(RunDirError, match=r"no config\.yaml"):
        opened(TrainConfig(run_dir=str(tmp_path / "old")))


def test_the_tail_past_a_checkpoint_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 8):
        append_line(path, {"step": step, "loss": 1.0})
    with open(path, "a") as file:
        file.write('{"step": 8, "lo')  # torn by a kill
    assert cut_after(path, 5) == 3
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]
    assert cut_after(path, 5) == 0
    assert cut_after(tmp_path / "none.jsonl", 5) == 0
