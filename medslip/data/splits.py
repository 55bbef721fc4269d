"""Splits of patients into train, valid and test, and subsamples of the training images: seeded, in any order of the table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.reading import first_line, read_rows
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import PRESENT

Indices = npt.NDArray[np.intp]
"""Positions in a data set."""

SPLITS = ("train", "valid", "test")
"""The lists of a prepared data set."""

_SPELLINGS = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "validate": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_name(text: str, where: str) -> str:
    """The list that a publisher's word for a split means ("validate" -> "valid").

    Raises:
        InputError: The word names no split; the message says where it is.
    """
    try:
        return _SPELLINGS[text.strip().lower()]
    except KeyError:
        raise InputError(f"{where}: split {text!r} is not one of train, valid, test") from None


def splits_of(column: pd.Series, source: Path) -> pd.Series:
    """The list that each row's word for a split means; the index holds line numbers.

    Raises:
        InputError: A word names no split.
    """
    found = column.str.strip().str.lower().map(_SPELLINGS)
    if (line := first_line(found.isna())) is not None:
        split_name(column[line], f"{source}: line {line}")
    return found


def split_of(patient: str, seed: int, valid_fraction: float, test_fraction: float) -> str:
    """Train, valid or test, from a hash of patient and seed: the same on every machine and in every order."""
    digest = hashlib.blake2b(f"{seed}:{patient}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test_fraction:
        return "test"
    return "valid" if place < test_fraction + valid_fraction else "train"


def split_patients(table: ImageTable, seed: int, valid_fraction: float, test_fraction: float) -> dict[str, ImageTable]:
    """Split whole patients into train, valid and test; an image of an unknown patient counts as a patient of its own.

    Args:
        table: The images. Their common folder does not influence the split.
        seed: Seed of the split.
        valid_fraction: Fraction of the patients; 0 for no validation images.
        test_fraction: Fraction of the patients; 0 for no test images.

    Raises:
        InputError: A requested split gets no image.
    """
    folder = os.path.commonpath([os.path.abspath(path.parent) for path in table.paths])
    names = [Path(os.path.relpath(path, folder)).as_posix() for path in table.paths]
    owners = [patient or name for patient, name in zip(table.patients, names, strict=True)]
    parts = np.array([split_of(owner, seed, valid_fraction, test_fraction) for owner in owners])
    splits = {}
    for split, fraction in (("train", 1.0), ("valid", valid_fraction), ("test", test_fraction)):
        if fraction:
            splits[split] = table.at(np.flatnonzero(parts == split))
            if not len(splits[split]):
                raise InputError(
                    f"{table.name}: {len(table)} images are too few: the {split} split would be empty; change the fractions"
                )
    return splits


def check_fractions(valid_fraction: float, test_fraction: float) -> None:
    """Check that the fractions leave patients to train on.

    Raises:
        InputError: One is negative, or both together reach 1.
    """
    if min(valid_fraction, test_fraction) < 0 or valid_fraction + test_fraction >= 1:
        raise InputError(
            f"valid_fraction {valid_fraction} and test_fraction {test_fraction} must not be negative "
            "and must add up to less than 1"
        )


def read_exclusion(
    table: ImageTable, exclude_patients: Path | None, exclude_images: Path | None
) -> tuple[frozenset[str], list[str]]:
    """The patients that two optional files leave out, because another data set tests on them.

    Args:
        table: The images.
        exclude_patients: A text file, one patient per line, or a CSV file with a column "patient".
        exclude_images: A text file, one image file name per line, or a CSV file with a column "image" or "Image Index". Folder
            and suffix do not count (a.png names a.jpg). Every patient with such an image is left out with all images.

    Returns:
        Patients, and what each file names and how much of it is in the table, one sentence per file.

    Raises:
        InputError: A file is missing or empty, or the images named belong to no known patient.
    """
    left_out: set[str] = set()
    notes = []
    if exclude_patients is not None:
        named = _read_names(exclude_patients, ("patient", "Patient ID"))
        left_out |= named & set(table.patients)
        notes.append(f"{exclude_patients} names {len(named)} patients; {len(left_out)} are in the table and left out.")
    if exclude_images is not None:
        stems = {_stem(name) for name in _read_names(exclude_images, ("image", "Image Index", "file"))}
        hits = [patient for path, patient in zip(table.paths, table.patients, strict=True) if path.stem in stems]
        if "" in hits:
            raise InputError(f"{exclude_images}: lists images without a patient in the table; give its patient column")
        left_out |= set(hits)
        notes.append(
            f"{exclude_images} names {len(stems)} images; {len(hits)} are in the table, and their {len(set(hits))} patients "
            "are left out with all their images."
        )
    return frozenset(left_out), notes


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem


def _read_names(path: Path, columns: Sequence[str]) -> set[str]:
    rows = read_rows(path).tolist()
    column = next((rows[0].index(name) for name in columns if name in rows[0]), None)
    if column is None and any(len(row) > 1 for row in rows):
        raise InputError(f"{path}: has several columns, none called {' or '.join(columns)}")
    body = rows if column is None else rows[1:]
    names = {row[column or 0] for row in body if len(row) > (column or 0)} - {""}
    if not names:
        raise InputError(f"{path}: the exclusion file is empty")
    return names


def set_aside(table: ImageTable, fraction: float, seed: int) -> tuple[ImageTable, ImageTable]:
    """Set images aside to tune on, whole patients at a time.

    Args:
        table: What to divide.
        fraction: Fraction of the patients to set aside, above 0 and below 1.
        seed: Of the draw.

    Returns:
        Those to tune on, and the rest. An image of an unknown patient counts as its own patient.

    Raises:
        InputError: There are fewer than two patients.
    """
    owners = [patient or f"\0{index}" for index, patient in enumerate(table.patients)]
    distinct = sorted(set(owners))
    if len(distinct) < 2:
        raise InputError(f"{table.name}: has only one patient; two are needed to set one aside")
    number = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    drawn = np.random.default_rng(seed).permutation(len(distinct))[:number]
    is_aside = np.isin(owners, [distinct[index] for index in drawn])
    return table.at(np.flatnonzero(is_aside)), table.at(np.flatnonzero(~is_aside))


def check_fraction(fraction: float) -> None:
    """Check that a subsample's fraction is above 0 and at most 1.

    Raises:
        InputError: It is not; the message names fine-tuning's key for it.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"data.fraction: {fraction} is not above 0 and at most 1")


def choose_subsample(strata: Sequence[str], fraction: float, seed: int) -> Indices:
    """Choose a fraction of n images, and of each stratum about the same fraction.

    All images are put into one order, of which the first fraction x n (rounded, at least one) are taken, so that a smaller
    subsample is part of a larger one of the same seed. The order spreads the members of each stratum evenly: the k-th of m, in
    random order, has the place (k + u) / m, with a random u per stratum so that not all small strata are left out.

    Args:
        strata: n, such as an image's labels as text.
        fraction: Above 0, at most 1.
        seed: Seed of the order.

    Returns:
        Chosen positions, ascending.

    Raises:
        InputError: The fraction is out of range.
    """
    check_fraction(fraction)
    _, stratum = np.unique(np.asarray(strata, dtype=str), return_inverse=True)
    place = np.empty(len(stratum))
    for index in range(int(stratum.max(initial=-1)) + 1):
        random = np.random.default_rng((seed, index))
        members = np.flatnonzero(stratum == index)
        place[members] = (random.permutation(len(members)) + random.random()) / len(members)
    number = max(1, round(fraction * len(stratum)))
    return np.sort(np.argsort(place, kind="stable")[:number])


def choose_subsamples(labels: npt.NDArray[np.int8], fraction: float, seeds: Sequence[int]) -> dict[int, Indices]:
    """The training images that each seed trains on, stratified by their labels.

    Args:
        labels: n x C: 1 present, 0 absent, -1 unknown.
        fraction: Fraction of the images.
        seeds: One subsample per seed.

    Raises:
        InputError: The fraction is out of range, or leaves a seed without any positive label.
    """
    strata = [" ".join(map(str, row)) for row in labels.tolist()]
    chosen = {seed: choose_subsample(strata, fraction, seed) for seed in seeds}
    for seed, indices in chosen.items():
        if not (labels[indices] == PRESENT).any():
            raise InputError(
                f"data.fraction: {fraction} leaves seed {seed} {len(indices)} training image(s) without any finding; take more"
            )
    return chosen
