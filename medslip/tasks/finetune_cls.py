"""Fine-tuning for classification; see finetune.py."""

from __future__ import annotations

from pathlib import Path

from medslip.data.transforms import AugmentationConfig
from medslip.errors import InputError
from medslip.tasks.finetune import ClassificationDataConfig, FinetuneClsConfig, run
from medslip.tasks.run_start import PHANTOM
from medslip.tasks.weights import newest_phantom_checkpoint
from medslip.tasks.zeroshot_cls import ImagesConfig
from medslip.training.engine import TrainConfig
from medslip.training.optim import OptimConfig


def phantom_config(corpus: Path, checkpoint: Path | None, output: Path | None) -> FinetuneClsConfig:
    """A short fine-tuning for two cores, on phantoms on which pre-training did not train."""
    table = corpus / "findings.csv"
    if not table.is_file():
        raise InputError(
            f"{table}: no phantom corpus; make one with: python scripts/make_phantom.py (or: medslip make_phantom)"
        )
    return FinetuneClsConfig(
        checkpoint=checkpoint,
        data=ClassificationDataConfig(
            train=ImagesConfig(kind="table", path=table, split="valid"),
            test=ImagesConfig(kind="table", path=table, split="test"),
            valid_fraction=0.25,
            side=128,
            preload=True,
            workers=0,
        ),
        augmentation=AugmentationConfig(scale_min=0.8, operations=0),
        train=TrainConfig(epochs=4, batch_size=16),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=10),
        output=output,
    )


def embedded_default() -> FinetuneClsConfig:
    """What the script runs without arguments: the newest phantom run's backbone, on phantoms held out from it.

    Raises:
        InputError: There is no phantom run yet.
    """
    newest_phantom_checkpoint()  # without one, nothing else needs to be said
    return phantom_config(PHANTOM, None, None)


COMMAND = (FinetuneClsConfig, run)
