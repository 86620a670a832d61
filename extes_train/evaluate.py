"""Score a run on its held-out side.

    python -m extes_train.evaluate OVERRIDES      the overrides of the run; evaluation.model names another folder

Writes RUN/evaluation/generations.jsonl and, last, RUN/evaluation/metrics.json, for evaluation.model too.
Supporter turns are scored, whatever tokens.targets says.
The base model is scored on the same tokens; its scores are kept in the cache, so arms of a comparison share them.
One process does the work; under torchrun the other ranks have nothing to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extes_train.composition import compose
from extes_train.config import TrainConfig
from extes_train.environment import cache_directory, rank_variables
from extes_train.worker import run_worker

if TYPE_CHECKING:
    from extes_train.dialogue.schema import Dialogue
    from extes_train.evaluation.perplexity import Scores
    from extes_train.tokens.dataset import TokenDataset


def main(arguments: Sequence[str]) -> None:
    """Evaluate the run of the overrides `arguments`."""
    config = compose(list(arguments))
    if rank_variables().rank == 0:
        evaluate(config)


def evaluate(config: TrainConfig) -> dict[str, Any]:
    """Measure RUN/model (or evaluation.model) and its base; returns what metrics.json holds.

    Raises ModelError without a model, DataError for an empty side.
    """
    from extes_train.dialogue.files import write_json
    from extes_train.evaluation.loading import load_tuned, measuring_device, tuned_folder

    folder = tuned_folder(config.run_dir, config.evaluation.model)
    dialogues, dataset, config = _prepared(config, folder)
    device = measuring_device()
    base = _base_scores(config, dataset, device)
    model = load_tuned(config.model, folder, device)
    scores = _score("tuned model", model, dataset, config)
    metrics: dict[str, Any] = {
        "base_perplexity": base["perplexity"],
        "base_nll_per_byte": base["nll_per_byte"],
        **scores.as_dict(),
        "side": config.evaluation.side,
        "dialogues": len(dialogues),
        "skipped": len(dataset.report.get("skipped", [])),
    }
    out = Path(config.run_dir) / "evaluation"
    metrics.update(_data_measures(dialogues))
    metrics.update(_generation_measures(model, dialogues, dataset, config, out))
    write_json(out / "metrics.json", metrics)
    print(_summary(metrics, out), flush=True)
    return metrics


def _prepared(config: TrainConfig, folder: Path) -> tuple[list[Dialogue], TokenDataset, TrainConfig]:
    """The held-out dialogues, tokenised as in training, and the configuration with its base model filled in."""
    from extes_train.dialogue.sides import load_sides
    from extes_train.errors import DataError
    from extes_train.evaluation.loading import base_config
    from extes_train.model.loading import load_tokenizer
    from extes_train.tokens.dataset import build_dataset

    config = replace(config, model=base_config(config.model, folder))
    side = config.evaluation.side
    # training has checked for leaks; the control moves responses of the train side only
    sides = load_sides(replace(config.data, leak_check=False, shuffle_responses=False))
    dialogues = sides.test if side == "test" else sides.valid
    if not dialogues:
        raise DataError(f"evaluation.side={side}: holds no dialogue; give data.{side} or data.valid_fraction")
    dataset = build_dataset(
        dialogues,
        load_tokenizer(config.model),
        replace(config.tokens, targets="supporter"),
        context_length=_context_length(config),
        chat_template=config.model.chat_template,
        name=f"data.{side}",
    )
    return dialogues, dataset, config


def _context_length(config: TrainConfig) -> int:
    from transformers import AutoConfig

    from extes_train.model.loading import context_length

    shape = AutoConfig.from_pretrained(str(config.model.path), revision=config.model.revision)
    return context_length(config.model, shape)


def _base_scores(config: TrainConfig, dataset: TokenDataset, device: Any) -> dict[str, Any]:
    """Scores of the base model on the token list, from the cache or measured now."""
    from extes_train.dialogue.files import locked, read_json, write_json
    from extes_train.evaluation.loading import load_base, weights_key
    from extes_train.evaluation.perplexity import token_list_digest

    def measured() -> dict[str, Any]:
        return _score("base model", load_base(config.model, device), dataset, config).as_dict()

    weights = weights_key(config.model)
    if weights is None:
        return measured()
    path = cache_directory() / "base_scores" / f"{weights}-{token_list_digest(dataset.windows)}.json"
    with locked(path.with_suffix(".lock")):
        if not path.is_file():
            write_json(path, measured())
        return dict(read_json(path))


def _score(name: str, model: Any, dataset: TokenDataset, config: TrainConfig) -> Scores:
    from extes_train.evaluation.perplexity import score_responses

    with _progress(f"score {name}", len(dataset.windows), "window") as advance:
        return score_responses(model, dataset, loss=config.loss, advance=advance)


def _data_measures(dialogues: list[Dialogue]) -> dict[str, Any]:
    """Measures of the held-out dialogues themselves, where their turns are labelled."""
    from extes_train.evaluation.strategies import strategy_entropy, strategy_repetition

    measures = {"strategy_entropy": strategy_entropy(dialogues), "strategy_repetition": strategy_repetition(dialogues)}
    return {name: value for name, value in measures.items() if value is not None}


def _generation_measures(
    model: Any, dialogues: list[Dialogue], dataset: TokenDataset, config: TrainConfig, out: Path
) -> dict[str, Any]:
    """Generate, write generations.jsonl, and measure overlap and diversity; nothing where num_responses is 0."""
    from extes_train.dialogue.files import write_text
    from extes_train.evaluation.generation import Generator, generate_responses, pick_contexts

    contexts = pick_contexts(dialogues, config.evaluation.num_responses)
    if not contexts:
        return {"num_responses": 0}
    generator = Generator(model, dataset.template, dataset.report["context_length"], config.evaluation)
    with _progress("generate", len(contexts), "response") as advance:
        answers = generate_responses(generator, contexts, advance)
    lines = [
        {
            "dialogue": context.dialogue_id,
            "turn": context.turn,
            "said": context.before[-1].text,
            "reference": context.reference,
            "response": answer.text,
            "tokens": answer.num_tokens,
            "finished": answer.finished,
        }
        for context, answer in zip(contexts, answers)
    ]
    write_text(out / "generations.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    measures = response_measures([answer.text for answer in answers], [context.reference for context in contexts])
    return measures | {
        "num_responses": len(lines),
        "finished": sum(answer.finished for answer in answers) / len(lines),
        "decoding": f"sampled, temperature {config.evaluation.temperature:g}, top-p {config.evaluation.top_p:g}"
        if config.evaluation.temperature
        else "greedy",
    }


def response_measures(responses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Overlap with the references and diversity of generated responses."""
    from extes_train.evaluation.diversity import distinct, duplicate_share
    from extes_train.evaluation.overlap import METEOR_NAME, bleu, meteor, rouge_l

    meteor_score = meteor(responses, references)
    return {
        **bleu(responses, references),
        "rouge_l": rouge_l(responses, references),
        METEOR_NAME: meteor_score,
        "meteor": meteor_score,
        **{f"distinct{n}": distinct(responses, n) for n in (1, 2, 3)},
        "duplicate_responses": duplicate_share(responses),
    }


@contextmanager
def _progress(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from extes_train.training.progress import Progress

    progress = Progress(name, total, unit=unit)
    try:
        yield lambda count: progress.update(count=count)
    finally:
        progress.close()


def _summary(metrics: dict[str, Any], out: Path) -> str:
    line = f"perplexity {metrics['perplexity']:.3f} (base {metrics['base_perplexity']:.3f})"
    if "bleu4" in metrics:
        line += f", BLEU-4 {metrics['bleu4']:.2f}, ROUGE-L {metrics['rouge_l']:.3f}, METEOR {metrics['meteor']:.3f}"
        line += f", Distinct-2 {metrics['distinct2']:.3f}"
    return f"{line}; written to {out}"


if __name__ == "__main__":
    run_worker(main)
