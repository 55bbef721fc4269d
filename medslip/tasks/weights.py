"""Which weights a task works with: a checkpoint of ours, the authors' file, or the newest that matches a pattern."""

from __future__ import annotations

from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

from medslip.checkpoints import Checkpoint, load_authors, load_checkpoint
from medslip.errors import InputError
from medslip.model.text_encoder import TextConfig
from medslip.vocabulary import ANATOMIES, load_prompts


@dataclass(frozen=True)
class AuthorsConfig:
    """How to read the authors' .pth, which holds no prompts; our own checkpoints need none of this.

    Attributes:
        text: Its text encoder.
        pathology_prompts: The authors' "observation explanation.json", with which the weights were trained.
        anatomy_prompts: JSON file of 51 location texts; None takes the authors' form, "It is located at left_hilar."
    """

    text: TextConfig = field(default_factory=lambda: TextConfig(sep=False))
    pathology_prompts: Path | None = None
    anatomy_prompts: Path | None = None


def open_weights(path: Path, authors: AuthorsConfig) -> Checkpoint:
    """Open a checkpoint: .safetensors is ours, .pth and .pt the authors'.

    Raises:
        InputError: The file cannot be used.
    """
    if path.suffix not in (".pth", ".pt"):
        return load_checkpoint(path)
    if authors.pathology_prompts is None:
        raise InputError(
            f"{path}: the authors' weights need the prompts that they were trained with; give the authors' \"observation "
            'explanation.json" as --authors.pathology_prompts'
        )
    prompts = load_prompts(authors.pathology_prompts, authors.anatomy_prompts)
    anatomy = prompts.anatomy if authors.anatomy_prompts else [f"It is located at {name}." for name in ANATOMIES]
    return load_authors(path, prompts.pathology, anatomy, authors.text)


def newest(pattern: Path) -> Path:
    """The newest file that matches a pattern such as ``runs/*/best.safetensors``; a path without * is returned unchanged.

    Raises:
        InputError: No file matches.
    """
    if "*" not in str(pattern):
        return pattern
    found = sorted(map(Path, glob(str(pattern))), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"checkpoint: no file matches {pattern}")
    return found[-1]
