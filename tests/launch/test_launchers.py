"""Launchers are pure functions from a configuration to a command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from extes_train.errors import ConfigError, LaunchError
from launch.composing import compose_request
from launch.config import DeepspeedConfig, LocalConfig, TorchrunConfig
from launch.environment import available_cores, visible_gpus
from launch.launchers import deepspeed, local, torchrun
from launch.main import main

MODULE, WORDS = "extes_train.train", ["optim.lr=1", "run_dir=/r"]


def test_local() -> None:
    assert local.worker_command(MODULE, WORDS, LocalConfig()) == [sys.executable, "-m", MODULE, *WORDS]
    assert local.processes(LocalConfig()) == 1


def test_torchrun() -> None:
    launcher = TorchrunConfig(processes=4, arguments=["--log-dir=/logs"])
    command = torchrun.worker_command(MODULE, WORDS, launcher)
    assert command[:3] == [sys.executable, "-m", "launch.agent"]
    assert command[3:-4] == ["--standalone", "--nproc-per-node=4", "--max-restarts=0", "--log-dir=/logs"]
    assert command[-4:] == ["-m", MODULE, *WORDS]


@pytest.mark.parametrize(("visible", "count"), [("0,1,2", 3), ("", 0), ("-1", 0), ("GPU-a,GPU-b", 2), ("0", 1)])
def test_one_process_per_visible_gpu(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == count
    assert torchrun.processes(TorchrunConfig()) == (count or min(2, available_cores()))
    assert deepspeed.processes(DeepspeedConfig()) == max(1, count)
    assert torchrun.processes(TorchrunConfig(processes=5)) == 5


def test_deepspeed_on_this_machine() -> None:
    command = deepspeed.worker_command(MODULE, WORDS, DeepspeedConfig(processes=2, arguments=["--bind_cores_to_rank"]))
    assert command[1:] == [
        "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--num_nodes", "1", "--no_local_rank", "--quiet",
        "--bind_cores_to_rank", "--module", MODULE, *WORDS,
    ]  # fmt: skip


def test_deepspeed_hostfile(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# the cluster\nnode1 slots=4\n\nnode2 slots=2  # smaller\n")
    launcher = DeepspeedConfig(hostfile=str(file))
    assert deepspeed.read_hostfile(str(file)) == {"node1": 4, "node2": 2}
    assert deepspeed.processes(launcher) == 6
    assert f"--hostfile={file}" in deepspeed.worker_command(MODULE, WORDS, launcher)
    assert deepspeed.processes(DeepspeedConfig(hostfile=str(file), processes=3)) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node1\n", "hosts:1: 'node1': write"),
        ("node1 slots=2\nnode2 slots=x\n", "hosts:2: 'node2 slots=x': write"),
        ("node1 slots=0\n", "hosts:1: "),
        ("node1 slots=2\nnode1 slots=2\n", "hosts:2: "),
        ("# nothing\n", "hosts: names no host"),
    ],
)
def test_a_bad_hostfile_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(LaunchError, match=message):
        deepspeed.read_hostfile(str(file))
    with pytest.raises(LaunchError, match=r"launcher.hostfile=/no/hosts: no such file"):
        deepspeed.processes(DeepspeedConfig(hostfile="/no/hosts"))


def test_dry_run_prints_a_command_that_gives_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = tmp_path / "it's data.jsonl", tmp_path / "model"
    data.touch()
    model.mkdir()
    words = [f"data.train={data}", f"model.path={model}", "launcher=torchrun", "launcher.processes=2", "run_dir=/r"]
    assert main(["train", *words, "launcher.dry_run=true"]) == 0
    command = shlex.split(capsys.readouterr().out)
    overrides = command[command.index("extes_train.train") + 1 :]
    config = compose_request(overrides).config
    assert (config.data.train, config.model.path, config.run_dir) == (str(data), str(model), "/r")


def test_dry_run_of_a_comparison_prints_every_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "experiment=quickstart", f"compare.out={tmp_path}", "launcher.dry_run=true"]
    assert main(words) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [("extes_train.train" in line, "extes_train.evaluate" in line) for line in lines] == [
        (True, False), (False, True),
    ] * 4  # fmt: skip
    assert not list(tmp_path.iterdir()), "nothing was started or written"


def test_launchers_refuse_impossible_numbers() -> None:
    with pytest.raises(ConfigError, match=r"launcher.processes=0: must be at least 1"):
        compose_request(["launcher=torchrun", "launcher.processes=0"])
