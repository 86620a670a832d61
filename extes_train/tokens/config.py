"""What the data is and how it becomes tokens."""

from __future__ import annotations

from dataclasses import dataclass

from extes_train.dialogue.checks import above, at_least, one_of, within


@dataclass
class DataConfig:
    """Dialogues to train on. Paths are dialogues.jsonl files (DESIGN: contracts)."""

    train: str | None = None  # dialogues.jsonl to train on
    valid: str | None = None  # held-out dialogues; None: `valid_fraction` of train, by hash of the id
    test: str | None = None  # dialogues for `extes evaluate`; None: valid
    valid_fraction: float = 0.1  # share held out when `valid` is None
    split_seed: int = 0  # changes which dialogues are held out
    taxonomy: str = "extes"  # extes, esconv, any, or a YAML file of scenarios and strategies
    shuffle_responses: bool = False  # a control: every supporter response is replaced by another dialogue's
    leak_check: bool = True  # refuse shared ancestors and near-duplicates across sides
    max_dialogues: int | None = None  # the first so many of train, for a quick look

    def __post_init__(self) -> None:
        within("data.valid_fraction", self.valid_fraction, 0.0, 0.9)
        at_least("data.max_dialogues", self.max_dialogues, 1)


@dataclass
class TokensConfig:
    """From dialogues to rows of token trees."""

    layout: str = "tree"  # tree | flat
    flat: str = "multi_turn"  # multi_turn | per_response, for layout=flat
    targets: str = "supporter"  # supporter | all: `all` also trains on seeker turns (pretraining)
    tokens_per_row: int = 2048  # longest packed row
    min_left_context: int | None = None  # tokens of context each later window repeats; None: a quarter of the context
    too_long: str = "skip"  # truncate_response | skip | error: a response that no window can hold
    opening: str = "as_is"  # placeholder | drop_target | as_is: a supporter who speaks first
    system: str | None = None  # system prompt put before every dialogue
    cache_dir: str | None = None  # where tokenised data is kept; None: ~/.cache/extes (or EXTES_CACHE)

    def __post_init__(self) -> None:
        one_of("tokens.layout", self.layout, ("tree", "flat"))
        one_of("tokens.flat", self.flat, ("multi_turn", "per_response"))
        one_of("tokens.targets", self.targets, ("supporter", "all"))
        one_of("tokens.too_long", self.too_long, ("truncate_response", "skip", "error"))
        one_of("tokens.opening", self.opening, ("placeholder", "drop_target", "as_is"))
        above("tokens.tokens_per_row", self.tokens_per_row, 7)
        at_least("tokens.min_left_context", self.min_left_context, 0)


@dataclass
class AugmentationConfig:
    """What data the student sees: `none` the originals, `dri` also the alternatives."""

    name: str = "none"  # none | dri
    num_alternatives: int | None = None  # alternatives used per supporter turn; None: all there are
    train: str | None = None  # inpainted dialogues to train on instead of data.train, for a comparison's dri arms

    def __post_init__(self) -> None:
        one_of("augmentation.name", self.name, ("none", "dri"))
        at_least("augmentation.num_alternatives", self.num_alternatives, 0)
