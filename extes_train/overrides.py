"""Overrides, the `key=value` words of a command: read as users mean them, written so that Hydra reads them back.

Users write paths with `=` and spaces in them and know nothing of Hydra's `+` and `~`. `normalise` turns what they
write into Hydra's grammar once; doing it again changes nothing, so a worker may normalise what a launcher did.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from extes_train.errors import ConfigError

ALIASES = {"inpaint.in": "inpaint.input"}  # `in` is no name for a Python field
# dictionaries whose keys are the user's own; Hydra adds a key only with "++"
OPEN_SECTIONS = (
    "compare.sweep", "compare.tuning", "generate.sides", "launcher.environment", "launcher.network", "zero.extra",
)  # fmt: skip
KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
RESERVED = re.compile(r"(null|true|false|inf|nan|[.\d_e+-]*)", re.IGNORECASE)
GRAMMAR = tuple("[{'\"$")  # a value that starts so is Hydra's grammar, right or wrong; all other values are text


def normalise(overrides: Sequence[str]) -> list[str]:
    """Expand aliases, add or drop Hydra's signs, quote what only a string can be, let `model.path` choose a model.

    `model.path=…` implies `model=llama` where neither the command nor its experiment chooses a model.
    Raises ConfigError for a word that is not key=value.
    """
    result = [_normal(override) for override in overrides]
    values = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in result)}
    path = values.get("model.path", "null")
    if path not in ("null", "''", "") and "model" not in values and not _chooses_model(values.get("experiment")):
        result.insert(0, "model=llama")
    return result


def _normal(override: str) -> str:
    signed, equals, value = override.partition("=")
    key = signed.lstrip("+").strip()
    key = ALIASES.get(key, key)
    if key.startswith("~"):
        raise ConfigError(f"{override}: keys cannot be removed; write {key[1:]}=null where a key may be empty")
    if not KEY.fullmatch(key):
        raise ConfigError(f"{override}: cannot be read; write key=value, for example optim.lr=1e-4")
    if not equals:
        raise ConfigError(f"{key}: needs a value; write {key}=…")
    if key.partition(".")[0] == "hydra":
        raise ConfigError(f"{key}: Hydra's own settings are fixed; run_dir=FOLDER says where a run writes")
    sign = "++" if key.startswith(tuple(f"{section}." for section in OPEN_SECTIONS)) else ""
    return f"{sign}{key}={_readable(key, value)}"


def _readable(key: str, value: str) -> str:
    """`value`, quoted where Hydra could not read it or would make a sweep of it."""
    if value == "" or PLAIN.fullmatch(value):
        return value
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        if not OverridesParser.create().parse_override(f"{key}={value}").is_sweep_override():
            return value
    except HydraException:
        if value.startswith(GRAMMAR):
            hint = "a list is [a,b], a dictionary {a:1,b:2}; quote other text: 'key=\"text\"'"
            raise ConfigError(f"{key}={value}: cannot be read; {hint}") from None
    return hydra_value(value)


def _chooses_model(experiment: str | None) -> bool:
    """True when the experiment preset itself chooses an option of `model`."""
    from extes_train.composition import config_directory

    file = config_directory() / "experiment" / f"{experiment}.yaml"
    return file.is_file() and bool(re.search(r"override /model:", file.read_text(encoding="utf-8")))


def override(key: str, value: Any) -> str:
    """One override that sets `key` to exactly `value`."""
    return f"{key}={hydra_value(value)}"


def hydra_value(value: Any) -> str:
    """A Python value in Hydra's override grammar, read back as the same value.

    Words that can only be text (most names and paths) stay bare, so that a person can read the command.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydra_value(item)}" for key, item in value.items()) + "}"
    text = str(value)
    return text if PLAIN.fullmatch(text) and not RESERVED.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    """`text` in single quotes. Two readers follow: Hydra takes the quotes off, OmegaConf resolves `${…}`."""
    text = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
    text = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    trailing = len(text) - len(text.rstrip("\\"))
    return f"'{text}{chr(92) * trailing}'"
