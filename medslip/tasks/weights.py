"""The model that a task evaluates: a checkpoint of ours, the authors' file, or the newest that matches a pattern."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Self

from medslip.checkpoints import AUTHORS_SUFFIXES, Checkpoint, load_authors, load_checkpoint
from medslip.errors import InputError, check_at_least
from medslip.evaluation.tables import Patients
from medslip.model.text_encoder import TextConfig
from medslip.model.weights import read_torch
from medslip.predictor import Predictor
from medslip.run_dir import RUNS, check_unused, timestamp
from medslip.training.distributed import Device
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


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Evaluate a model.

    Attributes:
        checkpoint: The weights: a file, the directory of a pre-training run, or a repository on the Hugging Face Hub
            (owner/name); or the authors' .pth. A pattern such as runs/*/best.safetensors takes the newest file that matches.
        authors: How to read the authors' .pth.
        resamples: Bootstrap resamples of patients.
        seed: Random seed of the resamples, and of patients that are set aside.
        patients: How predictions.csv and the run page name patients: "hash" gives each a name that does not tell who it is;
            "keep" uses the data set's own.
        batch_size: Images per batch.
        workers: Processes that decode images.
        device: Where to compute.
        fast: Whether to save a sixth of the model's time on a CPU, with predictions that differ by rounding; see ``Predictor``.
        output: The run directory; None for runs/TASK/DATE-TIME.
    """

    checkpoint: Path
    authors: AuthorsConfig = field(default_factory=AuthorsConfig)
    resamples: int = 1000
    seed: int = 0
    patients: Patients = "hash"
    batch_size: int = 64
    workers: int = 2
    device: Device = "auto"
    fast: bool = False
    output: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(self, resamples=0, seed=0, batch_size=1, workers=0)

    def resolved(self, task: str) -> tuple[Self, Path]:
        """The config with the checkpoint's file and the run directory filled in; and that directory.

        Raises:
            InputError: No checkpoint matches, or the directory is in use.
        """
        output = self.output or RUNS / task / timestamp()
        check_unused(output)
        return replace(self, checkpoint=newest(self.checkpoint), output=output), output

    def open(self) -> Checkpoint:
        """Open the checkpoint, see ``open_weights``."""
        return open_weights(self.checkpoint, self.authors)

    def predictor(self, weights: Checkpoint, equalise: bool, text_encoder: str | None = None) -> Predictor:
        """A predictor with the opened weights; ``equalise`` as in the data set."""
        device = None if self.device == "auto" else self.device
        return Predictor(weights, device, self.batch_size, self.workers, equalise, text_encoder, self.fast)


def open_weights(path: Path, authors: AuthorsConfig) -> Checkpoint:
    """Open a checkpoint: .pth and .pt are the authors', everything else is ours.

    Raises:
        InputError: The file cannot be used.
    """
    if path.suffix not in AUTHORS_SUFFIXES:
        return load_checkpoint(path)
    if authors.pathology_prompts is None:
        read_torch(path, str(path))  # prompts would not help with a file of another kind
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
