"""ExTES.json as its authors published it (repository pandazzh2020/ExTES), defects included.

    [{"scene", "description", "content": [{"User": …} | {"AI": …, "AI Strategy": …}]}]

Mended and counted: both or neither of User and AI in one item, AI as an object or a list, other spellings of keys,
strategies and scenes, missing or free-text strategies, extra keys, a supporter who speaks first, runs of one speaker.
A scene that means none of the 36 and a dialogue without supporter are refused by name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from extes_train.dialogue.importers.matching import match
from extes_train.dialogue.importers.reading import Summary, Utterance, import_records, merge_runs
from extes_train.dialogue.schema import SEEKER, SUPPORTER, Dialogue, make_dialogue
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import DataError

_SEEKER_KEYS = {"user", "usera", "userb", "seeker", "client", "human"}
_SUPPORTER_KEYS = {"ai", "aia", "aib", "assistant", "supporter", "chatbot", "bot", "system"}
_TEXT_KEYS = ("text", "content", "response", "message", "utterance")
_NO_STRATEGY = {"", "none", "null", "na", "n/a", "nil", "-"}


def import_file(path: Path) -> tuple[list[Dialogue], Summary]:
    """The dialogues of an ExTES.json (see `import_dialogues`)."""
    return import_records(path, _convert)


def _convert(record: dict[str, Any], where: str, summary: Summary) -> Dialogue:
    scene, scenario = _scenario(record, where, summary)
    items = record.get("content")
    if not isinstance(items, list):
        raise DataError(f"{where}: content: expected a list of utterances; is this an ExTES file?")
    for key in record:
        if key not in ("scene", "description", "content"):
            summary[f'extra key "{key}" of a dialogue'] += 1
    reader = _Reader(where, summary)
    for i, item in enumerate(items):
        reader.read(item, f"content[{i}]")
    turns, joined = merge_runs(reader.utterances, summary)
    summary["supporter turns without strategy"] += sum(t.speaker == SUPPORTER and t.strategy is None for t in turns)
    provenance: dict[str, Any] = {"source": "extes", "scene": scene, **joined}
    if reader.unmatched:
        provenance["unmatched_strategies"] = reader.unmatched
    return make_dialogue(scenario, _situation(record, summary), turns, provenance)


def _scenario(record: dict[str, Any], where: str, summary: Summary) -> tuple[str, str]:
    scene = record.get("scene")
    if not isinstance(scene, str) or not scene.strip():
        raise DataError(f"{where}: scene: got {scene!r}, expected the name of a scenario")
    scenario, exact = match(scene, load_taxonomy("extes").scenarios)
    if scenario is None:
        raise DataError(f'{where}: scene: "{scene}" means none of the 36 scenarios of taxonomy extes')
    if not exact:
        summary["scenes in another spelling"] += 1
    return scene, scenario


def _situation(record: dict[str, Any], summary: Summary) -> str:
    description = record.get("description")
    if isinstance(description, (list, tuple)):
        summary["descriptions that were a list"] += 1
        description = " ".join(str(part).strip() for part in description)
    if not isinstance(description, str) or not description.strip():
        summary["descriptions missing"] += 1
        return ""
    return description.strip()


class _Reader:
    """Items of one dialogue, turned into utterances."""

    def __init__(self, where: str, summary: Summary) -> None:
        self.where = where
        self.summary = summary
        self.utterances: list[Utterance] = []
        self.unmatched: list[str] = []

    def read(self, item: Any, field: str) -> None:
        """Append what `item` says. Raises DataError for an item whose speaker is unknown."""
        if not isinstance(item, dict):
            raise DataError(f"{self.where}: {field}: expected an object with User or AI, got {str(item)[:60]!r}")
        said: list[Utterance] = []
        strategies: list[Any] = []
        for key, value in item.items():
            bare = re.sub(r"[^a-z]", "", key.lower())
            if "strateg" in bare:
                self._count_key(key, "AI Strategy")
                strategies.append(value)
            elif bare in _SEEKER_KEYS:
                self._count_key(key, "User")
                said.append(Utterance(SEEKER, self._plain(value, field)))
            elif bare in _SUPPORTER_KEYS:
                self._count_key(key, "AI")
                said.append(self._response(value, field, strategies))
            else:
                self.summary[f'extra key "{key}" of an utterance'] += 1
        self._place(item, said, self._strategy(strategies), field)

    def _place(self, item: dict[str, Any], said: list[Utterance], strategy: str | None, field: str) -> None:
        """Give the strategy to the item's response, or to the one before where the item says nothing itself."""
        if len({utterance.speaker for utterance in said}) == 2:
            self.summary["items with both User and AI"] += 1
        responses = [utterance for utterance in said if utterance.speaker == SUPPORTER]
        if not said:
            self.summary["items with neither User nor AI"] += 1
            if any(isinstance(value, str) and len(value.split()) > 6 for value in item.values()):
                keys = ", ".join(item)
                raise DataError(f"{self.where}: {field}: the keys {keys} do not say who speaks (User or AI)")
            responses = [u for u in self.utterances[-1:] if u.speaker == SUPPORTER and u.strategy is None]
        elif strategy is not None and not responses:
            self.summary["strategies on a seeker's utterance left out"] += 1
        for response in responses:
            response.strategy = strategy
        self.utterances += said

    def _count_key(self, key: str, published: str) -> None:
        if key != published:
            self.summary[f'key "{key}" read as "{published}"'] += 1

    def _plain(self, value: Any, field: str) -> str:
        """Text of a string, of a list of strings, or of an object with one text."""
        if value is None:
            return ""
        if isinstance(value, (str, int, float)):
            return str(value)
        if isinstance(value, list):
            self.summary["utterances that were a list"] += 1
            return " ".join(self._plain(part, field) for part in value)
        if isinstance(value, dict):
            self.summary["utterances that were an object"] += 1
            return self._response_of_object(value, field, [])
        raise DataError(f"{self.where}: {field}: cannot read a text of type {type(value).__name__}")

    def _response(self, value: Any, field: str, strategies: list[Any]) -> Utterance:
        """A response that may hide its strategy in an object or in a list of objects."""
        parts = value if isinstance(value, list) else [value]
        texts = []
        for part in parts:
            if isinstance(part, dict):
                self.summary["utterances that were an object"] += 1
                texts.append(self._response_of_object(part, field, strategies))
            else:
                texts.append(self._plain(part, field))
        if isinstance(value, list):
            self.summary["utterances that were a list"] += 1
        return Utterance(SUPPORTER, " ".join(text.strip() for text in texts if text.strip()))

    def _response_of_object(self, value: dict[str, Any], field: str, strategies: list[Any]) -> str:
        """`{"text": …, "AI Strategy": …}`, `{"AI": …}`, or `{STRATEGY: text, …}`."""
        texts = []
        for key, item in value.items():
            bare = re.sub(r"[^a-z]", "", key.lower())
            if "strateg" in bare:
                strategies.append(item)
                continue
            if bare not in _TEXT_KEYS and bare not in _SUPPORTER_KEYS | _SEEKER_KEYS:
                identifier, _ = match(key, load_taxonomy("extes").strategies)
                if identifier is not None:
                    strategies.append(key)
                else:
                    self.summary[f'extra key "{key}" of an utterance'] += 1
            texts.append(self._plain(item, field))
        return " ".join(text.strip() for text in texts if text.strip())

    def _strategy(self, given: list[Any]) -> str | None:
        """The first label that means one of the 16; free text means the first title that it names."""
        labels = [part for value in given for part in (value if isinstance(value, list) else [value])]
        labels = [part for value in labels for part in (value.values() if isinstance(value, dict) else [value])]
        texts = [str(label).strip() for label in labels if label is not None]
        texts = [text for text in texts if text.lower() not in _NO_STRATEGY]
        if len(texts) < len(labels):
            self.summary["strategies that were empty"] += 1
        for text in texts:
            identifier, exact = self._label(text)
            if identifier is not None:
                if not exact:
                    self.summary["strategies in another spelling"] += 1
                return identifier
        if texts:
            self.summary["strategies that mean none of the 16"] += 1
            self.unmatched += texts
        return None

    def _label(self, text: str) -> tuple[str | None, bool]:
        known = load_taxonomy("extes").strategies
        identifier, exact = match(text, known)
        if identifier is not None:
            return identifier, exact
        places = [(text.lower().find(strategy.title.lower()), strategy.id) for strategy in known.values()]
        named = sorted(place for place in places if place[0] >= 0)
        if named:
            return named[0][1], False
        for part in re.split(r"[,;/&+:(]|\band\b|\n|\. ", text):
            identifier, _ = match(part, known) if part.strip() else (None, False)
            if identifier is not None:
                return identifier, False
        return None, False
