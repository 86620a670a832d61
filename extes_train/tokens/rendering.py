"""One response rendered by itself: the way for templates that rewrite earlier turns when later ones follow."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from extes_train.errors import ModelError
from extes_train.tokens.encoder import Encoder, Ints
from extes_train.tokens.template import Spoken, Template, sentinel, special_pattern


def render_sample(template: Template, encoder: Encoder, before: Sequence[Spoken], text: str) -> tuple[Ints, Ints, int]:
    """(prefix ids, response ids, how many of them are the end-of-turn) of a response to the turns `before`."""
    speakers, contents = [turn.speaker for turn in before], [turn.text.strip() for turn in before]
    names = [sentinel(i) for i in range(len(before) + 1)]
    prefix = template.render(speakers, names[:-1], True, template.system)
    bare = template.render(speakers, names[:-1], False, template.system)
    whole = template.render([*speakers, "supporter"], names, False, template.system)
    place = whole.rfind(names[-1])
    if prefix == bare:
        prefix = whole[:place]
    specials = special_pattern(template.tokenizer)
    end = specials.search(whole, max(place, 0))
    if place < 0 or end is None:
        raise ModelError(f"{template.name} ends a response with no special token; model.chat_template=plain")
    addition = whole[len(prefix) : place] if whole.startswith(prefix) else ""
    runs = _runs(prefix, dict(zip(names, contents)), specials)
    parts: list[Ints] = []
    for special, run in runs:
        if special is not None:
            parts.append(np.array([template.tokenizer.convert_tokens_to_ids(special)], dtype=np.int32))
        parts.append(encoder.ids(run, first=special is None))
    special, run = runs[-1]
    response = encoder.after(encoder.ids(run, special is None), run, addition + text, special is None)
    end_id = template.tokenizer.convert_tokens_to_ids(end.group().strip())
    return np.concatenate(parts), np.append(response, np.int32(end_id)).astype(np.int32), 1


def _runs(rendered: str, contents: dict[str, str], specials: re.Pattern[str]) -> list[tuple[str | None, str]]:
    """(special token or None at the start, the text after it) with the contents in their places."""

    def filled(text: str) -> str:
        return re.sub("|".join(contents), lambda found: contents[found.group()], text) if contents else text

    runs: list[tuple[str | None, str]] = []
    special, cursor = None, 0
    for found in specials.finditer(rendered):
        if special is not None or found.start() > 0:
            runs.append((special, filled(rendered[cursor : found.start()])))
        special, cursor = found.group().strip(), found.end()
    return [*runs, (special, filled(rendered[cursor:]))]
