"""Responses of a model to held-out contexts: greedy or sampled, with a key/value cache, several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from extes_train.dialogue.schema import SUPPORTER, Dialogue, Turn
from extes_train.dialogue.split import uniform
from extes_train.errors import ConfigError
from extes_train.evaluation.config import EvaluationConfig
from extes_train.evaluation.ranks import Alone, Ranks, rounds
from extes_train.tokens.encoder import Encoder
from extes_train.tokens.encoding import encode_prefix
from extes_train.tokens.rendering import render_sample
from extes_train.tokens.template import Template


@dataclass(frozen=True, slots=True)
class Context:
    """The turns before a held-out supporter turn, and that turn's original text."""

    dialogue_id: str
    turn: int
    before: tuple[Turn, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class Generated:
    """A response; `finished` is False where max_new_tokens ended it."""

    text: str
    num_tokens: int
    finished: bool


def pick_contexts(dialogues: Sequence[Dialogue], count: int | None) -> list[Context]:
    """Contexts of `count` supporter turns (None: all), the same for every model and whatever the order of dialogues.

    Turns that open a dialogue have no context and are left out.
    """
    contexts = [
        Context(dialogue.id, i, tuple(dialogue.turns[:i]), turn.text.strip())
        for dialogue in dialogues
        for i, turn in enumerate(dialogue.turns)
        if turn.speaker == SUPPORTER and i > 0
    ]
    if count is None or count >= len(contexts):
        return contexts
    keys = {id(c): uniform(f"{c.dialogue_id}:{c.turn}", 0) for c in contexts}
    chosen = {id(c) for c in sorted(contexts, key=lambda c: keys[id(c)])[:count]}
    return [context for context in contexts if id(context) in chosen]


class Generator:
    """A model with its template, ready to answer."""

    def __init__(self, model: Any, template: Template, context_length: int, config: EvaluationConfig) -> None:
        from transformers import GenerationConfig

        if config.max_new_tokens >= context_length:
            raise ConfigError(
                f"evaluation.max_new_tokens={config.max_new_tokens}: leaves no room for a context in "
                f"{context_length} tokens (model.context_length)"
            )
        self.model, self.template, self.config = model.eval(), template, config
        self.encoder = Encoder(template.tokenizer)
        self.prefix_limit = context_length - config.max_new_tokens
        self.stops = stop_ids(template)
        # what the model's own generation config asks for would change the measure from model to model
        model.generation_config = GenerationConfig()
        sampling = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0} if config.temperature else {}
        self.settings = GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            do_sample=bool(sampling),
            eos_token_id=sorted(self.stops),
            pad_token_id=self.pad,
            **sampling,
        )

    @property
    def pad(self) -> int:
        """Fills batches on the left; masked, so its value does not matter."""
        tokenizer = self.template.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def prefix(self, turns: Sequence[Turn]) -> np.ndarray:
        """Ids that the response continues, as in training; the oldest turns are left out whole until they fit."""
        ids = encode_prefix(self.template, self.encoder, turns, self.prefix_limit)
        return ids[-self.prefix_limit :]

    @torch.no_grad()
    def answer(self, contexts: Sequence[Sequence[Turn]], seed: int = 0, streamer: Any = None) -> list[Generated]:
        """A response to each of `contexts`, all in one batch, padded on the left. `seed` fixes what sampling draws."""
        prefixes = [self.prefix(turns) for turns in contexts]
        longest = max(len(prefix) for prefix in prefixes)
        ids_BT = torch.full((len(prefixes), longest), self.pad, dtype=torch.int64)
        mask_BT = torch.zeros_like(ids_BT)
        for i, prefix in enumerate(prefixes):
            ids_BT[i, longest - len(prefix) :] = torch.from_numpy(np.asarray(prefix, dtype=np.int64))
            mask_BT[i, longest - len(prefix) :] = 1
        device = next(self.model.parameters()).device
        cuda = [device.index or 0] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            output_BT = self.model.generate(
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.to(device),
                generation_config=self.settings,
                streamer=streamer,
            )
        return [self._decoded(ids[longest:].tolist()) for ids in output_BT]

    def _decoded(self, ids: list[int]) -> Generated:
        stop = next((i for i, token in enumerate(ids) if token in self.stops), None)
        content = ids if stop is None else ids[:stop]
        text = self.template.tokenizer.decode(content, skip_special_tokens=True).strip()
        return Generated(text, len(content), stop is not None)


def generate_responses(
    generator: Generator,
    contexts: Sequence[Context],
    advance: Callable[[int], None] = lambda responses: None,
    ranks: Ranks | None = None,
) -> list[Generated]:
    """A response to each context, in their order; contexts of like length share a batch.

    Batches and their seeds are the same for any number of `ranks`, which share them and all get every response.
    `advance` is told how many responses a round has brought, on all ranks alike.
    """
    ranks = ranks or Alone()
    lengths = [len(generator.prefix(context.before)) for context in contexts]
    order = sorted(range(len(contexts)), key=lambda i: (-lengths[i], i))
    size = generator.config.batch_size
    batches = [(number, order[start : start + size]) for number, start in enumerate(range(0, len(order), size))]
    mine: dict[int, Generated] = {}
    for together in rounds(batches, ranks.world_size):
        if ranks.rank < len(together):
            number, batch = together[ranks.rank]
            seed = generator.config.seed * 1_000_003 + number
            mine.update(zip(batch, generator.answer([contexts[i].before for i in batch], seed)))
        advance(sum(len(batch) for _, batch in together))
    answers = {i: answer for part in ranks.gather(mine) for i, answer in part.items()}
    return [answers[i] for i in range(len(contexts))]


def stop_ids(template: Template) -> set[int]:
    """Ids that end a response: the template's end-of-turn and the tokenizer's end-of-sequence."""
    if template.rewrites:
        end = [int(render_sample(template, Encoder(template.tokenizer), [Turn("seeker", "x")], "x")[1][-1])]
    else:
        end = list(template.skeleton(("seeker", SUPPORTER))[1].end[:1])
    return {*end, int(template.tokenizer.eos_token_id)}
