"""The arms of a comparison: names, grid, overrides, budgets, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extes_train.composition import compose
from extes_train.errors import ConfigError, UserError
from launch.arms import flatten, list_arms, parse_arm, sweep_points
from launch.comparing import arm_state, budget_overrides, planned_paths
from launch.composing import Request, compose_request


def request(*words: str) -> Request:
    """A comparison in /c."""
    return compose_request(["compare.out=/c", "model.path=/m", *words])


def names(*words: str) -> list[str]:
    """Names of its arms."""
    return [arm.name for arm in list_arms(request(*words))]


def test_names_say_what_differs() -> None:
    assert names() == ["full", "lora", "full-dri", "lora-dri"]
    assert names("compare.arms=[lora]", "compare.seeds=[0,1]") == ["lora-seed0", "lora-seed1"]
    assert names("compare.arms=[full/dri]", "compare.sweep.optim.lr=[0.001,0.002]") == [
        "full-dri-lr=0.001", "full-dri-lr=0.002",
    ]  # fmt: skip


def test_a_sweep_is_a_grid() -> None:
    points = sweep_points({"optim": {"lr": [1, 2]}, "tokens.layout": ["tree", "flat"]})
    assert points == [
        {"optim.lr": lr, "tokens.layout": layout} for lr in (1, 2) for layout in ("tree", "flat")
    ]  # fmt: skip
    assert sweep_points({}) == [{}]
    arms = list_arms(request("compare.arms=[lora]", "compare.sweep.tuning.r=[2,4]", "compare.seeds=[3,4]"))
    composed = [compose(arm.overrides) for arm in arms]
    assert [(c.tuning.r, c.seed) for c in composed] == [(2, 3), (4, 3), (2, 4), (4, 4)]  # type: ignore[attr-defined]
    assert [c.run_dir for c in composed] == [str(arm.run_dir) for arm in arms]


def test_every_arm_composes_to_itself() -> None:
    arms = list_arms(request("optim.lr=0.5", "compare.tuning.lora.optim.lr=0.25", "compare.tuning.lora.tuning.r=3"))
    for arm in arms:
        config = compose(arm.overrides)
        assert (config.tuning.name, config.augmentation.name, config.seed) == (arm.tuning, arm.augmentation, arm.seed)
        assert config.run_dir == f"/c/arms/{arm.name}"
        assert config.optim.lr == (0.25 if arm.tuning == "lora" else 0.5)
        assert config.model.path == "/m" and config.model.name == "llama"


def test_the_command_may_name_a_key_that_only_some_arms_have() -> None:
    arms = list_arms(request("tuning=lora", "tuning.r=5", "compare.arms=[full,lora,dora]"))
    assert [getattr(compose(arm.overrides).tuning, "r", None) for arm in arms] == [None, 5, 5]


def test_arms_do_not_inherit_what_they_set_themselves() -> None:
    arms = list_arms(
        request("seed=9", "run_dir=/x", "augmentation=dri", "compare.arms=[full]", "augmentation.num_alternatives=2")
    )
    config = compose(arms[0].overrides)
    assert (config.seed, config.run_dir, config.augmentation.name) == (0, "/c/arms/full", "none")
    assert config.augmentation.num_alternatives == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare.arms=[loraa/dri]", 'compare.arms=loraa/dri: .loraa. is none of .*did you mean "lora"'),
        ("compare.arms=[full/drii]", 'compare.arms=full/drii: .drii. is none of none, dri.*did you mean "dri"'),
        ("compare.arms=[]", "compare.arms: is empty"),
        ("compare.arms=[full,full/none]", "the same arm twice"),
        ("compare.sweep.optim.lr=3", r"compare.sweep.optim.lr=3: must be a list"),
        ("compare.sweep.optim.lr=[]", r"compare.sweep.optim.lr=\[\]: must be a list"),
    ],
)
def test_a_bad_comparison_is_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list_arms(request(words))


def test_parts() -> None:
    assert parse_arm("lora") == ("lora", "none") and parse_arm("qlora/dri") == ("qlora", "dri")
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e.f": 3}) == {"a.b": 1, "a.c.d": [2], "e.f": 3}


def test_budgets(tmp_path: Path) -> None:
    asked = request(f"compare.out={tmp_path}", "optim.max_steps=7", "compare.arms=[full,lora]")
    first, second = list_arms(asked)
    config = asked.config
    assert budget_overrides(config, second, first) == [], "equal steps need nothing"
    config.compare.budget = "epochs"
    assert compose([*second.overrides, *budget_overrides(config, second, first)]).optim.max_steps is None
    config.compare.budget = "targets"
    assert budget_overrides(config, first, first) == [], "the first arm spends what the command says"
    with pytest.raises(UserError, match=r"compare.budget=targets: the first arm \(full\) gives the budget"):
        budget_overrides(config, second, first)
    first.run_dir.mkdir(parents=True)
    (first.run_dir / "cost.json").write_text(json.dumps({"targets": 12345, "train_seconds": 6.5}))
    optim = compose([*second.overrides, *budget_overrides(config, second, first)]).optim
    assert (optim.max_targets, optim.max_steps) == (12345, None)
    config.compare.budget = "seconds"
    optim = compose([*second.overrides, *budget_overrides(config, second, first)]).optim
    assert (optim.max_seconds, optim.max_targets) == (6.5, None)
    config.optim.max_seconds = 3.0
    assert not [word for word in budget_overrides(config, second, first) if "max_seconds" in word]


def test_planned_paths_meet() -> None:
    """What generate, inpaint and pretrain will write is what the arms read."""
    asked = compose_request(["experiment=quickstart", "compare.out=/c"])
    made = dict(word.split("=", 1) for word in planned_paths(asked))
    assert made == {
        "data.train": "/c/inpainted/dialogues.jsonl",
        "data.valid": "/c/generated/valid.jsonl",
        "data.test": "/c/generated/test.jsonl",
        "model.path": "/c/base",
    }
    assert asked.config.data.train == made["data.train"]


def test_states_come_from_files(tmp_path: Path) -> None:
    arm = list_arms(request(f"compare.out={tmp_path}", "compare.arms=[full]"))[0]
    assert arm_state(arm) == "waiting"
    (arm.run_dir / "logs").mkdir(parents=True)
    assert arm_state(arm) == "failed"
    (arm.run_dir / "model").mkdir()
    (arm.run_dir / "cost.json").write_text("{}")
    assert arm_state(arm) == "trained"
    (arm.run_dir / "evaluation").mkdir()
    (arm.run_dir / "evaluation" / "metrics.json").write_text("{}")
    assert arm_state(arm) == "finished"
