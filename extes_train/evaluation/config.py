"""What is measured on held-out dialogues."""

from __future__ import annotations

from dataclasses import dataclass

from extes_train.dialogue.checks import above, at_least, within


@dataclass
class EvaluationConfig:
    """Perplexity of the original responses, and metrics over generated ones."""

    every_steps: int | None = None  # held-out perplexity during training; None: at the end only
    max_new_tokens: int = 64  # of a generated response
    num_responses: int | None = 128  # held-out contexts to generate for; None: all
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    batch_size: int = 16  # contexts generated side by side
    seed: int = 0  # of sampling
    model: str | None = None  # `extes evaluate`: model or adapter folder; None: RUN/model
    side: str = "valid"  # valid | test

    def __post_init__(self) -> None:
        at_least("evaluation.every_steps", self.every_steps, 1)
        at_least("evaluation.max_new_tokens", self.max_new_tokens, 1)
        at_least("evaluation.num_responses", self.num_responses, 0)
        at_least("evaluation.temperature", self.temperature, 0.0)
        above("evaluation.top_p", self.top_p, 0.0)
        within("evaluation.top_p", self.top_p, 0.0, 1.0)
        at_least("evaluation.batch_size", self.batch_size, 1)
