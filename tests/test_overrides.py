"""The words of a command: what users write becomes Hydra's grammar, and what we write Hydra reads back."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from extes_train.composition import compose
from extes_train.config import TrainConfig
from extes_train.errors import ConfigError
from extes_train.overrides import hydra_value, normalise, override

PARSER = OverridesParser.create()
# what paths and prompts are made of, with every character that means something to Hydra or OmegaConf
TEXT = st.text(st.sampled_from(list("aZ09 _./-+=,:;[]{}()'\"\\$@~*?|%#!&<>éß雪")), max_size=12) | st.sampled_from(
    [
        "null",
        "True",
        "1",
        "1e3",
        "-2",
        "inf",
        ".5",
        "",
        " ",
        "${a}",
        "\\${a}",
        "\\\\${oc.env:HOME}\\",
        "~",
        "yes",
        "???x",
    ]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**12) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


def read_back(text: str) -> object:
    """`text` as Hydra reads it and OmegaConf resolves it."""
    parsed = PARSER.parse_override(f"key={text}")
    assert not parsed.is_sweep_override()
    return OmegaConf.to_container(OmegaConf.create({"key": parsed.value()}), resolve=True)["key"]


@settings(max_examples=300, deadline=None)
@given(VALUE)
def test_every_value_is_read_back_exactly(value: object) -> None:
    got = read_back(hydra_value(value))
    assert got == value and type(got) is type(value), f"{value!r} written {hydra_value(value)} is read as {got!r}"


@settings(max_examples=150, deadline=None)
@given(TEXT)
def test_normalising_twice_changes_nothing(value: str) -> None:
    once = normalise([override("data.train", value)])
    assert normalise(once) == once
    assert read_back(once[0].partition("=")[2]) == value


@pytest.mark.parametrize("text", ["outputs/run", "/a/b-c_d.e/F0", "lora", "train.jsonl", "full/none"])
def test_plain_words_stay_bare(text: str) -> None:
    assert hydra_value(text) == text


@pytest.mark.parametrize(
    "path", ["/runs/full-lr=0.001/model", "it's here", "a,b.jsonl", "/with space/x", "(draft)", ""]
)
def test_a_path_needs_no_quotes_from_the_user(path: str) -> None:
    assert (compose([f"data.train={path}"]).data.train or "") == path


def test_aliases_signs_and_open_sections() -> None:
    assert normalise(["inpaint.in=x.jsonl"]) == ["inpaint.input=x.jsonl"]
    assert normalise(["+optim.lr=1", "++experiment=none"]) == ["optim.lr=1", "experiment=none"]
    assert normalise(["compare.sweep.optim.lr=[1e-3]"]) == ["++compare.sweep.optim.lr=[1e-3]"]
    assert normalise(["zero.extra.round_robin_gradients=true"]) == ["++zero.extra.round_robin_gradients=true"]
    assert compose(["zero.extra.round_robin_gradients=true"]).zero.extra == {"round_robin_gradients": True}


@pytest.mark.parametrize(
    ("words", "implied"),
    [
        (["model.path=/m"], True),
        (["model.path=/m", "model=llama2_7b"], False),
        (["model.path=null"], False),
        (["model.path="], False),
        (["experiment=paper_7b", "model.path=/m"], False),
        (["experiment=none", "model.path=/m"], True),
        ([], False),
    ],
)
def test_a_model_path_chooses_the_model_only_where_nobody_else_does(words: list[str], implied: bool) -> None:
    assert ("model=llama" in normalise(words)) is implied


def test_a_users_model_keeps_the_experiments_preset() -> None:
    config = compose(["experiment=paper_7b", "model.path=/my/llama"])
    assert isinstance(config, TrainConfig)
    assert (config.model.name, config.model.path, config.model.dtype) == ("llama", "/my/llama", "bf16")
    assert compose(["experiment=esconv", "model.path=/my/llama"]).model.name == "llama"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.jsonl", r"train.jsonl: needs a value"),
        ("some file", r"some file: cannot be read; write key=value"),
        ("=3", r"=3: cannot be read; write key=value"),
        ("optim..lr=2", r"optim..lr=2: cannot be read"),
        ("optim.lr", r"optim.lr: needs a value; write optim.lr=…"),
        ("optim.betas=[1,2", r"optim.betas=\[1,2: cannot be read; a list is \[a,b\]"),
        ("~optim.lr", r"keys cannot be removed; write optim.lr=null"),
        ("hydra.run.dir=x", r"hydra.run.dir: Hydra's own settings are fixed; run_dir="),
        ("model@x=llama", r"model@x=llama: cannot be read"),
    ],
)
def test_a_word_that_is_no_override_is_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        normalise([word])
