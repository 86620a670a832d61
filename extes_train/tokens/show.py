"""One sample as a person reads it: what is context, what carries loss, where the alternatives hang."""

from __future__ import annotations

import sys

from extes_train.tokens.dataset import TokenDataset
from extes_train.tokens.windows import Response, Window

CONTEXT, TARGET, END, BRANCH, OFF = "\x1b[2m", "\x1b[32m", "\x1b[1;33m", "\x1b[36m", "\x1b[0m"


def render_sample(dataset: TokenDataset, index: int, color: bool) -> str:
    """Window `index` decoded: targets green, ends of turn yellow, alternatives as branches below their turn.

    Without colour, targets stand between ⟦ and ⟧ and ends of turn after │.
    """
    window = dataset.windows[index]
    lines = [_title(dataset, index, window), ""]
    cursor = 0
    for response in window.responses:
        if response.alternative >= 0:
            lines.append(_branch(dataset, response, color))
            continue
        context = _decoded(dataset, window.trunk[cursor : response.attach].tolist())
        lines.append(_paint(context, CONTEXT, color) + _target(dataset, response, TARGET, color))
        cursor = response.attach + len(response.ids)
    rest = _decoded(dataset, window.trunk[cursor:].tolist())
    return "\n".join([*lines, *([_paint(rest, CONTEXT, color)] if rest else []), "", _legend(color)])


def render_for_terminal(dataset: TokenDataset, index: int) -> str:
    """`render_sample` with colour where standard output is a terminal."""
    return render_sample(dataset, index, color=sys.stdout.isatty())


def _title(dataset: TokenDataset, index: int, window: Window) -> str:
    trees = dataset.trees(index)
    tokens, targets = sum(len(tree) for tree in trees), dataset.num_targets(index)
    alternatives = sum(response.alternative >= 0 for response in window.responses)
    return (
        f"window {index} of {len(dataset)}: dialogue {dataset.dialogue_ids[window.dialogue]}, turns "
        f"{window.first_turn} to {window.stop_turn - 1}, {len(window.responses) - alternatives} responses and "
        f"{alternatives} alternatives, {targets} targets; layout {dataset.layout}"
        f"{'' if dataset.layout == 'tree' else f' ({dataset.flat})'}: {tokens} tokens in {len(trees)} sample(s)"
    )


def _branch(dataset: TokenDataset, response: Response, color: bool) -> str:
    mark = f"  └─ turn {response.turn}, alternative {response.alternative}: "
    return _paint(mark, BRANCH, color) + _target(dataset, response, BRANCH, color)


def _target(dataset: TokenDataset, response: Response, style: str, color: bool) -> str:
    stop = len(response.ids) - response.num_end
    content, end = _decoded(dataset, response.ids[:stop].tolist()), _decoded(dataset, response.ids[stop:].tolist())
    if color:
        return _paint(content, style, color) + (_paint(end, END, color) if end else "")
    return f"⟦{content}{'│' + end if end else ''}⟧"


def _decoded(dataset: TokenDataset, ids: list[int]) -> str:
    return str(dataset.tokenizer.decode(ids, skip_special_tokens=False)) if ids else ""


def _paint(text: str, style: str, color: bool) -> str:
    return f"{style}{text}{OFF}" if color and text else text


def _legend(color: bool) -> str:
    if not color:
        return "⟦content│end of turn⟧ carries loss; everything else is context"
    words = (("context", CONTEXT), ("target", TARGET), ("end of turn, a target", END), ("alternative", BRANCH))
    return "  ".join(_paint(word, style, color) for word, style in words)
