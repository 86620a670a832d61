"""Help: every verb within 80 columns, every key with its meaning, and nothing heavy imported on the way."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from extes_train.composition import group_options
from extes_train.config_errors import known_keys
from extes_train.errors import EXIT_OK, EXIT_USER, error_text
from launch.config import SCHEMAS, RootConfig
from launch.help import SECTIONS, meanings, verb_help
from launch.main import VERBS, main, usage

HEAVY = ("torch", "transformers", "hydra", "omegaconf", "deepspeed", "peft", "wandb", "aiohttp", "numpy", "datasets")


def test_usage_names_every_verb_within_80_columns() -> None:
    text = usage()
    assert all(f"  {name} " in text and verb.summary in text for name, verb in VERBS.items())
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_there(verb: str) -> None:
    module = importlib.util.find_spec(VERBS[verb].module)
    if module is None or not (Path(str(module.origin)).exists()):
        pytest.fail(f"{VERBS[verb].module} is missing")
    assert callable(getattr(importlib.import_module(VERBS[verb].module), VERBS[verb].function))


@pytest.mark.parametrize("verb", SECTIONS)
def test_help_lists_every_key_and_option_of_the_verb(verb: str) -> None:
    text = verb_help(verb, 80)
    listed = {line.strip().partition("=")[0] for line in text.splitlines() if "=" in line}
    for section in SECTIONS[verb].split():
        default = getattr(RootConfig(), section)
        leaves = [key for key in known_keys(default, f"{section}.") if not is_section(default, key)]
        missing = [key for key in leaves if key not in listed]
        assert missing == [], f"extes {verb} --help leaves out {missing}"
        for option in group_options().get(section, []):
            assert option in text
    for name, schema in SCHEMAS.items():
        if name.split("/")[0] in SECTIONS[verb].split():
            assert {f"{name.split('/')[0]}.{item.name}" for item in fields(schema)} <= listed, name


def is_section(default: object, key: str) -> bool:
    """True for a key that only holds further keys, or lies inside a dictionary."""
    value = default
    for part in key.split(".")[1:]:
        if isinstance(value, dict):
            return True
        value = getattr(value, part)
    return is_dataclass(value)


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("verb", SECTIONS)
def test_help_fits_the_terminal(verb: str, width: int) -> None:
    wide = [line for line in verb_help(verb, width).splitlines() if len(line) > width]
    assert wide == []


@pytest.mark.parametrize("verb", [name for name in VERBS if name not in SECTIONS])
def test_verbs_with_arguments_print_usage(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([verb, "--help"])
    except SystemExit as error:  # argparse
        code = error.code
    shown = capsys.readouterr().out
    assert code == EXIT_OK and f"usage: extes {verb}" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_main_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == EXIT_USER
    assert main(["--help"]) == EXIT_OK
    assert main(["trian"]) == EXIT_USER
    assert 'extes: trian: no such verb (did you mean "train"?)' in capsys.readouterr().err
    assert main(["train", "optim.lrr=1"]) == EXIT_USER
    assert capsys.readouterr().err.startswith("extes: optim.lrr: no such key")
    assert main(["--version"]) == EXIT_OK
    assert capsys.readouterr().out.startswith("extes 0.")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["compare", "--help"], ["import", "--help"]])
def test_help_loads_nothing_heavy(words: list[str], root: Path) -> None:
    program = (
        "import sys, contextlib\nfrom launch.main import main\n"
        f"with contextlib.suppress(SystemExit): main({words!r})\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_meanings_come_from_the_comments() -> None:
    assert inspect.getsource(type(RootConfig().optim)).count("# optimizer steps")
    assert meanings(type(RootConfig().optim))["max_steps"] == "optimizer steps"
    assert meanings(SCHEMAS["tuning/dora"])["r"] == "rank"


def test_error_lines_fit_a_terminal() -> None:
    path = "/a/very/long/path/" + "x" * 70
    text = error_text(
        f"not started, 2 problems:\n  - {path}: no such folder; " + "name another one " * 8 + "\n  - b", 80
    )
    lines = text.splitlines()
    assert lines[0] == "extes: not started, 2 problems:" and lines[-1] == "  - b"
    assert any(path in line for line in lines), "paths stay whole"
    assert all(len(line) <= 80 or path in line for line in lines)
    assert error_text("extes train --x: no such option") == "extes: train --x: no such option"
    assert error_text("[rank 1]\nTraceback (most recent call last):\n  x").startswith("[rank 1]")
