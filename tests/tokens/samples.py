"""Random windows, slow but plain readings of rows, a small tokenizer and small dialogues."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import strategies as st

from extes_train.dialogue.schema import Alternative, Dialogue, Turn, make_dialogue
from extes_train.tokens.row import Row
from extes_train.tokens.windows import Response, Window


@st.composite
def windows(draw: st.DrawFn, max_turns: int = 4, max_alternatives: int = 3, vocabulary: int = 50) -> Window:
    """A window of random ids whose trunk may end with its last response or with context."""
    length = st.integers(1, 6)
    ids = lambda n: np.array(draw(st.lists(st.integers(0, vocabulary - 1), min_size=n, max_size=n)), dtype=np.int32)  # noqa: E731
    trunk, responses = list(ids(draw(length))), []
    for turn in range(draw(st.integers(1, max_turns))):
        attach, original = len(trunk), ids(draw(length))
        responses.append(Response(turn, -1, attach, original, 1, 1))
        for number in range(draw(st.integers(0, max_alternatives))):
            responses.append(Response(turn, number, attach, ids(draw(length)), 1, 1))
        trunk += [*original, *ids(draw(st.integers(0, 5)))]
    return Window(0, 0, 1, np.array(trunk, dtype=np.int32), responses)


def scored(row: Row) -> Counter[tuple[tuple[int, ...], int, float]]:
    """Multiset of (ids before, target id, weight), read along the parents."""
    found: Counter[tuple[tuple[int, ...], int, float]] = Counter()
    for target, predictor, weight in zip(row.target_Q, row.predictor_Q, row.weight_Q):
        path, node = [], int(predictor)
        while node >= 0:
            path.append(int(row.ids_T[node]))
            node = int(row.parent_T[node])
        found[tuple(reversed(path)), int(row.ids_T[target]), round(float(weight), 6)] += 1
    return found


def seen(row: Row, query: int) -> list[int]:
    """Row indices on the path from the root to `query`, along the parents."""
    path = []
    while query >= 0:
        path.append(query)
        query = int(row.parent_T[query])
    return path[::-1]


TEXTS = [
    "I feel so alone since we broke up, and I cannot sleep.",
    "That sounds very hard. How long has it been going on?",
    "It has been two weeks now, I think.",
    "You have been carrying this for a while. What would help you tonight?",
    "Maybe talking to my sister, she understands me.",
    "I am glad that she is there for you.",
]


def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer with the special tokens of several chat formats."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    specials += ["<start_of_turn>", "<end_of_turn>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", additional_special_tokens=specials[2:]
    )


def dialogue(*texts: str, first: str = "seeker", alternatives: int = 0) -> Dialogue:
    """A dialogue of `texts`, or of the samples', the speakers taking turns."""
    speakers = ("seeker", "supporter") if first == "seeker" else ("supporter", "seeker")
    turns = []
    for i, text in enumerate(texts or TEXTS):
        others = [Alternative(f"Another way, {n}: {text}") for n in range(alternatives)]
        speaker = speakers[i % 2]
        turns.append(Turn(speaker, text, alternatives=others if speaker == "supporter" else []))
    return make_dialogue("breakups-or-divorce", "A break-up.", turns, {"source": "generated"})
