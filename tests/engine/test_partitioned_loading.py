"""Under ZeRO-3 weights are read into partitions, tuned there, and train like whole ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.test_zero import backward_pass, step_rows
from model.rows_by_hand import tiny_llama
from support import gloo_run

from extes_train.config import TrainConfig
from extes_train.engine.config import DistributedConfig, OptimConfig, ZeroConfig
from extes_train.errors import UserError
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import AdapterConfig, DoraConfig, FullConfig, LoraConfig, ModelConfig, TuningConfig

TUNINGS: dict[str, TuningConfig] = {
    "full": FullConfig(), "lora": LoraConfig(r=4), "dora": DoraConfig(r=4), "adapter": AdapterConfig(adapter_len=3)
}  # fmt: skip
# case: folder, tuning, further settings of the model
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{tuning: ("plain", tuning, {}) for tuning in ("full", "dora", "adapter")},
    **{f"{tuning} bf16": ("plain", tuning, {"dtype": "bf16"}) for tuning in ("full", "dora")},
    "lora, random": ("plain", "lora", {"random_weights": True, "gradient_checkpointing": True}),
    "lora, sharded, offloaded": ("sharded", "lora", {}),
    "full, tied": ("tied", "full", {}),
    "full, other names": ("unprefixed", "full", {}),
}
STEPS, SAVED, LR = 3, 1, 3e-3
# rounding to bf16 after a sum in another order moves a weight by 2^-8 of itself; few of them, by one step
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}


def config_for(folder: Path | str, stage: int, tuning: str, **model: Any) -> TrainConfig:
    zero = ZeroConfig(
        stage=stage, stage3_param_persistence_threshold=0, stage3_max_live_parameters=0, stage3_max_reuse_distance=0
    )
    return TrainConfig(
        model=ModelConfig(name="llama", path=str(folder), **model), tuning=TUNINGS[tuning], zero=zero,
        optim=OptimConfig(lr=LR),
    )  # fmt: skip


def train(engine: Any, group: Any, steps: range) -> list[float]:
    """The losses of the steps."""
    losses = []
    for step in steps:
        rows = [row_batch_from_arrays(row) for row in step_rows(step)[group.rank]]
        losses.append(backward_pass(engine, group, rows))
        engine.step(LR)
    return losses


def arrays(engine: Any) -> dict[str, Any]:
    """The weights that move; NumPy's travel between processes without the sender having to live on."""
    return {name: weight.float().numpy() for name, weight in (engine.full_state_dict() or {}).items()}


def held(engine: Any) -> tuple[int, int]:
    """Elements that parameters hold themselves, and those in this rank's partitions."""
    parameters = list(engine.model.parameters())
    parts = sum(p.ds_tensor.numel() if hasattr(p, "ds_tensor") else p.numel() for p in parameters)
    return sum(p.numel() for p in parameters), parts


def run_case(name: str, stage: int, folder: Path, group: Any) -> dict[str, Any]:
    """Train; at stage 3 save on the way, export, and train to the same end in a second engine."""
    from extes_train.model.saving import save_final
    from extes_train.training.assembly import build_training_engine

    source, tuning, model = CASES[name]
    config, out = config_for(folder / source, stage, tuning, **model), folder / f"{stage} {name}"
    if "offloaded" in name and stage == 3:
        config = replace(config, zero=replace(config.zero, offload_parameters="cpu", offload_optimizer="cpu"))
    engine, counts = build_training_engine(config, group)
    found = {"counts": counts, "held": held(engine), "start": arrays(engine)}
    found["losses"] = train(engine, group, range(SAVED))
    if stage == 3:
        engine.save(out, "engine")
    found["losses"] += train(engine, group, range(SAVED, STEPS))
    state, found["end"] = engine.full_state_dict(), arrays(engine)
    if state is not None and stage == 3:
        save_final(engine.model, state, None, config, out / "model", {})
    group.barrier()
    engine.close()
    if stage == 3:
        again, _ = build_training_engine(config, group)
        again.load(out, "engine")
        found["resumed"] = train(again, group, range(SAVED, STEPS))
        again.close()
    return found


def on_rank(folder: str) -> dict[str, Any]:
    """Every case at stages 2 and 3; then the first rank alone loads what was saved."""
    from transformers import AutoModelForCausalLM

    from extes_train.engine.process_group import process_group

    found: dict[str, Any] = {}
    with process_group(DistributedConfig(timeout_s=60)) as group:
        for name in CASES:
            for stage in (2, 3):
                found[f"{stage} {name}"] = run_case(name, stage, Path(folder), group)
        if group.is_first:  # nothing is left registered: a rank alone may load
            model = AutoModelForCausalLM.from_pretrained(Path(folder) / "3 full" / "model")
            found["alone"] = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
            found["generation"] = model.generation_config.max_new_tokens
        group.barrier()
    return found


def write_models(folder: Path) -> None:
    """The same weights as they are, tied, in several files, and with names that transformers converts."""
    from safetensors.torch import load_file, save_file

    model = tiny_llama(seed=5)
    model.generation_config.max_new_tokens = 17
    model.save_pretrained(folder / "plain")
    tiny_llama(seed=5, tie_word_embeddings=True).save_pretrained(folder / "tied")
    model.save_pretrained(folder / "sharded", max_shard_size="20KB")
    assert len(list((folder / "sharded").glob("*.safetensors"))) > 2
    shutil.copytree(folder / "plain", folder / "unprefixed")
    file = folder / "unprefixed" / "model.safetensors"
    save_file({name.removeprefix("model."): w for name, w in load_file(file).items()}, file, {"format": "pt"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("partitioned")
    write_models(folder)
    return gloo_run(on_rank, 2, str(folder))


@pytest.mark.parametrize("name", CASES)
def test_partitioned_weights_train_like_whole_ones(name: str, trained: list[dict[str, Any]]) -> None:
    _, tuning, model = CASES[name]
    tolerance = TOLERANCE[model.get("dtype", "fp32")]
    for rank in trained:
        whole, parts = rank[f"2 {name}"], rank[f"3 {name}"]
        assert parts["losses"] == pytest.approx(whole["losses"], rel=tolerance)
        assert parts["resumed"] == parts["losses"][SAVED:]
        assert parts["counts"] == whole["counts"]
        everything = parts["counts"]["parameters"]
        assert parts["held"][0] == 0 and everything / 2 <= parts["held"][1] < 0.52 * everything
    whole, parts = trained[0][f"2 {name}"], trained[0][f"3 {name}"]
    assert whole["start"].keys() == whole["end"].keys() == parts["start"].keys() == parts["end"].keys()
    for key, weight in whole["start"].items():  # magnitudes and first adapters too
        np.testing.assert_array_equal(parts["start"][key], weight, err_msg=key)
    for key, weight in whole["end"].items():
        difference = np.linalg.norm(parts["end"][key] - weight) / np.linalg.norm(weight)
        # the adapter's gate is one number near 0, a sum of thousands of terms that cancel
        assert difference <= tolerance * (10 if weight.size == 1 else 1), f"{key}: {difference:.1e}"
        assert tuning == "full" or not np.array_equal(weight, whole["start"][key]), key


def test_what_was_trained_in_parts_opens_on_one_rank_alone(trained: list[dict[str, Any]]) -> None:
    alone, end = trained[0]["alone"], trained[0]["3 full"]["end"]
    assert alone.keys() == end.keys()
    for name, weight in alone.items():
        np.testing.assert_array_equal(end[name], weight, err_msg=name)
    assert trained[0]["generation"] == 17  # of the folder that was tuned


def refusals_on_rank(folders: list[str]) -> list[str]:
    """What each folder is refused with on this rank; `{rank}` in a name stands for its number."""
    from extes_train.engine.partitioned_loading import _read_weights, load_partitioned
    from extes_train.engine.process_group import process_group
    from extes_train.model.weight_files import StoredWeight, stored_weights
    from extes_train.training.assembly import build_training_engine

    said = []
    with process_group(DistributedConfig(timeout_s=60)) as group:
        for folder in folders:
            with pytest.raises(UserError) as caught:
                build_training_engine(config_for(folder.format(rank=group.rank), 3, "full"), group)
            said.append(f"{type(caught.value).__name__}: {caught.value}")
        good = folders[0].format(rank=0)
        model = load_partitioned(config_for(good, 3, "full"), group)
        stored = stored_weights(good, None)
        stored["model.norm.weight"] = StoredWeight(f"{good}/gone.safetensors", (32,))
        with pytest.raises(UserError) as caught:  # a file that goes away while it is read, by the first rank alone
            _read_weights(model, stored, good, group)
        said.append(f"{type(caught.value).__name__}: {caught.value}")
        assert group.gather(group.rank) == [0, 1]  # nobody waits for anybody
    return said


def test_every_rank_refuses_with_the_same_words(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_llama(seed=5).save_pretrained(tmp_path / "rank0")  # rank 1 has no such folder
    weights = load_file(tmp_path / "rank0" / "model.safetensors")
    for name, changes in {
        "missing": {"model.norm.weight": None},
        "mismatched": {"model.norm.weight": weights["model.norm.weight"][:-1].clone()},
    }.items():
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "rank0" / "config.json", tmp_path / name)
        kept = {key: weight for key, weight in (weights | changes).items() if weight is not None}
        save_file(kept, tmp_path / name / "model.safetensors", {"format": "pt"})
    shutil.copytree(tmp_path / "rank0", tmp_path / "torn")
    whole = (tmp_path / "torn" / "model.safetensors").read_bytes()
    (tmp_path / "torn" / "model.safetensors").write_bytes(whole[:-100])
    messages = {
        "rank{rank}": "rank1: no such folder", "missing": "missing keys: model.norm.weight",
        "mismatched": "the weights cannot be loaded", "torn": "the weights cannot be loaded",
    }  # fmt: skip
    first, second = gloo_run(refusals_on_rank, 2, [str(tmp_path / name) for name in messages])
    assert first == second
    for said, message in zip(first, [*messages.values(), "model.norm.weight cannot be read"], strict=True):
        assert message in said
