"""From the words after a verb to a typed configuration, with paths made absolute."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extes_train.errors import ConfigError, UserError
from extes_train.overrides import normalise, override
from launch.config import SCHEMAS, RootConfig

# keys that hold a path of the caller's; names that may also be a hub id or a built-in are resolved only if they exist
PATH_KEYS = (
    "run_dir", "data.train", "data.valid", "data.test", "augmentation.train", "tokens.cache_dir", "generate.out",
    "generate.seeds", "generate.prompts", "inpaint.input", "inpaint.out", "inpaint.prompts", "inpaint.embedding_model",
    "compare.out", "pretrain.cache_dir", "teacher.url_file", "serve.url_file", "launcher.hostfile",
)  # fmt: skip
MAYBE_PATH_KEYS = (
    "model.path", "model.tokenizer", "model.chat_template", "evaluation.model", "data.taxonomy", "generate.taxonomy",
    "generate.target", "inpaint.taxonomy", "launcher.container_image",
)  # fmt: skip


@dataclass
class Request:
    """What the user asked for: the configuration, the overrides that give it, and the options of the verb itself."""

    config: RootConfig
    overrides: list[str]  # as the user wrote them, then absolute paths: replaying them gives `config`
    show_config: bool = False


def read_request(verb: str, arguments: Sequence[str]) -> Request | None:
    """Compose `arguments`. None when help or the configuration was printed instead."""
    words = list(arguments)
    if any(word in ("-h", "--help") for word in words):
        from launch.help import verb_help

        print(verb_help(verb, min(shutil.get_terminal_size().columns, 120)))
        return None
    show = False
    if "--cfg" in words:
        position = words.index("--cfg")
        what = words[position + 1 : position + 2]
        if what != ["job"]:
            raise UserError(f"--cfg {' '.join(what)}: the only thing to show is `--cfg job`")
        del words[position : position + 2]
        show = True
    for word in words:
        if word.startswith("-"):
            raise UserError(
                f"extes {verb} {word}: no such option; keys are written key=value, `extes {verb} --help` lists them"
            )
    try:
        request = compose_request(words)
    except ConfigError as error:
        raise ConfigError(str(error).replace("extes VERB", f"extes {verb}")) from error
    if show:
        print_config(verb, request.config)
        return None
    return request


def compose_request(words: Sequence[str]) -> Request:
    """Compose twice at most: once to see the paths, once more with them absolute."""
    from extes_train.composition import compose

    words = normalise(words)
    config = compose(words, RootConfig, SCHEMAS)
    absolute = []
    for key, value in path_values(config):
        resolved = str(Path(value).expanduser().resolve())
        if key in MAYBE_PATH_KEYS and not Path(resolved).exists():
            continue
        if resolved != value:
            absolute.append(override(key, resolved))
            set_key(config, key, resolved)
    return Request(config, [*words, *absolute])


def path_values(config: Any) -> list[tuple[str, str]]:
    """(dotted key, value) of every path key that is set."""
    pairs = [(key, get_key(config, key)) for key in (*PATH_KEYS, *MAYBE_PATH_KEYS)]
    return [(key, value) for key, value in pairs if isinstance(value, str) and value]


def get_key(config: Any, dotted: str) -> Any:
    """The value at a dotted key, None where a part is missing."""
    for name in dotted.split("."):
        config = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return config


def set_key(config: Any, dotted: str, value: Any) -> None:
    """Set the value at a dotted key."""
    *parents, name = dotted.split(".")
    for parent in parents:
        config = getattr(config, parent)
    setattr(config, name, value)


def print_config(verb: str, config: RootConfig) -> None:
    """The sections that `verb` reads, as YAML."""
    import yaml

    from extes_train.composition import plain
    from launch.help import SECTIONS

    values = plain(config)
    wanted = (
        {"run_dir", "seed", *SECTIONS[verb].split()}
        if verb in ("train", "compare", "evaluate")
        else set(SECTIONS[verb].split())
    )
    print(yaml.safe_dump({k: v for k, v in values.items() if k in wanted}, sort_keys=False, allow_unicode=True), end="")
