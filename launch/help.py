"""`extes VERB --help`: groups and keys with their meaning, read from the dataclasses' own comments."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from extes_train.composition import group_options

FIELD = re.compile(r"^\s{4}(\w+): [^#]*#\s*(.*)$")

SECTIONS = {
    "train": (
        "data model tokens loss tuning augmentation zero optim distributed checkpoint evaluation tracker debug launcher"
    ),
    "compare": (
        "compare data model tokens loss tuning augmentation zero optim checkpoint evaluation tracker launcher pretrain "
        "generate inpaint teacher"
    ),
    "generate": "generate teacher tracker launcher",
    "inpaint": "inpaint teacher tracker launcher",
    "evaluate": "evaluation data model tokens launcher",
    "chat": "evaluation model tokens",
    "teacher": "serve",
    "doctor": "data model tokens tuning zero optim launcher",
}


def meanings(cls: type) -> dict[str, str]:
    """Field name -> the comment after it, over the class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            for line in inspect.getsource(base).splitlines():
                if match := FIELD.match(line):
                    found[match.group(1)] = match.group(2).replace("None:", "null:")
    return found


def _value(item: Any) -> str:
    if isinstance(item, (list, tuple)):
        return "[" + ",".join(map(_value, item)) + "]"
    if isinstance(item, dict):
        return "{" + ",".join(f"{key}:{_value(value)}" for key, value in item.items()) + "}"
    if item is None or isinstance(item, bool):
        return "null" if item is None else str(item).lower()
    return f"{item:g}" if isinstance(item, float) else str(item)


def _keys(prefix: str, cls: type, width: int) -> list[str]:
    lines, words = [], meanings(cls)
    for item in fields(cls):
        default = item.default if item.default is not MISSING else item.default_factory()  # type: ignore[operator]
        if is_dataclass(default):
            lines += _keys(f"{prefix}{item.name}.", type(default), width)
            continue
        head = f"  {prefix}{item.name}={_value(default)}"
        if len(head) > width:  # a long list, broken between its items
            lines += textwrap.wrap(head.replace(",", ", "), width, subsequent_indent=" " * 6)
        else:
            lines.append(head)
        if text := words.get(item.name):
            lines += textwrap.wrap(text, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


def verb_help(verb: str, width: int = 80) -> str:
    """Usage, config groups with options and every key with default and meaning."""
    from launch.config import SCHEMAS, RootConfig
    from launch.main import VERBS

    options = group_options()
    sections = SECTIONS[verb].split()
    lines = [
        f"usage: extes {verb} {VERBS[verb].usage}",
        "",
        f"{VERBS[verb].summary}.",
        "",
        "Config groups (GROUP=OPTION):",
    ]
    for group in [*(name for name in sections if name in options), "experiment"]:
        lines += textwrap.wrap(
            f"{group}: {', '.join(options[group])}", width, initial_indent="  ", subsequent_indent="      "
        )
    lines += ["", "Keys (KEY=VALUE), with defaults:"]
    if verb in ("train", "evaluate", "compare", "chat"):
        lines += _root_keys(width)
    for section in sections:
        default = getattr(RootConfig(), section)
        lines += _keys(f"{section}.", type(default), width)
        for name, cls in SCHEMAS.items():
            if name.startswith(f"{section}/") and len(fields(cls)) > len(fields(type(default))):
                own = {item.name for item in fields(type(default))}
                lines += [f"  with {name.replace('/', '=')}:"]
                lines += _only_new(f"{section}.", cls, own, width)
    lines += ["", "--cfg job   print the composed configuration and stop"]
    return "\n".join(lines)


def _root_keys(width: int) -> list[str]:
    from extes_train.config import TrainConfig

    words = meanings(TrainConfig)
    text = textwrap.wrap(words["run_dir"], width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return ["  run_dir=outputs/run", *text, "  seed=0"]


def _only_new(prefix: str, cls: type, own: set[str], width: int) -> list[str]:
    lines = _keys(prefix, cls, width - 2)
    result, keep = [], True
    for line in lines:
        if line.startswith("  " + prefix):
            keep = line.strip().removeprefix(prefix).partition("=")[0] not in own
        if keep:
            result.append("  " + line)
    return result
