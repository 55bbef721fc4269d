"""Preparation: a data set -> lists, a label store and a summary, ready for pre-training."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from medslip.data.cache import build_cache, check_cache
from medslip.data.dataset import DataSet, ListedDataSet
from medslip.data.prepared import PreparationSummary, check_output, write_prepared
from medslip.data.reading import read_lines
from medslip.data.splits import check_fractions, read_exclusion, split_of
from medslip.data.table import ImageTable, check_shared
from medslip.errors import InputError
from medslip.labels import LabelStoreWriter


@dataclass(frozen=True)
class PrepareConfig:
    """Prepare a data set for pre-training: triplets from its reports, or else from its class labels.

    Nothing of an earlier preparation in the output folder changes until all of the new one is written. After an interruption,
    run the same command again; cached images are kept.

    Attributes:
        data: The data set, with the images of all of its splits; ``prepare_data KIND`` is short for --data.kind KIND.
        output: The prepared data set's folder; None takes data_file/KIND_prepared.
        valid_fraction: Fraction of the patients for validation, if the data set has no validation images of its own. If it has
            a test split, a fraction of the patients in its training split.
        test_fraction: Fraction of the patients for testing, if the data set has no splits.
        seed: Random seed of the split.
        exclude_patients: File of patients to leave out, one per line.
        exclude_images: File of image names, one per line, whose patients are left out, such as those that another data set
            tests on. Suffixes are ignored: a.png also excludes a.jpg.
        cache_size: Also store every image once as a square of this many pixels, in output/cache, which the lists then refer to.
            None uses the original images.
        workers: Processes that write the cache.
    """

    positional: ClassVar[tuple[str, ...]] = ("data.kind",)

    data: DataSet
    output: Path | None = None
    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    exclude_patients: Path | None = None
    exclude_images: Path | None = None
    cache_size: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        check_fractions(self.valid_fraction, self.test_fraction)
        check_cache(self.cache_size, self.workers)
        if self.data.equalise and self.cache_size is None:
            raise InputError("data.equalise: only cached images can be equalised; set cache_size, or leave this out")


def run(config: PrepareConfig) -> PreparationSummary:
    """Prepare; the output folder then holds train.csv, valid.csv, test.csv (those with images), labels/ and summary.json.

    Raises:
        InputError: The data set cannot be read, has a patient in two splits, or nothing is left to prepare.
    """
    output = config.output or Path("data_file") / f"{config.data.kind}_prepared"
    data = config.data.all_splits()
    check_output(output)
    data.check_reports()
    for path in (config.exclude_patients, config.exclude_images):
        if path is not None:
            read_lines(path)
    table = data.read()
    left_out = Counter(table.left_out)
    table, notes = _divided(table, config, left_out)
    members = table.images.groupby("study", sort=False).indices
    store = LabelStoreWriter()
    row = np.full(len(table), -1)
    for study, cells in data.triplets(table, left_out):
        row[members.get(study, [])] = store.add(study, cells)
    images = table.images.assign(row=row)[row >= 0]

    def cached(paths: list[Path]) -> list[Path]:
        if config.cache_size is None:
            return paths
        return build_cache(paths, output / "cache", config.cache_size, config.workers, config.data.equalise)

    summary = write_prepared(output, table.name, store, images, left_out, (*table.notes, *notes), cached)
    print(summary)
    print(f"lists: {', '.join(str(output / f'{split}.csv') for split in summary.images)}")
    print(f"label store: {output / 'labels'}")
    print(f"summary: {output / 'summary.json'}")
    return summary


def _divided(table: ImageTable, config: PrepareConfig, left_out: Counter[str]) -> tuple[ImageTable, list[str]]:
    """The images that are not left out, each with its split; and notes for the summary."""
    images = table.images
    split = images["split"].to_numpy(str)
    # If the patient is unknown, the study counts as one.
    owner = images["patient"].where(images["patient"] != "", images["study"])
    if not images["split"].any():
        split = np.array([split_of(name, config.seed, config.valid_fraction, config.test_fraction) for name in owner])
    elif "valid" not in set(split):
        train = split == "train"
        tested = owner.isin(set(owner[split == "test"])).to_numpy()
        left_out["training images of patients of the test list"] += int((train & tested).sum())
        split[train] = [split_of(name, config.seed, config.valid_fraction, 0.0) for name in owner[train]]
        split[train & tested] = ""
    excluded, notes = read_exclusion(table, config.exclude_patients, config.exclude_images)
    is_excluded = images["patient"].isin(excluded).to_numpy()
    left_out["images of excluded patients"] += int((is_excluded & (split != "")).sum())
    table = replace(table, images=images.assign(split=split)).at(np.flatnonzero((split != "") & ~is_excluded))
    if isinstance(config.data, ListedDataSet):
        parts = table.images.groupby("split", sort=False).indices
        check_shared({str(name): table.at(np.asarray(indices)) for name, indices in parts.items()})
    known = table.images[table.images["patient"] != ""]
    if shared := (known.groupby("patient")["split"].nunique() > 1).sum():
        notes.append(f"{shared} patients are in several of the publisher's splits.")
    if unknown := len(table) - len(known):
        notes.append(f"{unknown} images have no patient: images of one patient may be in different lists.")
    return table, notes


COMMAND = (PrepareConfig, run)
