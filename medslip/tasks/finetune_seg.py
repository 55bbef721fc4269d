"""Fine-tuning for segmentation; see finetune.py."""

from __future__ import annotations

from pathlib import Path

from medslip.tasks.finetune import FinetuneSegConfig, SegmentationDataConfig, run
from medslip.tasks.run_start import PHANTOM
from medslip.tasks.weights import newest_phantom_checkpoint
from medslip.training.engine import TrainConfig
from medslip.training.optim import OptimConfig


def phantom_config(corpus: Path, checkpoint: Path | None, output: Path | None) -> FinetuneSegConfig:
    """A short fine-tuning for two cores, on phantoms on which pre-training did not train.

    It segments the heart, which is large: with so few masks, smaller findings are not learnt in a minute.
    """
    return FinetuneSegConfig(
        checkpoint=checkpoint,
        data=SegmentationDataConfig(
            kind="phantom",
            path=corpus,
            pathology="cardiomegaly",
            valid_fraction=0.2,
            test_fraction=0.4,
            side=128,
            preload=True,
            workers=0,
        ),
        bridge=256,
        choose_by="dice_balanced",
        train=TrainConfig(epochs=8, batch_size=16),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=10),
        output=output,
    )


def embedded_default() -> FinetuneSegConfig:
    """What the script runs without arguments: the newest phantom run's backbone, on the phantoms that have masks.

    Raises:
        InputError: There is no phantom run yet.
    """
    newest_phantom_checkpoint()  # without one, nothing else needs to be said
    return phantom_config(PHANTOM, None, None)


COMMAND = (FinetuneSegConfig, run)
