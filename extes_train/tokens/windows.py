"""Windows: the part of a dialogue that one sample holds, cut once, before the layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Response:
    """One response that carries loss: the original (`alternative` -1) or an alternative of a turn.

    `ids` is content and end-of-turn; `attach` the trunk index of the original's first content token, so that
    trunk[:attach] is the prefix of every response of the turn. The last `num_end` ids are the end-of-turn (0 where the
    response was truncated); `num_bytes` counts the content's UTF-8 bytes.
    """

    turn: int  # index of the turn in its dialogue
    alternative: int
    attach: int
    ids: Ints
    num_end: int
    num_bytes: int


@dataclass(slots=True)
class Window:
    """Turns [first_turn, stop_turn) of a dialogue as a trunk, with the responses that are targets in this window."""

    dialogue: int  # index of the dialogue in its dataset
    first_turn: int
    stop_turn: int
    trunk: Ints
    responses: list[Response]  # by turn, the original first
