"""Hydra's and OmegaConf's exceptions, told as the user needs them: dotted key, value, what is allowed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from extes_train.errors import ConfigError, did_you_mean


@contextlib.contextmanager
def explained(overrides: Sequence[str], root: type) -> Iterator[None]:
    """Turn the exceptions of a composition into ConfigErrors."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except ConfigError:
        raise
    except OmegaConfBaseException as error:
        raise ConfigError(_omegaconf(error, overrides, root)) from error
    except HydraException as error:
        raise ConfigError(_hydra(error, overrides, root)) from error


def known_keys(value: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a dataclass (type or value) or dictionary."""
    if isinstance(value, type) and is_dataclass(value):
        value = value()
    if is_dataclass(value):
        pairs = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        return []
    result = []
    for name, item in pairs:
        result.append(prefix + name)
        result += known_keys(item, f"{prefix}{name}.")
    return result


def _hydra(error: Exception, overrides: Sequence[str], root: type) -> str:
    from omegaconf.errors import OmegaConfBaseException

    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        return _omegaconf(cause, overrides, root)
    text = str(error)
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text) or re.search(
        r"In '.*?': Could not find '(.*?)/(.*?)'", text
    )
    if option:
        from extes_train.composition import group_options

        group, name = option.group(1).split("/")[-1], option.group(2)
        allowed = group_options().get(group, [])
        return f"{group}={name}: no such option; {group} is one of {', '.join(allowed)}{did_you_mean(name, allowed)}"
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if key:
        return _unknown(key.group(1), overrides, root)
    if "mismatched input" in text or "no viable alternative" in text or "extraneous input" in text:
        bad = next((o for o in overrides if o in text), "")
        return f"{bad or 'an override'}: cannot be read; write key=value, and quote special characters: 'key=\"a, b\"'"
    return text.splitlines()[0]


def _omegaconf(error: Any, overrides: Sequence[str], root: type) -> str:
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, ValidationError

    key = error.full_key or ""
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)):
        return _unknown(key, overrides, root)
    if isinstance(error, MissingMandatoryValue):
        return f"{key}: is needed and has no value; add {key}=… to the command"
    first = (error.msg or str(error)).splitlines()[0] if getattr(error, "msg", None) else str(error).splitlines()[0]
    if isinstance(error, ValidationError):
        given = next((o.partition("=")[2] for o in overrides if o.partition("=")[0].lstrip("+") == key), None)
        shown = f"{key}={given}" if given is not None else key
        return f"{shown}: {first}"
    return f"{key}: {first}" if key else first


def _unknown(key: str, overrides: Sequence[str], root: type) -> str:
    """An unknown key, by its full dotted name, with the nearest known one and what the section holds."""
    full = next(
        (o.partition("=")[0].lstrip("+~") for o in overrides if o.partition("=")[0].lstrip("+~").endswith(key)), key
    )
    known = known_keys(root)
    section = full.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == section]
    where = f"; {section} has {', '.join(k.rpartition('.')[2] for k in siblings)}" if section and siblings else ""
    return f"{full}: no such key{did_you_mean(full, known)}{where}"
