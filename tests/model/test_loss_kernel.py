"""loss.kernel: which softmax is taken and why; and our side of liger-kernel's, with a package of its name that computes
with torch. The real kernel is held against fp64 by benchmarks/loss_kernel.py, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from model.rows_by_hand import tiny_llama

from extes_train.errors import ConfigError
from extes_train.model import nll
from extes_train.model.attention import use_attention
from extes_train.model.config import GPU_LOGITS_BYTES, LoraConfig, LossConfig, chunk_size
from extes_train.model.loss import LinearCrossEntropy, describe_loss
from extes_train.model.nll import choose_kernel, liger_nll, nll_kernel, torch_nll, trial
from extes_train.model.tuning import apply_tuning

CPU, NO_SUCH_GPU = torch.device("cpu"), torch.device("cuda:99")
MODULE = "liger_kernel.ops.backends._triton.cross_entropy"
# with the signature of 0.8.3 to 0.8.5
PACKAGE = """
import torch

calls = []

def cross_entropy_loss_and_grad_triton(
    logits_chunk, target_chunk, ce_weight, ignore_index, lse_square_scale, label_smoothing, reduction, softcap,
    n_non_ignore, sum_non_ignore_weight, weight_sum, return_z_loss, return_token_accuracy, return_predicted_tokens,
    has_gradients, *, mode=None,
):
    assert has_gradients and reduction == "none" and ce_weight is None and softcap is None
    assert label_smoothing == lse_square_scale == 0.0 and target_chunk.is_contiguous() and logits_chunk.stride(1) == 1
    calls.append(len(target_chunk))
    log_p = logits_chunk.float().log_softmax(1)
    loss = -log_p.gather(1, target_chunk[:, None])[:, 0]
    one = torch.zeros_like(log_p).scatter_(1, target_chunk[:, None], 1.0)
    logits_chunk.copy_(log_p.exp() - ONE * one)
    return loss, None, None, None, logits_chunk
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Installs the package: `installed(release, one)`; a `one` other than 1 is a gradient that is wrong."""

    def forget() -> None:
        nll.choose_kernel.cache_clear()
        nll.liger_obstacle.cache_clear()
        nll._liger_function.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "liger_kernel"]:
            del sys.modules[name]

    def install(release: str = "0.8.5", one: float = 1.0) -> Any:
        folder = tmp_path / release / str(one)
        module = folder.joinpath(*MODULE.split(".")).with_suffix(".py")
        module.parent.mkdir(parents=True)
        module.write_text(f"{PACKAGE}\nONE = {one}\n")
        described = folder / f"liger_kernel-{release}.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: liger_kernel\nVersion: {release}\n")
        monkeypatch.syspath_prepend(str(folder))
        forget()
        return importlib.import_module(MODULE)

    yield install
    forget()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("targets", "chunk"), [(13, 5), (13, 13), (1, 4), (0, 4)])
def test_the_loss_through_liger_is_that_through_torch(
    installed: Callable[..., Any], dtype: torch.dtype, targets: int, chunk: int
) -> None:
    module = installed()
    torch.manual_seed(0)
    inputs = [x.to(dtype) for x in (torch.randn(targets, 16), torch.randn(211, 16), torch.randn(211))]
    labels, weights = torch.randint(211, (targets,)), torch.rand(targets) * (torch.arange(targets) % 3 > 0)
    found = []
    for kernel in (torch_nll, liger_nll):
        leaves = [x.clone().requires_grad_() for x in inputs]
        loss, nll_sum = LinearCrossEntropy.apply(*leaves, labels, weights, chunk, kernel)
        found.append([loss.detach(), nll_sum, *torch.autograd.grad(loss, leaves)])
    assert sum(module.calls) == targets and max(module.calls, default=0) <= chunk
    for got, want in zip(found[1], found[0], strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)


def test_auto_is_torch_without_a_gpu_and_liger_is_refused() -> None:
    assert choose_kernel("torch", CPU) == choose_kernel("torch", NO_SUCH_GPU) == ("torch", "loss.kernel")
    assert choose_kernel("auto", CPU) == ("torch", "liger-kernel needs a GPU, not cpu")
    assert nll_kernel("auto", CPU) is nll_kernel("torch", CPU) is torch_nll
    with pytest.raises(ConfigError, match=r"loss\.kernel=liger: liger-kernel needs a GPU, not cpu; use auto or torch"):
        nll_kernel("liger", CPU)
    with pytest.raises(ConfigError, match=r"loss\.kernel='lieger': must be one of auto, torch, liger"):
        LossConfig(kernel="lieger")


@pytest.mark.parametrize("release", ["0.8.2", "0.9.0", "1.0"])
def test_a_release_with_another_interface_is_not_taken(installed: Callable[..., Any], release: str) -> None:
    installed(release)
    name, why = choose_kernel("auto", NO_SUCH_GPU)
    assert name == "torch" and why == f"liger-kernel {release}: must be at least 0.8.3 and below 0.9"


def test_the_releases_are_those_of_setup_py() -> None:
    text = (Path(__file__).resolve().parents[2] / "setup.py").read_text(encoding="utf-8")
    low, high = (".".join(map(str, release)) for release in (nll.LIGER_FROM, nll.LIGER_BELOW))
    assert f'"liger-kernel>={low},<{high}"' in text


def test_a_kernel_that_fails_or_is_wrong_is_not_taken(installed: Callable[..., Any]) -> None:
    installed()
    assert trial(CPU) is None
    name, why = choose_kernel("auto", NO_SUCH_GPU)
    assert name == "torch" and why.startswith("liger-kernel fails here (")
    with pytest.raises(ConfigError, match=r"loss\.kernel=liger: liger-kernel fails here \("):
        choose_kernel("liger", NO_SUCH_GPU)
    installed("0.8.4", one=0.5)
    assert trial(CPU) == "liger-kernel computes something else than torch here"


def test_what_was_chosen_is_said() -> None:
    model = tiny_llama()
    use_attention(model, "auto")
    assert describe_loss(model, LossConfig(), CPU) == (
        "torch, 1,024 targets at a time (liger-kernel needs a GPU, not cpu)"
    )
    assert describe_loss(model, LossConfig(kernel="torch", chunk_tokens=7), CPU) == (
        "torch, 7 targets at a time (loss.kernel)"
    )
    adapted = apply_tuning(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    use_attention(adapted, "auto")
    assert describe_loss(adapted, LossConfig(), CPU) == "torch, 1,024 targets at a time (an adapter on the head)"
    with pytest.raises(ConfigError, match=r"loss\.kernel=liger: an adapter on the head"):
        describe_loss(adapted, LossConfig(kernel="liger"), CPU)
    use_attention(model, "stock")
    assert describe_loss(model, LossConfig(), CPU) == "torch, all targets of a row at once (model.attention=stock)"


def test_a_chunk_on_a_gpu_is_as_large_as_its_logits_allow() -> None:
    assert chunk_size(7, True, 32_000, 2) == chunk_size(7, False, 32_000, 2) == 7
    assert chunk_size(None, False, 512, 4) == chunk_size(None, False, 128_256, 4) == 1024
    assert chunk_size(None, True, 32_000, 2) == 8192 and chunk_size(None, True, 128_256, 2) == 2048
    for vocabulary in (512, 32_000, 128_256, 256_000):
        for bytes_per_logit in (2, 4, 10):
            size = chunk_size(None, True, vocabulary, bytes_per_logit)
            assert size == 256 or size * vocabulary * bytes_per_logit <= GPU_LOGITS_BYTES < 2 * size * (
                vocabulary * bytes_per_logit
            )
