"""Every YAML of the tree composes, for a launcher and for a worker, and every refusal says what to write instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from extes_train.composition import compose, config_directory, group_options, plain, to_yaml
from extes_train.config import LAUNCHER_SECTIONS, TrainConfig, config_digest
from extes_train.config_errors import known_keys
from extes_train.errors import ConfigError
from launch.config import SCHEMAS, RootConfig

OPTIONS = [(group, option) for group, options in group_options().items() for option in options]
MODELS = ("open_llama_7b", "llama2_7b", "llama2_13b", "llama31_8b", "llama31_70b")


def compose_root(*words: str) -> RootConfig:
    """As the launcher does."""
    return compose(words, RootConfig, SCHEMAS)


def test_the_groups_of_the_design_exist() -> None:
    assert {"model", "tuning", "augmentation", "zero", "launcher", "teacher", "tracker", "experiment", "debug"} <= set(
        group_options()
    )


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    """For a launcher, and for a worker without the launcher's types: the same training."""
    words = [f"{group}={option}", *(["launcher=slurm"] if group == "network" else [])]
    chosen, worker = compose_root(*words), compose(words)
    assert type(chosen) is RootConfig and type(worker) is TrainConfig
    assert config_digest(worker) == config_digest(chosen)
    for field in dataclasses.fields(TrainConfig):
        if field.name not in LAUNCHER_SECTIONS:
            assert getattr(worker, field.name) == getattr(chosen, field.name), field.name
    if group == "network":
        values = yaml.safe_load((config_directory() / group / f"{option}.yaml").read_text())
        assert chosen.launcher.network == (values or {})  # type: ignore[attr-defined]
        return
    section = getattr(chosen, group)
    if group in ("model", "zero"):  # presets: the name is the kind of model or the stage
        values = yaml.safe_load((config_directory() / group / f"{option}.yaml").read_text())
        assert {key: getattr(section, key) for key in values} == values
    else:
        name = section if group == "experiment" else section.name
        assert name == option or (group, option) == ("experiment", "none")
    if (schema := SCHEMAS.get(f"{group}/{option}")) is not None:
        assert type(section) is schema


@pytest.mark.parametrize(
    "file",
    [path for path in sorted(config_directory().rglob("*.yaml")) if path.parent.name != "network"],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_no_yaml_names_a_key_that_is_not_there(file: Path) -> None:
    """Groups without a schema of their own would take any key; the root schema must know each."""
    values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    values.pop("defaults", None)
    group = file.parent.name
    prefix = "" if group in ("experiment", "configs") else f"{group}."
    known = set(
        known_keys(SCHEMAS.get(f"{group}/{file.stem}", RootConfig), prefix if f"{group}/{file.stem}" in SCHEMAS else "")
    )
    known |= set(known_keys(RootConfig)) | {
        k for name in SCHEMAS for k in known_keys(SCHEMAS[name], f"{name.split('/')[0]}.")
    }
    free = ("compare.tuning.", "compare.sweep.", "generate.sides.")
    unknown = [key for key in known_keys(values, prefix) if key not in known and not key.startswith(free)]
    assert unknown == []


@pytest.mark.parametrize("option", MODELS)
def test_large_models_come_ready_for_a_gpu(option: str) -> None:
    model = compose([f"model={option}"]).model
    assert (model.name, model.dtype, model.attention, model.gradient_checkpointing) == ("llama", "bf16", "auto", True)
    assert model.path and model.path.count("/") == 1, "a hub id"
    assert model.context_length == 2048


def test_the_papers_comparison() -> None:
    from launch.arms import list_arms
    from launch.composing import compose_request

    request = compose_request(["experiment=paper_7b", "compare.out=/c"])
    arms = list_arms(request)
    assert [(arm.tuning, arm.augmentation) for arm in arms] == [
        (tuning, augmentation) for augmentation in ("none", "dri") for tuning in ("full", "lora", "adapter")
    ]
    assert request.config.model.path == "openlm-research/open_llama_7b"
    assert request.config.zero.stage == 3
    composed = [compose(arm.overrides) for arm in arms]
    assert [config.tuning.name for config in composed[:3]] == ["full", "lora", "adapter"]
    assert [config.optim.lr for config in composed[:3]] == [2e-5, 2e-4, 5e-3]
    assert all(config.model.dtype == "bf16" and config.zero.stage == 3 for config in composed)


def test_esconv_has_the_references_settings() -> None:
    config = compose(["experiment=esconv"])
    assert (config.tokens.min_left_context, config.tokens.too_long) == (0, "truncate_response")
    assert (config.optim.lr, config.optim.schedule, config.optim.warmup_steps) == (1e-3, "cosine", 10)
    assert (config.optim.max_steps, config.optim.dialogues_per_step) == (200, 16)
    assert config.data.taxonomy == "esconv"


def test_precedence_command_over_experiment_over_group() -> None:
    assert compose_root("experiment=quickstart").optim.lr == 0.0015
    assert compose_root("experiment=quickstart", "optim.lr=0.5").optim.lr == 0.5
    assert compose_root("experiment=quickstart", "launcher.processes=1").launcher.processes == 1  # type: ignore[attr-defined]
    assert compose_root("zero=zero3", "experiment=quickstart").zero.stage == 3


def test_foreign_sections_do_not_disturb_a_worker() -> None:
    """A worker gets the launcher's words, whatever they are, and drops them."""
    words = [
        "launcher=slurm",
        "launcher.modules=[gcc]",
        "compare.sweep.optim.lr=[1,2]",
        "teacher.model=x",
        "inpaint.in=f",
    ]
    worker = compose([*words, "optim.lr=0.25"])
    assert worker.optim.lr == 0.25
    assert not {"launcher", "compare", "teacher", "inpaint"} & set(plain(compose(["optim.lr=0.25"])))


def test_yaml_is_complete_and_replays() -> None:
    config = compose(["tuning=lora", "tuning.r=3", "data.train=/a=b"])
    values = yaml.safe_load(to_yaml(config))
    assert values["tuning"]["r"] == 3 and values["data"]["train"] == "/a=b"
    assert list(values)[:3] == ["run_dir", "seed", "experiment"] and "launcher" not in values


REFUSALS = [
    # unknown keys
    ("optim.lrr=1", 'optim.lrr: no such key (did you mean "optim.lr"?); optim has lr, betas'),
    ("optimm.lr=1", 'optimm.lr: no such key (did you mean "optim.lr"?)'),
    ("+optim.foo=1", "optim.foo: no such key; optim has lr"),
    ("tunning=lora", 'tunning: no such key (did you mean "tuning"?)'),
    ("generate.filters.pi=none", 'generate.filters.pi: no such key (did you mean "generate.filters.pii"?)'),
    ("lr=1", "lr: no such key; perhaps optim.lr or pretrain.lr"),
    ("processes=2", "processes: no such key; perhaps launcher.processes"),
    ("foo=1", "foo: no such key; `extes VERB --help` lists the keys"),
    # keys of another option
    ("tuning.r=4", "tuning.r: only with tuning=lora|dora|qlora; add tuning=lora"),
    ("launcher.processes=2", "launcher.processes: only with launcher=torchrun|deepspeed; add launcher=torchrun"),
    ("tuning=adapter tuning.r=4", "tuning.r: only with tuning=lora|dora|qlora; the command has tuning=adapter"),
    ("tuning=lora tuning.rr=4", 'tuning.rr: no such key (did you mean "tuning.r"?); tuning has name, r, alpha'),
    # options
    (
        "tuning=loraa",
        'tuning=loraa: no such option; tuning is one of adapter, dora, full, lora, qlora (did you mean "lora"?)',
    ),
    ("experiment=quickstartt", '(did you mean "quickstart"?)'),
    ("tuning=full,lora", "tuning=full,lora: no such option"),
    # types
    ("optim.lr=abc", "optim.lr=abc: must be a number"),
    ("optim.max_steps=1.5", "optim.max_steps=1.5: must be a whole number"),
    ("seed=x", "seed=x: must be a whole number"),
    ("launcher.dry_run=maybe", "launcher.dry_run=maybe: must be true or false"),
    ("tracker.tags=abc", "tracker.tags=abc: must be a list; write tracker.tags=[abc]"),
    ("compare.arms=full,lora", "compare.arms='full,lora': must be a list; write compare.arms=[full,lora]"),
    ("run_dir=null", "run_dir=null: cannot be null"),
    ("optim=5", "optim is a section, not a value; set one of its keys: optim.lr"),
    # values
    ("optim.schedule=cosin", 'must be one of cosine, linear, constant (did you mean "cosine"?)'),
    ("optim.lr=-1", "optim.lr=-1.0: must be greater than 0"),
    ("zero.stage=9", "zero.stage=9: must lie between 0 and 3"),
    # combinations
    ("zero.offload_parameters=cpu", "zero.offload_parameters=cpu: needs zero.stage=3, not 2; use zero=zero3_offload"),
    ("zero=zero0 zero.offload_optimizer=cpu", "zero.offload_optimizer=cpu: needs zero.stage=1, 2 or 3, not 0"),
    ("model.context_length=4096", "does not fit tokens.tokens_per_row=2048; add tokens.tokens_per_row=4096"),
    ("model.context_length=64 tokens.min_left_context=64", "tokens.min_left_context=64: leaves nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSALS, ids=[words for words, _ in REFUSALS])
def test_a_refusal_names_key_value_and_way_out(words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_root(*words.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_refuses_as_the_launcher_does() -> None:
    for words, message in [pair for pair in REFUSALS if pair[0].startswith(("optim", "tuning", "zero"))][::3]:
        with pytest.raises(ConfigError) as caught:
            compose(words.split())
        assert message in str(caught.value)


def test_a_preset_that_does_not_fit_the_command_is_named() -> None:
    with pytest.raises(ConfigError, match=r"network=infiniband sets launcher.network: only with launcher=slurm"):
        compose_root("network=infiniband")
