"""TokenDataset: dialogues as windows of tokens, with a count for everything that was not kept as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from extes_train.dialogue.files import digest_of
from extes_train.dialogue.schema import Dialogue, Turn
from extes_train.environment import cache_directory
from extes_train.errors import DataError, LayoutError
from extes_train.tokens.cache import cached_windows
from extes_train.tokens.config import TokensConfig
from extes_train.tokens.encoder import Encoder
from extes_train.tokens.encoding import EncodedDialogue, encode_turns
from extes_train.tokens.rewriting import single_windows
from extes_train.tokens.row import Row
from extes_train.tokens.rows import pack_rows
from extes_train.tokens.template import Spoken, Template, load_template, open_dialogue
from extes_train.tokens.tree import ResponseWeights, TokenTree, build_trees
from extes_train.tokens.windows import Window, WindowCounts, WindowRules, cut_windows

CACHE_FORMAT = 1  # raise it when the same input gives other windows


@dataclass
class TokenDataset:
    """Windows in the order of the dialogues; item i is window i, and what the step plan draws.

    `report` counts what happened on the way (see `describe`); `key` fixes the windows' content.
    """

    windows: list[Window]
    dialogue_ids: list[str]
    report: dict[str, Any]
    key: str
    template: Template
    tokens_per_row: int
    weights: ResponseWeights = field(default_factory=ResponseWeights)
    layout: str = "tree"
    flat: str = "multi_turn"
    from_cache: bool = False

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def tokenizer(self) -> Any:
        return self.template.tokenizer

    @property
    def empty_token(self) -> int:
        """The id that fills empty rows; it carries no loss."""
        return int(self.tokenizer.eos_token_id or 0)

    def trees(self, item: int) -> list[TokenTree]:
        """The trees of window `item` in the dataset's layout, not yet split to a row's length."""
        return build_trees(self.windows[item], self.weights, self.layout, self.flat, item)

    def rows(self, items: Sequence[int], multiple_of: int = 1) -> list[Row]:
        """The packed rows of these windows: what an optimizer step on them computes on `multiple_of` ranks."""
        return pack_rows([tree for item in items for tree in self.trees(item)], self.tokens_per_row, multiple_of)

    def flat_tokens(self, item: int) -> int:
        """Tokens that the flat layout (multi_turn) computes for window `item`."""
        window = self.windows[item]
        branches = (r.attach + len(r.ids) for r in window.responses if r.alternative >= 0)
        has_original = any(r.alternative < 0 for r in window.responses)
        return (len(window.trunk) if has_original else 0) + sum(branches)

    def num_targets(self, item: int) -> int:
        """Targets of window `item`, the same in every layout."""
        return sum(len(response.ids) for response in self.windows[item].responses)

    def describe(self) -> list[str]:
        """The report as lines to print."""
        return describe_report(self.report)


def build_dataset(
    dialogues: Sequence[Dialogue],
    tokenizer: Any,
    tokens: TokensConfig,
    *,
    context_length: int,
    num_alternatives: int | None = 0,
    weights: ResponseWeights | None = None,
    chat_template: str | None = None,
    name: str = "data",
    cache: bool = True,
) -> TokenDataset:
    """Tokenise `dialogues`, or find them tokenised in the cache.

    Arguments:

    - `context_length`: longest path of a window in tokens; never more than tokens.tokens_per_row.
    - `num_alternatives`: alternatives of a turn that are used (0: originals only, None: all).
    - `name`: what messages call this data.

    Raises DataError where nothing is left to learn from or a dialogue has no supporter turn, LayoutError where the
    chat template cannot take the layout.
    """
    template = load_template(tokenizer, chat_template, tokens.system, tokens.opening)
    check_layout(template, tokens)
    check_speakers(dialogues, tokens, name)
    context = min(context_length, tokens.tokens_per_row)
    left = context // 4 if tokens.min_left_context is None else tokens.min_left_context
    rules = WindowRules(context, left, tokens.too_long, tokens.targets, template.seeker_first)
    alone = bool(template.rewrites)
    key = digest_of(
        {
            "format": CACHE_FORMAT,
            "dialogues": _digest(dialogues, num_alternatives),
            "tokenizer": _tokenizer_digest(tokenizer),
            "template": template.digest_parts(),
            "rules": [context, left, tokens.too_long, tokens.targets, template.seeker_first, alone],
        },
        32,
    )

    def build() -> tuple[list[Window], dict[str, Any]]:
        return tokenise(dialogues, template, rules, num_alternatives)

    if cache:
        directory = Path(tokens.cache_dir) if tokens.cache_dir else cache_directory() / "tokens"
        (windows, report), found = cached_windows(directory, key, build)
    else:
        (windows, report), found = build(), False
    report = {
        **report,
        "context_length": context,
        "context_limited_by_row": context < context_length,
        "pad_is_eos": tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id,
    }
    dataset = TokenDataset(
        windows, [d.id for d in dialogues], report, key, template, tokens.tokens_per_row,
        weights or ResponseWeights(), tokens.layout, tokens.flat, found,
    )  # fmt: skip
    if not report["targets"]:
        raise DataError(
            f"{name}: no target is left to learn from; raise model.context_length ({context_length} now) or set "
            "tokens.too_long=truncate_response. " + "; ".join(dataset.describe())
        )
    return dataset


def check_layout(template: Template, tokens: TokensConfig) -> None:
    """Refuse a template without the prefix property, except for flat samples of one response each."""
    if template.rewrites and (tokens.layout != "flat" or tokens.flat != "per_response"):
        raise LayoutError(
            f"{template.rewrites}, so no trunk holds all its turns; tokens.layout=flat with tokens.flat=per_response "
            "takes it, or model.chat_template=plain"
        )


def check_speakers(dialogues: Sequence[Dialogue], tokens: TokensConfig, name: str) -> None:
    """Refuse empty data and dialogues without a supporter turn."""
    if not dialogues:
        raise DataError(f"{name}: no dialogues")
    if tokens.targets == "all":
        return
    silent = [d.id for d in dialogues if not any(turn.speaker == "supporter" for turn in d.turns)]
    if silent:
        raise DataError(f"{name}: {len(silent)} dialogue(s) without a supporter turn: {_some(silent)}")


def tokenise(
    dialogues: Sequence[Dialogue], template: Template, rules: WindowRules, num_alternatives: int | None
) -> tuple[list[Window], dict[str, Any]]:
    """Windows of all dialogues and the report on them."""
    encoder = Encoder(template.tokenizer)
    encoder.collect()
    opened = []
    for dialogue in dialogues:
        try:
            opened.append(open_dialogue(template, _limited(dialogue.turns, num_alternatives)))
            if not template.rewrites:
                encode_turns(template, encoder, opened[-1][0])
        except LayoutError as error:
            raise LayoutError(f"dialogue {dialogue.id}: {error}") from error
    encoder.learn()
    windows: list[Window] = []
    report = new_report(dialogues)
    for number, (dialogue, (turns, shift)) in enumerate(zip(dialogues, opened)):
        context_only = _context_only(template, turns)
        cut, counts = _windows_of(dialogue, template, encoder, turns, rules, number, context_only)
        if shift:
            cut = [_shifted(window, shift) for window in cut]
        windows += cut
        _count(report, dialogue, turns, shift, context_only, counts)
    report["windows"] = len(windows)
    report["merged_boundaries"] = encoder.merged
    report["tokens"] = sum(len(w.trunk) + sum(len(r.ids) for r in w.responses if r.alternative >= 0) for w in windows)
    report["targets"] = sum(len(r.ids) for w in windows for r in w.responses)
    report["responses"] = sum(r.alternative < 0 for w in windows for r in w.responses)
    report["alternatives"] = sum(r.alternative >= 0 for w in windows for r in w.responses)
    return windows, report


def _windows_of(
    dialogue: Dialogue,
    template: Template,
    encoder: Encoder,
    turns: list[Spoken],
    rules: WindowRules,
    number: int,
    context_only: set[int],
) -> tuple[list[Window], WindowCounts]:
    def encode_from(first: int) -> EncodedDialogue:
        return encode_turns(template, encoder, turns[first:], rules.context_length, first)

    try:
        if template.rewrites:
            return single_windows(template, encoder, turns, rules, number, context_only)
        return cut_windows(encode_from, [turn.speaker for turn in turns], rules, number, context_only)
    except DataError as error:
        raise DataError(f"dialogue {dialogue.id}: {error}") from error


def new_report(dialogues: Sequence[Dialogue]) -> dict[str, Any]:
    """Counts of zero; responses are named as ID:TURN or ID:TURN:ALTERNATIVE."""
    names = ("skipped", "truncated", "refused", "seekers_left_out", "short_context")
    lists = ("openings_left_out", "openings_without_loss", "placeholders", "without_targets")
    return {"dialogues": len(dialogues), **{name: [] for name in (*names, *lists)}}


def _count(
    report: dict[str, Any],
    dialogue: Dialogue,
    turns: Sequence[Spoken],
    shift: int,
    context_only: set[int],
    counts: WindowCounts,
) -> None:
    def named(turn: int, alternative: int = -1) -> str:
        return f"{dialogue.id}:{turn - shift}" + (f":{alternative}" if alternative >= 0 else "")

    for name in ("skipped", "truncated", "refused"):
        report[name] += [named(*pair) for pair in getattr(counts, name)]
    for name in ("seekers_left_out", "short_context"):
        report[name] += [named(turn) for turn in getattr(counts, name)]
    if shift > 0:
        report["placeholders"].append(dialogue.id)
    report["openings_left_out"] += [f"{dialogue.id}:{turn}" for turn in range(-shift)]
    report["openings_without_loss"] += [named(turn) for turn in sorted(context_only)]


def describe_report(report: dict[str, Any]) -> list[str]:
    """One line for the sums, one for each kind of thing that was not kept as it was."""
    lines = [
        f"{report['dialogues']:,} dialogues, {report['windows']:,} windows, {report['responses']:,} responses and "
        f"{report['alternatives']:,} alternatives, {report['targets']:,} targets of {report['tokens']:,} tokens"
    ]
    meaning = {
        "skipped": "responses longer than the context were skipped",
        "truncated": "responses longer than the context were truncated",
        "refused": "responses had no token before them and were refused",
        "seekers_left_out": "seeker turns longer than the context were left out",
        "short_context": "responses got less left context than tokens.min_left_context, to fit",
        "openings_left_out": "opening supporter turns were left out (tokens.opening=drop_target)",
        "openings_without_loss": "opening supporter turns carry no loss (tokens.opening=drop_target)",
        "placeholders": "dialogues got a placeholder before the opening supporter turn (tokens.opening)",
    }
    lines += [f"{len(report[name]):,} {text}: {_some(report[name])}" for name, text in meaning.items() if report[name]]
    if report.get("merged_boundaries"):
        lines.append(f"{report['merged_boundaries']:,} responses were encoded as continuations of their header")
    if report.get("context_limited_by_row"):
        lines.append(f"the context is {report['context_length']} tokens, limited by tokens.tokens_per_row")
    if report.get("pad_is_eos"):
        lines.append("pad and eos are one token here: harmless, since targets come from spans and rows have no padding")
    return lines


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names) - most} more)" if len(names) > most else "")


def _limited(turns: Sequence[Turn], most: int | None) -> list[Turn]:
    if most is None:
        return list(turns)
    return [Turn(turn.speaker, turn.text, turn.strategy, turn.alternatives[:most]) for turn in turns]


def _context_only(template: Template, turns: Sequence[Spoken]) -> set[int]:
    """Opening supporter turns that stay as context without loss."""
    if template.opening != "drop_target":
        return set()
    leading = next((i for i, turn in enumerate(turns) if turn.speaker == "seeker"), len(turns))
    return set(range(leading))


def _shifted(window: Window, shift: int) -> Window:
    responses = [replace(response, turn=response.turn - shift) for response in window.responses]
    return Window(window.dialogue, max(0, window.first_turn - shift), window.stop_turn - shift, window.trunk, responses)


def _digest(dialogues: Sequence[Dialogue], num_alternatives: int | None) -> str:
    digest = hashlib.sha256()
    for dialogue in dialogues:
        turns = [
            [turn.speaker, turn.text, *(other.text for other in turn.alternatives[:num_alternatives])]
            for turn in dialogue.turns
        ]
        digest.update(json.dumps([dialogue.id, turns]).encode())
    return digest.hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    described: Callable[[], str] = tokenizer.backend_tokenizer.to_str
    specials = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.all_special_tokens]
    return hashlib.sha256((described() + json.dumps(specials)).encode()).hexdigest()
