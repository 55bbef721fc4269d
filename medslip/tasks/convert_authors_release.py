"""The authors' .pth -> a folder in the form of the Hugging Face Hub, which is read without prompts and text encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medslip.checkpoints import AUTHORS_SUFFIXES
from medslip.errors import InputError
from medslip.files import folder_written_whole
from medslip.predictor import Predictor
from medslip.run_dir import check_unused
from medslip.tasks.weights import AuthorsConfig, open_weights


@dataclass(frozen=True)
class ConvertConfig:
    """Convert the authors' weights to a folder with model.safetensors, config.json and a model card.

    Attributes:
        checkpoint: The authors' .pth.
        output: The folder to write, for --checkpoint, ``Predictor.from_pretrained`` and upload to the Hub.
        authors: The prompts and the text encoder that the weights were trained with.
    """

    positional = ("checkpoint", "output")

    checkpoint: Path
    output: Path
    authors: AuthorsConfig = field(default_factory=AuthorsConfig)


def run(config: ConvertConfig) -> None:
    """Convert the weights.

    Raises:
        InputError: The weights, the prompts or the text encoder cannot be used, or the folder is in use.
    """
    if config.checkpoint.suffix not in AUTHORS_SUFFIXES:
        raise InputError(f"{config.checkpoint}: not the authors' .pth; our checkpoints need no conversion")
    check_unused(config.output)
    predictor = Predictor(open_weights(config.checkpoint, config.authors), "cpu")
    with folder_written_whole(config.output) as partial:
        predictor.save_pretrained(partial)
    print(f"{config.output}: model.safetensors, config.json and README.md; use it as --checkpoint {config.output}")


COMMAND = (ConvertConfig, run)
