"""One epoch in a peer's trainer, run by benchmarks/peers.py with the peer's own Python. Imports nothing of ours.

    python peer_worker.py trl|trainer|llamafactory SETTINGS.json RESULT.json

SETTINGS has model, samples (JSON lines of input_ids and labels), out, row, longest, steps, bf16, threads and progress.
RESULT gets the trainer's own seconds of training and what was measured inside it: the targets and positions that
reached its loss, its optimizer steps, the dtypes of the first linear layer. `progress` is a file that says when
training began and how far it is.
"""

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

LINE_EVERY_S = 10.0  # between lines of progress


def main(peer, settings_path, result_path):
    with open(settings_path, encoding="utf-8") as file:
        settings = json.load(file)
    import torch

    torch.set_num_threads(settings["threads"])
    shutil.rmtree(settings["out"], ignore_errors=True)
    with open(settings["samples"], encoding="utf-8") as file:
        samples = [json.loads(line) for line in file]
    train = {"trl": with_trl, "trainer": with_trainer, "llamafactory": with_llamafactory}[peer]
    seen = Seen()
    seconds = train(settings, samples, seen)
    result = {"seconds": seconds, **vars(seen), "torch_threads": torch.get_num_threads(), "versions": versions()}
    with open(result_path, "w", encoding="utf-8") as file:
        json.dump(result, file)


def versions():
    found = {}
    for name in ("torch", "transformers", "accelerate", "trl", "llamafactory"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class Seen:
    """What is measured while the trainer trains, beside its seconds."""

    def __init__(self):
        self.targets = 0  # labels that are not -100 in what compute_loss is given, the first of a row left out
        self.positions = 0  # tokens and padding
        self.micro_batches = 0
        self.steps = 0
        self.settings = ""

    def count(self, owner):
        """Wrap compute_loss of `owner`, a trainer or the class of one."""
        inner = owner.compute_loss

        def counting(*args, **kwargs):
            inputs = next(x for x in (*args, *kwargs.values()) if isinstance(x, Mapping) and "labels" in x)
            labels = inputs["labels"]
            self.targets += int((labels[:, 1:] != -100).sum())  # position 0 has no predictor
            self.positions += labels.numel()
            self.micro_batches += 1
            return inner(*args, **kwargs)

        owner.compute_loss = counting


def watching(seen, path):
    """A callback that writes `path`, prints lines of progress and notes dtypes and attention of the first pass."""
    from transformers import TrainerCallback

    class Watching(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **rest):
            import torch

            self.began = self.said = time.time()
            self.write(0, state.max_steps)
            seen.attention = model.config._attn_implementation
            linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))

            def note(module, _inputs, output):
                seen.linear = {"weight": str(module.weight.dtype), "output": str(output.dtype)}
                handle.remove()

            handle = linear.register_forward_hook(note)

        def on_step_end(self, args, state, control, **rest):
            seen.steps = state.global_step
            self.write(state.global_step, state.max_steps)
            if time.time() - self.said > LINE_EVERY_S:
                self.said = time.time()
                print(f"step {state.global_step}/{state.max_steps} {self.said - self.began:.0f} s", flush=True)

        def write(self, step, steps):
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"began": self.began, "step": step, "steps": steps, "now": time.time()}, file)

    return Watching()


def model_of(settings):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32, attn_implementation="sdpa")


def tokenizer_of(settings):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def accumulation_of(settings, micro_batches):
    """Micro-batches in an optimizer step, for as many steps as ours takes."""
    return math.ceil(micro_batches / settings["steps"])


def arguments(settings, batch, accumulation):
    """AdamW and the step, the same for all. bf16 is autocast over fp32 weights, their usual way."""
    return {
        "output_dir": settings["out"], "num_train_epochs": 1, "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation, "learning_rate": 1e-4, "lr_scheduler_type": "cosine",
        "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch_fused", "bf16": settings["bf16"],
        "use_cpu": True, "report_to": [], "save_strategy": "no", "logging_steps": 10_000, "seed": 0,
        "disable_tqdm": True,
    }  # fmt: skip


def with_trainer(settings, samples, seen):
    """Hugging Face's Trainer: batches padded to their longest sample."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    tokenizer = tokenizer_of(settings)
    batch = min(8, math.ceil(len(samples) / settings["steps"]))
    accumulation = accumulation_of(settings, math.ceil(len(samples) / batch))
    given = TrainingArguments(**arguments(settings, batch, accumulation), gradient_checkpointing=False)
    trainer = Trainer(
        model=model_of(settings), args=given, train_dataset=samples, data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[watching(seen, settings["progress"])],
    )  # fmt: skip
    seen.count(trainer)
    seen.settings = f"batches of {batch}, padded to their longest, x {accumulation}"
    return trainer.train().metrics["train_runtime"]


def with_trl(settings, samples, seen):
    """TRL's SFTTrainer: samples packed (best fit) into rows, documents kept apart by positions."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer, pack_dataset

    columns = {"input_ids": [s["input_ids"] for s in samples], "labels": [s["labels"] for s in samples]}
    accumulation = accumulation_of(settings, len(pack_dataset(Dataset.from_dict(columns), settings["row"], "bfd")))
    given = SFTConfig(
        **arguments(settings, 1, accumulation), packing=True, packing_strategy="bfd", max_length=settings["row"],
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model_of(settings), args=given, train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer_of(settings), callbacks=[watching(seen, settings["progress"])],
    )  # fmt: skip
    seen.count(trainer)
    seen.settings = f"packing_strategy={given.packing_strategy}, loss_type={given.loss_type}, rows x {accumulation}"
    return trainer.train().metrics["train_runtime"]


def with_llamafactory(settings, samples, seen):
    """LLaMA-Factory's own packing (neat_packing) of our ids and labels, its `run_exp` on the result."""
    from datasets import Dataset, DatasetDict
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
    from llamafactory.train.tuner import run_exp

    # its rows are cutoff_len long and take samples of at most cutoff_len - 1
    row = max(settings["row"], 8 * math.ceil((settings["longest"] + 1) / 8))
    packed = llamafactory_rows(tokenizer_of(settings), samples, row)
    tokenized = settings["out"] + "-tokenized"
    shutil.rmtree(tokenized, ignore_errors=True)
    DatasetDict({"train": Dataset.from_dict(packed)}).save_to_disk(tokenized)
    accumulation = accumulation_of(settings, len(packed["input_ids"]))
    seen.count(CustomSeq2SeqTrainer)
    seen.settings = f"neat_packing, flash_attn=sdpa, tokenized_path, rows of {row} x {accumulation}"
    run_exp(
        {
            **arguments(settings, 1, accumulation), "stage": "sft", "do_train": True, "finetuning_type": "full",
            "model_name_or_path": settings["model"], "dataset": "samples", "tokenized_path": tokenized,
            "template": "empty", "cutoff_len": row, "neat_packing": True, "flash_attn": "sdpa",
            "disable_gradient_checkpointing": True, "report_to": "none",
        },
        callbacks=[watching(seen, settings["progress"])],
    )  # fmt: skip
    with open(settings["out"] + "/train_results.json", encoding="utf-8") as file:
        return json.load(file)["train_runtime"]


def llamafactory_rows(tokenizer, samples, row):
    """Columns of packed rows, made by LLaMA-Factory's processor from ids and labels instead of from text."""
    from llamafactory.data.processor.supervised import PackedSupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments

    class Tokenised(PackedSupervisedDatasetProcessor):
        def _encode_data_example(self, prompt, response, **rest):
            return prompt[0], response[0]

    given = DataArguments(neat_packing=True, cutoff_len=row)
    processor = Tokenised(template=None, tokenizer=tokenizer, processor=None, data_args=given)
    columns = {}
    for start in range(0, len(samples), given.preprocessing_batch_size):
        part = samples[start : start + given.preprocessing_batch_size]
        examples = dict.fromkeys(("_system", "_tools", "_images", "_videos", "_audios"), [None] * len(part))
        examples |= {"_prompt": [[s["input_ids"]] for s in part], "_response": [[s["labels"]] for s in part]}
        for name, values in processor.preprocess_dataset(examples).items():
            columns.setdefault(name, []).extend(values)
    return columns


if __name__ == "__main__":
    main(*sys.argv[1:])
