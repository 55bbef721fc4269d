"""Draws a corpus of phantom chests and writes it in the publishers' layouts."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from medslip.errors import InputError
from medslip.files import folder_written_whole
from medslip.phantoms.layouts import StudyRows, write_study, write_tables
from medslip.phantoms.study import draw_study, patient_of, write_contact_sheet

VERSION = 4
"""Changes when the same config draws or writes something else, so that an older corpus is not mistaken for a new one."""

DESCRIPTION = "phantom.json"


@dataclass(frozen=True)
class MakePhantomConfig:
    """Draw a corpus of phantom chests with reports, RadGraph graphs, boxes and masks.

    Attributes:
        output: Folder to write. It appears once everything is written.
        studies: Number of studies; each has one frontal image.
        valid_fraction: Share of the studies for validation.
        test_fraction: Share of the studies held out for testing.
        side: Pixels along each side of an image, 64 to 1024.
        seed: Decides every phantom; the same seed draws the same corpus.
        workers: Processes that draw.
    """

    output: Path = Path("data_file/phantom")
    studies: int = 2800
    valid_fraction: float = 0.1
    test_fraction: float = 0.18
    side: int = 256
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True)
class _Job:
    corpus: Path
    seed: int
    side: int
    index: int
    split: str


def run(config: MakePhantomConfig) -> Path:
    """Draw the corpus, or find that it is there already.

    Args:
        config: What to draw.

    Returns:
        The corpus's folder.

    Raises:
        InputError: A value is out of range, or the folder holds something else.
    """
    _check(config)
    output = Path(config.output)
    description = {"version": VERSION, **{key: value for key, value in asdict(config).items() if key in _DRAWN}}
    if _reusable(output, description):
        print(f"{output}: the corpus is already there")
        return output
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: the folder cannot be made ({error.strerror}); name another output") from None
    splits = _splits(config)
    with folder_written_whole(output) as partial, _mapper(config.workers) as drawn:
        jobs = [_Job(partial, config.seed, config.side, index, split) for index, split in enumerate(splits)]
        write_tables(partial, tqdm(drawn(jobs), total=len(jobs), desc="phantoms", unit=" studies", mininterval=1))
        write_contact_sheet(partial / "contact_sheet.png", config.seed)
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    return output


_DRAWN = ("studies", "valid_fraction", "test_fraction", "side", "seed")


def _check(config: MakePhantomConfig) -> None:
    if not 64 <= config.side <= 1024:
        raise InputError(f"side {config.side}: an image has 64 to 1024 pixels along each side")
    if config.studies < 1 or config.workers < 1:
        raise InputError("studies and workers must be at least 1")
    if config.seed < 0:
        raise InputError(f"seed {config.seed}: must not be negative")
    if min(config.valid_fraction, config.test_fraction) < 0 or config.valid_fraction + config.test_fraction >= 1:
        raise InputError("valid_fraction and test_fraction must leave room for training studies")


def _reusable(output: Path, description: dict[str, object]) -> bool:
    """Whether the corpus is there; anything else that is there stays.

    Raises:
        InputError: The folder holds something else.
    """
    if not output.exists():
        return False
    try:
        found = json.loads((output / DESCRIPTION).read_text())
    except (OSError, ValueError):
        if output.is_dir() and not any(output.iterdir()):
            return False
        raise InputError(f"{output}: exists and is no phantom corpus; name another output") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise InputError(f"{output}: holds a corpus of another version; remove it, or name another folder")
    for key, wanted in description.items():
        if found.get(key) != wanted:
            raise InputError(
                f"{output}: holds a corpus that was drawn with {key} {found.get(key)}, not {wanted}; remove it, or name "
                "another folder"
            )
    return True


def _splits(config: MakePhantomConfig) -> list[str]:
    """Each study's split. All studies of a patient go where the first one goes."""
    train = config.studies * (1 - config.valid_fraction - config.test_fraction)
    valid = config.studies * (1 - config.test_fraction)
    splits = []
    for index in range(config.studies):
        first = index - patient_of(config.seed, index).study_of_patient
        splits.append("train" if first < train else "valid" if first < valid else "test")
    return splits


def _draw(job: _Job) -> StudyRows:
    return write_study(job.corpus, draw_study(job.seed, job.index, job.side), job.split)


_Mapper = Callable[[list[_Job]], Iterator[StudyRows]]


@contextmanager
def _mapper(workers: int) -> Iterator[_Mapper]:
    """Maps jobs to records in order, over processes where there are several."""
    if workers == 1:
        yield lambda jobs: map(_draw, jobs)
        return
    # Spawned, not forked: a parent that holds threads (torch, tqdm) must not be forked.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield lambda jobs: pool.imap(_draw, jobs, chunksize=8)


COMMAND = (MakePhantomConfig, run)
