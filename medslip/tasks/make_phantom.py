"""Draws a corpus of phantom chests and writes it as COCO and in the publishers' layouts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from medslip.data.pool import mapper
from medslip.errors import InputError, check_at_least
from medslip.files import folder_written_whole
from medslip.phantoms.findings import KINDS, Plan
from medslip.phantoms.layouts import StudyRows, write_study, write_tables
from medslip.phantoms.study import draw_study, patient_of

VERSION = 5
"""Changes when the same config draws or writes something else, so that an older corpus is not mistaken for a new one."""

DESCRIPTION = "phantom.json"


@dataclass(frozen=True)
class MakePhantomConfig:
    """Draw a corpus of phantom chests with reports, RadGraph graphs, boxes and masks.

    After an interruption, run the same command again.

    Attributes:
        output: Output folder. It appears once everything has been written.
        studies: Number of studies, with one frontal image each.
        valid_fraction: Fraction of the studies for validation.
        test_fraction: Fraction of the studies held out for testing.
        side: Pixels along each side of an image, 64 to 1024.
        seed: The same seed draws the same corpus.
        workers: Processes that draw.
    """

    output: Path = Path("data_file/phantom")
    studies: int = 2800
    valid_fraction: float = 0.1
    test_fraction: float = 0.18
    side: int = 256
    seed: int = 0
    workers: int = 2


def run(config: MakePhantomConfig) -> Path:
    """Draw the corpus, unless it is there already; returns its folder.

    Raises:
        InputError: A value is out of range, or the folder holds something else.
    """
    _check(config)
    output = Path(config.output)
    description = {"version": VERSION, **asdict(config)}
    del description["output"], description["workers"]
    if _is_drawn(output, description):
        print(f"{output}: the corpus is already there")
        return output
    with (
        folder_written_whole(output) as folder,
        mapper(0 if config.workers == 1 else config.workers, "spawn") as mapped,
    ):
        drawn = mapped(partial(_draw, folder, config.seed, config.side), enumerate(_splits(config)))
        write_tables(folder, tqdm(drawn, total=config.studies, desc="phantoms", unit=" studies", mininterval=1))
        _write_contact_sheet(folder / "contact_sheet.png", config.seed)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    return output


def _check(config: MakePhantomConfig) -> None:
    if not 64 <= config.side <= 1024:
        raise InputError(f"side {config.side}: must be 64 to 1024 pixels")
    check_at_least(config, studies=1, workers=1, seed=0)
    if min(config.valid_fraction, config.test_fraction) < 0 or config.valid_fraction + config.test_fraction >= 1:
        raise InputError("valid_fraction and test_fraction must not be negative, and their sum must be below 1")


def _is_drawn(output: Path, description: dict[str, object]) -> bool:
    """Whether the corpus is there already; raises InputError if something else is, which is never removed."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    try:
        found = json.loads((output / DESCRIPTION).read_text())
    except (OSError, ValueError):
        raise InputError(f"{output}: exists and is not a phantom corpus; choose another output") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise InputError(f"{output}: contains a corpus of another version; remove it, or choose another folder")
    for key, wanted in description.items():
        if found.get(key) != wanted:
            drawn_with = f"{key} {found.get(key)}, not {wanted}"
            raise InputError(
                f"{output}: contains a corpus drawn with {drawn_with}; remove it, or choose another folder"
            )
    return True


def _splits(config: MakePhantomConfig) -> list[str]:
    """The split of each study. All studies of a patient go where the first one goes."""
    train = config.studies * (1 - config.valid_fraction - config.test_fraction)
    valid = config.studies * (1 - config.test_fraction)
    firsts = (index - patient_of(config.seed, index).study_of_patient for index in range(config.studies))
    return ["train" if first < train else "valid" if first < valid else "test" for first in firsts]


def _draw(corpus: Path, seed: int, side: int, study: tuple[int, str]) -> StudyRows:
    index, split = study
    return write_study(corpus, draw_study(seed, index, side), split)


def _write_contact_sheet(path: Path, seed: int) -> None:
    """A picture of what phantoms look like: a row of normal ones, then one of each kind of finding, with its box."""
    columns, tile = 6, 192  # phantoms per row, and pixels along each side of one
    kinds = [None] * columns + list(KINDS.values())
    sheet = Image.new("RGB", (columns * tile, -(-len(kinds) // columns) * tile))
    for place, kind in enumerate(kinds):
        plans = []
        if kind:
            rng = np.random.default_rng((seed, 9, place))
            plans = [Plan(kind, kind.sites[int(rng.integers(len(kind.sites)))], 0.7, int(rng.integers(2**32)))]
        study = draw_study(seed, place, tile, plans)
        image = Image.fromarray(study.image).convert("RGB")
        pen = ImageDraw.Draw(image)
        for x, y, width, height in (finding.box for finding in study.findings):
            pen.rectangle((x - 2, y - 2, x + width + 1, y + height + 1), outline="#ffb000")
        pen.text((4, tile - 17), kind.title if kind else "Normal", font_size=12, stroke_width=2, stroke_fill="#000000")
        sheet.paste(image, (place % columns * tile, place // columns * tile))
    sheet.save(path)


COMMAND = (MakePhantomConfig, run)
