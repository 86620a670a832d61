"""Talk to a tuned student in the terminal.

    python -m extes_train.chat OVERRIDES      the overrides of the run; evaluation.model names another folder

Each line is a turn of the seeker; the model sees what training showed it. /new starts over, /quit ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from extes_train.composition import compose
from extes_train.config import TrainConfig
from extes_train.worker import run_worker

if TYPE_CHECKING:
    from extes_train.evaluation.generation import Generator

NOTICE = (
    "This is a language model trained for research. It is no substitute for\n"
    "professional help: it does not understand you, it can be wrong, and nobody\n"
    "reads along. In a crisis please call your local emergency number or a crisis\n"
    "line."
)
HELP = "/new starts over, /quit ends."


def main(arguments: Sequence[str]) -> None:
    """Chat with the run of the overrides `arguments`."""
    config = compose(list(arguments))
    print(f"loading {config.evaluation.model or f'{config.run_dir}/model'} …", file=sys.stderr, flush=True)
    generator = build_generator(config)
    print(f"{NOTICE}\n{HELP}", flush=True)
    converse(generator, read_lines(), sys.stdout.write, config.evaluation.seed)


def build_generator(config: TrainConfig) -> Generator:
    """The model of RUN/model (or evaluation.model) with the template it was trained with."""
    from dataclasses import replace

    from transformers import AutoConfig

    from extes_train.evaluation.generation import Generator
    from extes_train.evaluation.loading import base_config, load_tuned, measuring_device, tuned_folder
    from extes_train.model.loading import context_length, load_tokenizer
    from extes_train.tokens.template import load_template

    folder = tuned_folder(config.run_dir, config.evaluation.model)
    model_config = base_config(config.model, folder)
    shape = AutoConfig.from_pretrained(str(model_config.path), revision=model_config.revision)
    # a seeker speaks first here, whatever the data did
    tokens = replace(config.tokens, opening="as_is")
    template = load_template(load_tokenizer(model_config), model_config.chat_template, tokens.system, tokens.opening)
    limit = min(context_length(model_config, shape), tokens.tokens_per_row)
    model = load_tuned(model_config, folder, measuring_device())
    return Generator(model, template, limit, config.evaluation)


def read_lines() -> Iterator[str]:
    """Lines of the terminal, with a prompt and line editing where there is one."""
    prompt = "\nyou> " if sys.stdin.isatty() else ""
    if prompt:
        import readline  # noqa: F401  (arrow keys and history in input())
    while True:
        try:
            yield input(prompt)
        except (EOFError, KeyboardInterrupt):
            return


def converse(generator: Generator, lines: Iterator[str], write: Callable[[str], Any], seed: int = 0) -> int:
    """Answer `lines` one after another until /quit; returns how many were answered."""
    from extes_train.dialogue.schema import SEEKER, SUPPORTER, Turn

    turns: list[Turn] = []
    answered = 0
    for line in lines:
        text = line.strip()
        if text == "/quit":
            break
        if text == "/new":
            turns = []
            write("(a new conversation)\n")
            continue
        if text.startswith("/") or not text:
            write(HELP + "\n")
            continue
        turns.append(Turn(SEEKER, text))
        write("supporter> ")
        answer = generator.answer([turns], seed + answered, streamer=_Streamer(generator, write))[0]
        write("\n")
        turns.append(Turn(SUPPORTER, answer.text or "…"))
        answered += 1
    return answered


class _Streamer:
    """Writes text as its tokens come; what may still change (half a character) waits for the next token."""

    def __init__(self, generator: Generator, write: Callable[[str], Any]) -> None:
        self.tokenizer, self.stops, self.write = generator.template.tokenizer, generator.stops, write
        self.ids: list[int] = []
        self.shown = ""
        self.prompt_seen = False

    def put(self, value: Any) -> None:
        """Called by transformers with the prompt, then with each token."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self.ids += [token for token in value.flatten().tolist() if token not in self.stops]
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True).lstrip()
        if text.endswith("\ufffd") or not text.startswith(self.shown):
            return
        self.write(text[len(self.shown) :])
        sys.stdout.flush()
        self.shown = text

    def end(self) -> None:
        """Called by transformers after the last token."""


if __name__ == "__main__":
    run_worker(main)
