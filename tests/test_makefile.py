"""What the Makefile promises, without installing anything: make only prints what it would run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest


def dry(root: Path, *targets: str) -> str:
    """The commands of `make -n`, all of them: as if .venv were not there."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "VENV=/nowhere/venv", *targets],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def marked_groups(root: Path) -> list[str]:
    """The marks that pyproject.toml declares."""
    listed = (root / "pyproject.toml").read_text().partition("markers = [")[2].partition("]")[0]
    return re.findall(r'"(\w+):', listed)


def test_quickstart_installs_and_runs_the_comparison(root: Path) -> None:
    commands = dry(root, "quickstart", "ARGS=optim.max_steps=3")
    assert "-m venv" in commands and "-c constraints.txt -e" in commands
    assert commands.rstrip().endswith("extes compare experiment=quickstart optim.max_steps=3")


def test_tests_run_all_but_the_marked_groups(root: Path) -> None:
    commands = dry(root, "test")
    assert commands.index('".[dev]"') < commands.index("-m pytest")
    left_out = re.search(r'-m "not \(([^)]*)\)"', commands)
    assert left_out is not None
    marks = marked_groups(root)
    assert sorted(left_out.group(1).split(" or ")) == sorted(marks), "each marked group, and nothing else"


def test_all_tests_are_reached(root: Path) -> None:
    everything = dry(root, "test-all")
    marks = marked_groups(root)
    for mark in marks:
        assert re.search(rf"-m pytest -m {mark}\b", everything), mark
    ci = (root / ".ci" / "run").read_text()
    assert re.search(r"^make test$", ci, re.MULTILINE), "CI runs the README's command"
    assert all(mark in ci for mark in marks)


def test_an_install_is_used_again(root: Path, tmp_path: Path) -> None:
    """With newer stamps nothing is installed a second time."""
    for stamp in (".core", ".dev"):
        (tmp_path / stamp).touch()
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", f"VENV={tmp_path}", "setup"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip" not in done.stdout


def test_constraints_pin_every_core_dependency(root: Path) -> None:
    pinned = {
        line.split("==")[0].lower() for line in (root / "constraints.txt").read_text().splitlines() if "==" in line
    }
    assert {"torch", "deepspeed", "transformers", "peft", "datasets", "wandb", "hydra-core", "omegaconf"} <= pinned
