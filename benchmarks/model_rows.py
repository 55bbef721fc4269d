"""Rows of run.py for the model: a training step, its memory, a zero-shot batch, and the losses by themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from rows import Row, interleaved, peak_memory
from torch import Tensor, nn

from medslip.data.loading import Batch
from medslip.data.preprocessing import Preprocessing
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.predictor import folded
from medslip.training.criterion import Criterion, LossConfig, loss_terms
from medslip.training.objective import Objective
from medslip.training.optim import OptimConfig, make_optimizer

SIDE, QUERIES = 224, (75, 51)
SETUP = "import sys; sys.path.insert(0, 'benchmarks'); import model_rows"


def make_model() -> MeDSLIP:
    """The default model, ResNet-50, in channels_last."""
    torch.manual_seed(0)
    model = MeDSLIP(ModelConfig(), *(torch.randn(number, 768) for number in QUERIES))
    return model.to(memory_format=torch.channels_last)


def make_labels(images: int) -> Tensor:
    """Label matrices with about 14 queries per image that have a present counterpart, as in reports."""
    drawn = torch.rand((images, 51, 75), generator=torch.Generator().manual_seed(0))
    return (-1 + 2 * (drawn < 0.0019).to(torch.int8) + ((drawn > 0.0019) & (drawn < 0.0039)).to(torch.int8)).to(
        torch.int8
    )


def make_images(images: int) -> Tensor:
    """Normalised input in channels_last."""
    return torch.randn(images, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)


def training(images: int = 16) -> Callable[[], object]:
    """A step of the whole model: losses, gradients, clipping and AdamW."""
    objective = Objective(make_model(), Criterion(loss_terms(LossConfig())), Preprocessing(SIDE).normalise)
    optimizer = make_optimizer(objective, OptimConfig())
    grey = torch.randint(0, 256, (images, 1, SIDE, SIDE), dtype=torch.uint8)
    batch = Batch(grey, torch.arange(images), make_labels(images))

    def step() -> None:
        objective(batch, objective.counts(batch), torch.Generator())[0].backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def trunk_training(images: int = 16) -> Callable[[], object]:
    """Forward and backward of the bare trunk."""
    trunk, batch = make_model().image_encoder.trunk, make_images(images)

    def step() -> None:
        trunk(batch).sum().backward()
        trunk.zero_grad(set_to_none=True)

    return step


def training_step() -> list[Row]:
    """A training step beside the bare trunk's forward and backward."""
    taken = interleaved({"step": training(), "trunk": trunk_training()}, repeats=5)
    beside = f"the bare trunk's forward and backward: {taken['trunk']:.2f} s"
    return [Row("training step, ResNet-50, batch 16", taken["step"] / taken["trunk"], 1.40, "x", beside)]


def training_memory() -> list[Row]:
    """Memory of a training step beside that of the trunk; the second step, in which AdamW has its state."""
    step, trunk = (
        peak_memory(SETUP, f"step = model_rows.{work}(); step(); step()") for work in ("training", "trunk_training")
    )
    return [Row("peak memory of a training step", step / trunk, 1.40, "x", f"the bare trunk: {trunk:,.0f} MB")]


def zero_shot() -> list[Row]:
    """What Predictor.classify computes of a batch, beside the trunk in channels_last."""
    trunk, images = make_model().eval().image_encoder.trunk, make_images(16)
    models = {"": make_model().to(memory_format=torch.contiguous_format).eval(), ", fast": folded(make_model())}
    with torch.inference_mode():
        of_model = {name: partial(model.predict, images.contiguous()) for name, model in models.items()}
        taken = interleaved({**of_model, "trunk": lambda: trunk(images)}, repeats=9)
    beside = f"the trunk in channels_last: {taken['trunk']:.2f} s"
    return [Row(f"zero-shot batch{name}", taken[name] / taken["trunk"], 1.25, "x", beside) for name in models]


class _NoTrunk(nn.Module):
    def forward(self, images: Any) -> Any:
        """No patches."""
        return SimpleNamespace(pathology=None, anatomy=None)


def losses_step() -> Callable[[], object]:
    """All heads and losses, forward and backward, from the decoders' features of 64 images; dropout on."""
    torch.set_num_threads(1)
    model, criterion, labels = make_model(), Criterion(loss_terms(LossConfig())), make_labels(64)
    model.image_encoder = _NoTrunk()  # type: ignore[assignment]
    features = [torch.randn(64, number, 256, requires_grad=True) for number in QUERIES]

    def step() -> None:
        decoded = iter(features)
        model._query = lambda *_: (next(decoded), None)  # type: ignore[method-assign]
        criterion(model(torch.empty(0)), labels)[0].backward()

    return step


def losses() -> list[Row]:
    """Time and memory of the losses, in one thread."""
    threads = torch.get_num_threads()
    seconds = interleaved({"losses": losses_step()}, repeats=15)["losses"]
    torch.set_num_threads(threads)
    memory = peak_memory(f"{SETUP}; step = model_rows.losses_step()", "step()")
    return [
        Row("losses from decoder features, batch 64, one thread", 1000 * seconds, 80, "ms"),
        Row("their memory", memory, 100, "MB"),
    ]


ROWS: dict[str, Callable[[], list[Row]]] = {
    "training_step": training_step,
    "training_memory": training_memory,
    "zero_shot": zero_shot,
    "losses": losses,
}
