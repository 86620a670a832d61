"""From a teacher's reply to a dialogue or a response that passed every filter, or to a reason why not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from data_gen.config import FiltersConfig
from data_gen.filters.conduct import misconduct
from data_gen.filters.crisis import crisis, crisis_in
from data_gen.filters.language import check_language, foreign
from data_gen.filters.pii import check_method, personal_data
from data_gen.filters.repetition import repetitive
from data_gen.filters.text import TextView
from extes_train.dialogue.schema import SEEKER, SPEAKERS, SUPPORTER, Dialogue, Turn, check_dialogue, dialogue_id
from extes_train.dialogue.taxonomy import Taxonomy, slug
from extes_train.errors import DataError

FINISH_REASONS = {
    "length": "finish_length",
    "content_filter": "content_filter",
    "refusal": "refusal",
    "context_length": "context_length",
}  # finish_reason of a reply that is no answer -> the reason it is counted under
REASONS = (
    *FINISH_REASONS.values(),
    *(
        "unreadable",
        "schema",
        "alternation",
        "strategy",
        "length",
        "language",
        "repetition",
        "conduct",
        "pii",
        "crisis",
    ),
    *("duplicate", "near_duplicate"),
)
QUARANTINED = ("crisis",)  # set aside for people, never dropped
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_ROLES = {"user": SEEKER, "client": SEEKER, "customer": SEEKER, "assistant": SUPPORTER, "counselor": SUPPORTER}


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a candidate is not accepted: a reason of REASONS and what it was about."""

    reason: str
    detail: str = ""


def check_filters(config: FiltersConfig) -> None:
    """Raise ConfigError for settings that this machine cannot serve."""
    check_language(config.language)
    check_method(config.pii)


def read_reply(value: Any, scenario: str, taxonomy: Taxonomy) -> Dialogue | Rejection:
    """The dialogue in a reply `{"situation", "turns"}`; forms that are plainly meant are mended (see `_turn`)."""
    if not isinstance(value, dict) or not isinstance(value.get("turns"), list) or not value["turns"]:
        return Rejection("schema", "no object with turns")
    situation = value.get("situation")
    if not isinstance(situation, str) or not situation.strip():
        return Rejection("schema", "no situation")
    turns: list[Turn] = []
    for i, item in enumerate(value["turns"]):
        turn = _turn(item, taxonomy)
        if isinstance(turn, Rejection):
            return Rejection(turn.reason, f"turns[{i}]: {turn.detail}")
        if turns and turns[-1].speaker == turn.speaker:
            return Rejection("alternation", f"turns[{i}]: {turn.speaker} follows {turn.speaker}")
        turns.append(turn)
    if unwritable(situation):
        return Rejection("schema", "situation: a control character or half of a surrogate pair")
    situation = situation.strip()
    dialogue = Dialogue("", scenario, situation, turns)
    try:
        check_dialogue(dialogue, "reply", taxonomy)
        dialogue.id = dialogue_id(scenario, situation, turns)
    except (DataError, UnicodeEncodeError) as error:
        return Rejection("schema", str(error)[:120].encode("ascii", "replace").decode())
    return dialogue


def unwritable(text: str) -> bool:
    """True for a text with control characters (a tab and line ends excepted) or half of a surrogate pair."""
    return not text.isprintable() and _UNWRITABLE.search(text) is not None


def read_strategy(value: Any, taxonomy: Taxonomy) -> str | None:
    """The strategy's id, from an id or a title in any spelling; None where the taxonomy does not have it."""
    if not isinstance(value, str) or not value.strip():
        return None
    if value in taxonomy.strategies:
        return value
    found = slug(value)
    if found in taxonomy.strategies or (taxonomy.open_strategies and found):
        return found
    return None


def check_dialogue_text(dialogue: Dialogue, view: TextView, config: FiltersConfig) -> Rejection | None:
    """All filters on a dialogue whose schema holds. `view`: the words of its turns."""
    texts = [turn.text for turn in dialogue.turns]
    if not config.min_turns <= len(texts) <= config.max_turns:
        return Rejection("length", f"{len(texts)} utterances, allowed {config.min_turns}-{config.max_turns}")
    for i, count in enumerate(view.lengths):
        if not config.min_words <= count <= config.max_words:
            return Rejection("length", f"turns[{i}]: {count} words, allowed {config.min_words}-{config.max_words}")
    first = 0 if dialogue.turns[0].speaker == SUPPORTER else 1
    return _check_texts(texts, range(first, len(texts), 2), dialogue.situation, view, config)


def check_response_text(text: str, view: TextView, config: FiltersConfig) -> Rejection | None:
    """All filters on one supporter response."""
    count = view.lengths[0]
    if not config.min_words <= count <= config.max_words:
        return Rejection("length", f"{count} words, allowed {config.min_words}-{config.max_words}")
    return _check_texts([text], range(1), "", view, config)


def _check_texts(
    texts: list[str], supporter: range, situation: str, view: TextView, config: FiltersConfig
) -> Rejection | None:
    whole = "\n".join(texts)
    if config.crisis and (detail := crisis(texts, view) or (situation and crisis_in(situation))):
        return Rejection("crisis", detail)
    if config.language is not None and (detail := foreign(whole, view, config.language)):
        return Rejection("language", detail)
    if config.max_repetition < 1 and (detail := repetitive(view, config.max_repetition)):
        return Rejection("repetition", detail)
    if config.conduct and (detail := misconduct(texts, view, supporter)):
        return Rejection("conduct", detail)
    if detail := personal_data(f"{situation}\n{whole}" if situation else whole, config.pii):
        return Rejection("pii", detail)
    return None


def _turn(item: Any, taxonomy: Taxonomy) -> Turn | Rejection:
    """A turn of a reply: speakers in any case and under chat roles, strategies by title; seekers lose a strategy."""
    if not isinstance(item, dict) or not isinstance(item.get("text"), str) or not item["text"].strip():
        return Rejection("schema", "no text")
    speaker = item.get("speaker")
    if speaker not in SPEAKERS:
        speaker = str(speaker).strip().lower()
        speaker = _ROLES.get(speaker, speaker)
        if speaker not in SPEAKERS:
            return Rejection("schema", f'speaker "{str(speaker)[:20]}"')
    text = item["text"].strip()
    if unwritable(text):
        return Rejection("schema", "a control character or half of a surrogate pair")
    if speaker == SEEKER:
        tags = item.get("tags")
        kept = [t for t in tags if isinstance(t, str) and t and t.isprintable()] if isinstance(tags, list) else []
        return Turn(SEEKER, text, tags=kept)
    strategy = read_strategy(item.get("strategy"), taxonomy)
    if strategy is None and (taxonomy.strategies or item.get("strategy") is not None):
        return Rejection("strategy", f'"{str(item.get("strategy"))[:40]}" is not in taxonomy {taxonomy.name}')
    return Turn(SUPPORTER, text, strategy)
