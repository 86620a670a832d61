"""One epoch in a peer's trainer, run by benchmarks/peers.py with the peer's own Python. Imports nothing of ours.

    python peer_worker.py trl|trainer SETTINGS.json

SETTINGS has model, samples (JSON lines of input_ids and labels), out, row, samples_per_step, bf16 and threads. The last
line printed is {"seconds", "targets"}: the trainer's own train_runtime and the labels that it was given.
"""

import json
import math
import sys


def main(peer, path):
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    import torch

    torch.set_num_threads(settings["threads"])
    with open(settings["samples"], encoding="utf-8") as file:
        samples = [json.loads(line) for line in file]
    seconds = {"trl": with_trl, "trainer": with_trainer}[peer](settings, samples)
    targets = sum(sum(label != -100 for label in sample["labels"]) for sample in samples)
    print(json.dumps({"seconds": seconds, "targets": targets}))


def model_of(settings):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)


def arguments(settings, batch, accumulation):
    return {
        "output_dir": settings["out"], "num_train_epochs": 1, "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation, "learning_rate": 1e-4, "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused", "bf16": settings["bf16"], "use_cpu": True, "report_to": [], "save_strategy": "no",
        "logging_steps": 10_000, "seed": 0, "disable_tqdm": True, "gradient_checkpointing": False,
    }  # fmt: skip


def with_trainer(settings, samples):
    """Hugging Face's Trainer: batches padded to their longest sample."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = min(8, settings["samples_per_step"])
    given = TrainingArguments(**arguments(settings, batch, max(1, settings["samples_per_step"] // batch)))
    trainer = Trainer(
        model=model_of(settings), args=given, train_dataset=samples, data_collator=DataCollatorForSeq2Seq(tokenizer)
    )
    return trainer.train().metrics["train_runtime"]


def with_trl(settings, samples):
    """TRL's SFTTrainer: samples packed (best fit) into rows."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    # TRL makes labels of the mask; a first token is never predicted, so nothing is lost by shifting inside the model
    rows = {
        "input_ids": [sample["input_ids"] for sample in samples],
        "completion_mask": [[int(label != -100) for label in sample["labels"]] for sample in samples],
    }
    tokens = sum(map(len, rows["input_ids"]))
    accumulation = max(1, math.ceil(tokens / len(samples) * settings["samples_per_step"] / settings["row"]))
    given = SFTConfig(
        **arguments(settings, 1, accumulation), packing=True, max_length=settings["row"], completion_only_loss=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model_of(settings), args=given, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer
    )
    return trainer.train().metrics["train_runtime"]


if __name__ == "__main__":
    main(*sys.argv[1:])
