"""Which weights a task works with: a checkpoint of ours, the published file, or the newest phantom run's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medslip.checkpoints import Checkpoint, load_checkpoint, load_published_checkpoint
from medslip.errors import InputError
from medslip.model.text_encoder import TextConfig
from medslip.tasks.run_start import RUNS
from medslip.vocabulary import ANATOMIES, load_prompts


@dataclass(frozen=True)
class PublishedConfig:
    """How to read the published .pth, which holds no prompts; a checkpoint of ours needs none of this.

    Attributes:
        text: Its text encoder.
        pathology_prompts: The authors' "observation explanation.json", which the weights were trained with.
        anatomy_prompts: JSON file of 51 location texts; None takes the published form, "It is located at left_hilar."
    """

    text: TextConfig = field(default_factory=lambda: TextConfig(sep=False))
    pathology_prompts: Path | None = None
    anatomy_prompts: Path | None = None


def open_weights(path: Path, published: PublishedConfig) -> Checkpoint:
    """Open a checkpoint: .safetensors is ours, .pth and .pt the published form.

    Raises:
        InputError: The file cannot be used.
    """
    if path.suffix in (".pth", ".pt"):
        if published.pathology_prompts is None:
            raise InputError(
                f"{path}: published weights answer to the prompts that they were trained with; give the authors' \"observation "
                'explanation.json" as --published.pathology_prompts'
            )
        prompts = load_prompts(published.pathology_prompts, published.anatomy_prompts)
        anatomy = prompts.anatomy if published.anatomy_prompts else [f"It is located at {name}." for name in ANATOMIES]
        return load_published_checkpoint(path, prompts.pathology, anatomy, published.text)
    return load_checkpoint(path)


def newest_phantom_checkpoint() -> Path:
    """The best checkpoint of the newest phantom run.

    Raises:
        InputError: There is none; the message names the command that makes one.
    """
    found = sorted(RUNS.glob("phantom*/pretrain/best.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"no phantom run below {RUNS}/ yet; make one with: python scripts/demo.py (or: medslip demo)")
    return found[-1]
