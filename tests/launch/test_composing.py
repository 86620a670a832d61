"""From the words after a verb to a configuration that workers read the same, wherever they start."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from extes_train.composition import compose
from extes_train.config import TrainConfig
from extes_train.errors import ConfigError, ModelError, UserError
from launch.composing import MAYBE_PATH_KEYS, PATH_KEYS, compose_request, get_key, read_request
from launch.config import SCHEMAS, RootConfig
from launch.training import require_data, require_model, require_run, with_run_words


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A caller's directory, with characters that grammars like."""
    folder = tmp_path / "it's = a, folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_relative_paths_become_the_callers(here: Path) -> None:
    words = [f"{key}=some/thing" for key in PATH_KEYS if key != "launcher.hostfile"]
    request = compose_request(words)
    for key in PATH_KEYS:
        if key != "launcher.hostfile":
            assert get_key(request.config, key) == str(here / "some" / "thing"), key
    replayed = compose(request.overrides, RootConfig, SCHEMAS)
    assert replayed == request.config


def test_defaults_that_are_paths_become_absolute_too(here: Path) -> None:
    request = compose_request([])
    assert request.config.run_dir == str(here / "outputs" / "run")
    assert request.config.compare.out == str(here / "outputs" / "compare")
    quickstart = compose_request(["experiment=quickstart"])
    assert quickstart.config.generate.out == str(here / "outputs" / "quickstart" / "generated")


def test_a_hub_id_stays_and_a_folder_of_that_name_wins(here: Path) -> None:
    assert compose_request(["model.path=org/name"]).config.model.path == "org/name"
    (here / "org" / "name").mkdir(parents=True)
    request = compose_request(["model.path=org/name"])
    assert request.config.model.path == str(here / "org" / "name")
    assert request.config.model.name == "llama"


def test_home_is_understood(here: Path) -> None:
    assert compose_request(["data.train=~/d.jsonl"]).config.data.train == str(Path.home() / "d.jsonl")


def test_absolute_paths_are_left_alone(here: Path) -> None:
    words = ["run_dir=/r", "generate.out=/g", "inpaint.out=/i", "compare.out=/c"]
    assert compose_request(words).overrides == words


def test_a_worker_reads_the_launchers_overrides(here: Path) -> None:
    """`inpaint.in`, sweeps, a launcher's keys and paths with quotes in them, all through to the worker."""
    (here / "model").mkdir()
    words = ["model.path=model", "data.train=a,b.jsonl", "inpaint.in=x.jsonl", "launcher=torchrun"]
    request = compose_request([*words, "launcher.processes=2", "compare.sweep.optim.lr=[1]", "tuning=lora"])
    assert request.config.inpaint.input == str(here / "x.jsonl")
    worker = compose(request.overrides)
    assert type(worker) is TrainConfig
    for section in ("data", "model", "tuning", "optim", "run_dir"):
        assert getattr(worker, section) == getattr(request.config, section), section


def test_every_path_key_exists() -> None:
    from extes_train.config_errors import known_keys

    known = {
        *known_keys(RootConfig),
        *(k for name in SCHEMAS for k in known_keys(SCHEMAS[name], f"{name.split('/')[0]}.")),
    }
    assert set(PATH_KEYS) | set(MAYBE_PATH_KEYS) <= known


def test_cfg_job_prints_what_the_verb_reads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_request("train", ["tuning=lora", "--cfg", "job", "optim.lr=0.125"]) is None
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["optim"]["lr"] == 0.125 and values["tuning"]["name"] == "lora" and values["tuning"]["r"] == 8
    assert values["run_dir"] == str(here / "outputs" / "run") and "generate" not in values
    assert read_request("generate", ["--cfg", "job"]) is None
    assert set(yaml.safe_load(capsys.readouterr().out)) == {"generate", "teacher", "tracker", "launcher"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cfg", "all"], "--cfg all: the only thing to show is `--cfg job`"),
        (["--cfg"], "the only thing to show"),
        (["--lr=3"], "extes train --lr=3: no such option; keys are written key=value"),
        (["data.jsonl"], "data.jsonl: needs a value"),
        (["foo=1"], r"foo: no such key; `extes train --help` lists"),
        (["optim.lrr=3"], 'did you mean "optim.lr"'),
    ],
)
def test_bad_words(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_request("train", words)


def test_needs_of_training(here: Path) -> None:
    def refused(*words: str) -> str:
        request = compose_request(list(words))
        with pytest.raises((ConfigError, ModelError)) as caught:
            require_data(request)
            require_model(request)
        return str(caught.value)

    assert "data.train: needs a dialogues.jsonl" in refused()
    assert refused("data.train=no.jsonl") == f"data.train={here / 'no.jsonl'}: no such file"
    (here / "t.jsonl").touch()
    assert "data.valid=" in refused("data.train=t.jsonl", "data.valid=v.jsonl")
    assert "augmentation.train=" in refused("data.train=t.jsonl", "augmentation.train=v.jsonl")
    assert "model.path: needs a folder" in refused("data.train=t.jsonl")
    assert "model.path=./nowhere: no such folder" in refused("data.train=t.jsonl", "model.path=./nowhere")


def test_a_run_directory_says_how_it_was_trained(here: Path) -> None:
    run = here / "run"
    run.mkdir()
    (run / "overrides.txt").write_text("tuning=lora\nlauncher=torchrun\ntracker=none\ndata.valid=v.jsonl\nseed=3\n")
    words = with_run_words(["run_dir=run", "seed=4"])
    assert words == ["tuning=lora", "data.valid=v.jsonl", "run_dir=run", "seed=4"]
    assert compose_request(words).config.data.valid == str(here / "v.jsonl")
    assert with_run_words(["run_dir=other"]) == ["run_dir=other"] and with_run_words(["--help"]) == ["--help"]


def test_needs_of_evaluation(here: Path) -> None:
    with pytest.raises(ConfigError, match="no run of `extes train` is there"):
        require_run(compose_request(["run_dir=run"]))
    (here / "run").mkdir()
    (here / "run" / "config.yaml").touch()
    with pytest.raises(ModelError, match="holds no model yet"):
        require_run(compose_request(["run_dir=run"]))
    require_run(compose_request(["run_dir=run", "evaluation.model=elsewhere"]))
