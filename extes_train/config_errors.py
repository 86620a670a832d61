"""Hydra's and OmegaConf's exceptions, told as the user needs them: dotted key, value, what is allowed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from extes_train.errors import ConfigError, did_you_mean


@contextlib.contextmanager
def explained(overrides: Sequence[str], root: type, schemas: Mapping[str, type]) -> Iterator[None]:
    """Turn the exceptions of a composition into ConfigErrors."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    teller = _Teller(overrides, root, schemas)
    try:
        yield
    except ConfigError:
        raise
    except OmegaConfBaseException as error:
        raise ConfigError(teller.omegaconf(error)) from error
    except HydraException as error:
        raise ConfigError(teller.hydra(error)) from error


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


class _Teller:
    """Knows what the user wrote and what could have been written."""

    def __init__(self, overrides: Sequence[str], root: type, schemas: Mapping[str, type]) -> None:
        pairs = [override.partition("=") for override in overrides]
        self.given = {key.lstrip("+"): value for key, _, value in pairs}
        self.root = root
        # group -> option -> the keys that only this option (and perhaps some others) has
        self.of_option: dict[str, dict[str, list[str]]] = {}
        for name, schema in schemas.items():
            group, _, option = name.partition("/")
            self.of_option.setdefault(group, {})[option] = known_keys(schema, f"{group}.")

    def hydra(self, error: Exception) -> str:
        """The message for an exception of Hydra's."""
        from omegaconf.errors import OmegaConfBaseException

        if isinstance(error.__cause__, OmegaConfBaseException):
            return self.omegaconf(error.__cause__)
        text = str(error)
        if preset := re.search(r"In '([^']+)': .*?\n(.*)\n\s*full_key: (\S+)", text):
            return self.preset(*preset.groups())
        if option := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
            return _no_option(option.group(1).split("/")[-1], option.group(2))
        key = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
        return self.unknown(key.group(1)) if key else text.splitlines()[0]

    def preset(self, file: str, reason: str, key: str) -> str:
        """A value in a YAML file that does not fit what the command chooses."""
        group = key.partition(".")[0]
        owners = [option for option, keys in self.of_option.get(group, {}).items() if key in keys]
        if owners:
            return f"{file.replace('/', '=')} sets {key}: only with {group}={'|'.join(owners)}"
        return f"{file.replace('/', '=')} sets {key}: {reason}"

    def omegaconf(self, error: Any) -> str:
        """The message for an exception of OmegaConf's."""
        from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, ValidationError

        key = error.full_key or ""
        if isinstance(error, (ConfigKeyError, ConfigAttributeError)):
            return self.unknown(key)
        if isinstance(error, MissingMandatoryValue):
            return f"{key}: is needed and has no value; add {key}=… to the command"
        first = (getattr(error, "msg", None) or str(error)).splitlines()[0]
        shown = f"{key}={self.given[key]}" if key in self.given else key
        if isinstance(error, ValidationError):
            return f"{shown}: {self.expected(key, first)}"
        return f"{shown}: {first}" if key else first

    def unknown(self, key: str) -> str:
        """An unknown key, by its full dotted name, with the nearest known one and what the section holds."""
        full = next((given for given in self.given if given == key), None)
        full = full or next((given for given in self.given if given.startswith(f"{key}.")), key)
        section, _, name = full.rpartition(".")
        group = full.partition(".")[0]
        options = self.of_option.get(group, {})
        owners = [option for option, keys in options.items() if full in keys]
        chosen = self.given.get(group)
        if owners and chosen not in owners:
            return f"{full}: only with {group}={'|'.join(owners)}; {_usage(group, chosen, owners)}"
        known = [*known_keys(self.root), *options.get(chosen or "", [])]
        siblings = list(dict.fromkeys(k for k in known if k.rpartition(".")[0] == section))
        if section and siblings:
            names = [k.rpartition(".")[2] for k in siblings]
            close = [k for k in siblings if did_you_mean(name, [k.rpartition(".")[2]])]
            return f"{full}: no such key{did_you_mean(full, close)}; {section} has {', '.join(names)}"
        hint = did_you_mean(full, [k for k in known if k.count(".") == full.count(".")])
        if not hint:
            everywhere = [*known, *(k for group in self.of_option.values() for keys in group.values() for k in keys)]
            homes = list(dict.fromkeys(k for k in everywhere if k.rpartition(".")[2] == name))
            hint = f"; perhaps {' or '.join(homes[:3])}" if homes else "; `extes VERB --help` lists the keys"
        return f"{full}: no such key{hint}"

    def expected(self, key: str, reason: str) -> str:
        """What a key takes, in plain words, from OmegaConf's reason for a refusal."""
        name = key.rpartition(".")[2]
        if "Integer" in reason:
            return "must be a whole number"
        if "to Float" in reason:
            return "must be a number"
        if "valid bool" in reason:
            return "must be true or false"
        if "ListConfig" in reason:
            return f"must be a list; write {key}=[{self.given.get(key, 'a,b').strip(chr(39))}]"
        if "not Optional" in reason:
            return "cannot be null"
        if "is not a subclass of" in reason:
            keys = [k for k in known_keys(self.root) if k.rpartition(".")[0] == key]
            return f"{name} is a section, not a value; set one of its keys: {', '.join(keys)}"
        return reason


def _usage(group: str, chosen: str | None, owners: Sequence[str]) -> str:
    return f"add {group}={owners[0]}" if chosen is None else f"the command has {group}={chosen}"


def _no_option(group: str, name: str) -> str:
    from extes_train.composition import group_options

    allowed = group_options().get(group, [])
    name = name.strip("'")
    several = "; for several runs see `extes compare`, compare.arms" if "," in name else ""
    return (
        f"{group}={name}: no such option; {group} is one of {', '.join(allowed)}{did_you_mean(name, allowed)}{several}"
    )
