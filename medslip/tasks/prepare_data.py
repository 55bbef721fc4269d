"""Preparation: a publisher's layout -> lists, a label store and a summary, ready for pre-training. One run a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medslip.data import cxr14
from medslip.data.cache import build_cache, check_cache
from medslip.data.image_labels import class_pathologies, join, pathology_states, write_image_labels
from medslip.data.labelled import LabelledImages
from medslip.data.mimic_cxr import FRONTAL_VIEWS
from medslip.data.mimic_cxr import prepare as prepare_mimic
from medslip.data.openi import prepare_openi
from medslip.data.published import prepare_published
from medslip.data.splits import check_fractions, read_exclusion, shared_patients, split_of
from medslip.data.summary import PreparationSummary
from medslip.data.table import TableLayout, read_table
from medslip.errors import InputError
from medslip.labels import ABSENT
from medslip.labels.report_rules import RuleMapping
from medslip.vocabulary import CXR14_CLASSES


@dataclass(frozen=True)
class MimicConfig:
    """Prepare MIMIC-CXR-JPG with RadGraph's graphs.

    Attributes:
        root: MIMIC-CXR-JPG's folder: metadata, split, files/.
        graphs: RadGraph's MIMIC-CXR_graphs.json, or one in RadGraph-XL's form.
        output: The prepared data set's folder.
        views: View positions to take.
        mapping: Rules from a report's words to the vocabulary: ours, or as published.
        cache_size: Also store every image once as a square of this many pixels, in output/cache; the lists then
            name these. None leaves the images as they are.
        workers: Processes that fill the cache.
    """

    root: Path
    graphs: Path
    output: Path = Path("data_file/mimic")
    views: tuple[str, ...] = FRONTAL_VIEWS
    mapping: RuleMapping = "medslip"
    cache_size: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        check_cache(self.cache_size, self.workers)


@dataclass(frozen=True)
class OpenIConfig:
    """Prepare OpenI's XML reports with their MeSH tags, and its images.

    Attributes:
        reports: Folder with the reports (ecgen-radiology).
        images: Folder with the images.
        output: The prepared data set's folder.
        views: CSV file with columns image and view (or filename and projection): only frontal images (PA, AP,
            Frontal) are taken. None takes all.
        valid_fraction: Share of the reports for validation.
        test_fraction: Share of the reports for testing.
        seed: Of the split.
        cache_size: Also store every image once as a square of this many pixels, in output/cache; the lists then
            name these. None leaves the images as they are.
        workers: Processes that fill the cache.
    """

    reports: Path
    images: Path
    output: Path = Path("data_file/openi")
    views: Path | None = None
    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    cache_size: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        check_cache(self.cache_size, self.workers)


@dataclass(frozen=True)
class Cxr14Config:
    """Prepare ChestX-ray14's image labels as triplets, for pre-training without reports.

    Attributes:
        root: The publisher's folder: Data_Entry_2017_v2020.csv, images_*/.
        output: The prepared data set's folder.
        train_list: Images for training and validation, a file of names in root or elsewhere.
        test_list: Images for testing; its patients are kept out of training. None makes no test list.
        valid_fraction: Share of the training list's patients for validation.
        seed: Of the split.
        exclude_patients: File of further patients to leave out, one a line.
        exclude_images: File of image names, one a line, whose patients are left out.
        cache_size: Also store every image once as a square of this many pixels, in output/cache; the lists then
            name these. None leaves the images as they are.
        workers: Processes that fill the cache.
    """

    root: Path
    output: Path = Path("data_file/cxr14_prepared")
    train_list: Path = Path("train_val_list.txt")
    test_list: Path | None = Path("test_list.txt")
    valid_fraction: float = 0.1
    seed: int = 0
    exclude_patients: Path | None = None
    exclude_images: Path | None = None
    cache_size: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        check_cache(self.cache_size, self.workers)


@dataclass(frozen=True)
class CsvConfig:
    """Prepare any CSV table of image paths and labels.

    Attributes:
        table: The CSV file.
        images: Folder that its image paths start from; None takes the table's own.
        columns: Which column holds what.
        output: The prepared data set's folder; None takes data_file/ and the table's name.
        valid_fraction: Share of the patients for validation; without a split column.
        test_fraction: Share of the patients for testing; without a split column.
        seed: Of the split.
        exclude_patients: File of patients to leave out, one a line.
        exclude_images: File of image names, one a line, whose patients are left out: those that another set tests
            on. Suffixes do not count: a.png names a.jpg.
        cache_size: Also store every image once as a square of this many pixels, in output/cache; the lists then
            name these. None leaves the images as they are.
        workers: Processes that fill the cache.
    """

    table: Path
    images: Path | None = None
    columns: TableLayout = field(default_factory=TableLayout)
    output: Path | None = None
    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    exclude_patients: Path | None = None
    exclude_images: Path | None = None
    cache_size: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        check_cache(self.cache_size, self.workers)


@dataclass(frozen=True)
class PublishedFilesConfig:
    """Convert the authors' prepared files: train.json, valid.json, test.json and the dense label matrix.

    Attributes:
        folder: Where these files are.
        images: Where the images are, if not where the lists say, such as MIMIC-CXR-JPG's folder.
        output: The prepared data set's folder.
        cache_size: Also store every image once as a square of this many pixels, in output/cache; the lists then
            name these. None leaves the images as they are.
        workers: Processes that fill the cache.
    """

    folder: Path
    images: Path | None = None
    output: Path = Path("data_file/published")
    cache_size: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        check_cache(self.cache_size, self.workers)


def run_mimic(config: MimicConfig) -> PreparationSummary:
    """Prepare MIMIC-CXR-JPG."""
    summary = prepare_mimic(config.root, config.graphs, config.output, config.views, config.mapping)
    return _finish(summary, config.output, config.cache_size, config.workers)


def run_openi(config: OpenIConfig) -> PreparationSummary:
    """Prepare OpenI."""
    check_fractions(config.valid_fraction, config.test_fraction)
    summary = prepare_openi(
        config.reports,
        config.images,
        config.output,
        config.views,
        config.valid_fraction,
        config.test_fraction,
        config.seed,
    )
    return _finish(summary, config.output, config.cache_size, config.workers)


def run_cxr14(config: Cxr14Config) -> PreparationSummary:
    """Prepare ChestX-ray14."""
    check_fractions(config.valid_fraction, 0.0)
    train = cxr14.read_labelled(config.root, config.train_list)
    test = cxr14.read_labelled(config.root, config.test_list) if config.test_list else None
    tested = frozenset(test.patients if test else ())
    splits: list[str | None] = [
        None if patient in tested else split_of(patient, config.seed, config.valid_fraction, 0.0)
        for patient in train.patients
    ]
    images = join([train, test]) if test else train
    summary = _prepare_images(
        images,
        class_pathologies(images.classes, CXR14_CLASSES, images.name),
        normal=(_labels(images) == ABSENT).all(axis=1),  # "No Finding" is published as no class at all
        studies=[path.stem for path in images.paths],
        splits=splits + ["test"] * (len(images) - len(train)),
        left_out={"training images of patients of the test list": splits.count(None)},
        config=config,
        output=config.output,
    )
    return _finish(summary, config.output, config.cache_size, config.workers)


def run_csv(config: CsvConfig) -> PreparationSummary:
    """Prepare a table."""
    check_fractions(config.valid_fraction, config.test_fraction)
    output = config.output or Path("data_file") / config.table.stem
    table = read_table(config.table, config.columns, config.images)
    images = table.images
    # Where the patient is unknown, the study stands for one.
    patients = [patient or study for patient, study in zip(images.patients, table.studies, strict=True)]
    summary = _prepare_images(
        images,
        class_pathologies(images.classes, config.columns.classes, str(config.table)),
        normal=table.normal,
        studies=table.studies,
        splits=table.splits
        or [split_of(name, config.seed, config.valid_fraction, config.test_fraction) for name in patients],
        left_out={},
        config=config,
        output=output,
    )
    return _finish(summary, output, config.cache_size, config.workers)


def run_published(config: PublishedFilesConfig) -> PreparationSummary:
    """Convert the authors' files."""
    summary = prepare_published(config.folder, config.output, config.images)
    return _finish(summary, config.output, config.cache_size, config.workers)


def _prepare_images(
    images: LabelledImages,
    pathologies: Sequence[str],
    normal: npt.NDArray[np.bool_],
    studies: Sequence[str],
    splits: Sequence[str | None],
    left_out: Mapping[str, int],
    config: Cxr14Config | CsvConfig,
    output: Path,
) -> PreparationSummary:
    """Labels -> triplets -> prepared data set, without the patients that the config leaves out."""
    exclusion = read_exclusion(
        images.patients, [path.name for path in images.paths], config.exclude_patients, config.exclude_images
    )
    kept = [
        None if patient in exclusion.patients else split for patient, split in zip(images.patients, splits, strict=True)
    ]
    if shared := shared_patients(images.patients, kept):
        patient, (first, second), number = shared
        more = f" ({number} patients are in several splits)" if number > 1 else ""
        raise InputError(
            f"{images.name}: patient {patient} is in {first} and in {second}{more}; keep each patient in one of them"
        )
    excluded = kept.count(None) - list(splits).count(None)
    notes = [*exclusion.notes]
    if unknown := images.patients.count(""):
        notes.append(f"{unknown} images have no patient: images of one patient may be in different lists.")
    return write_image_labels(
        output,
        images,
        pathology_states(_labels(images), pathologies, normal),
        studies,
        kept,
        {**left_out, "images of excluded patients": excluded},
        tuple(notes),
    )


def _labels(images: LabelledImages) -> npt.NDArray[np.int8]:
    assert images.labels is not None, "the table readers give labels"
    return images.labels


def _finish(summary: PreparationSummary, output: Path, cache_size: int | None, workers: int) -> PreparationSummary:
    """Fill the image cache if asked for, then say what was made and where it is."""
    if cache_size is not None:
        try:
            build_cache([output / f"{split}.csv" for split in summary.images], output / "cache", cache_size, workers)
        except InputError as error:
            raise InputError(f"{error}; {output} is prepared, but without the cache") from None
    print(summary)
    print(f"lists: {', '.join(str(output / f'{split}.csv') for split in summary.images)}")
    print(f"label store: {output / 'labels'}")
    print(f"summary: {output / 'summary.json'}")
    return summary


SUBCOMMANDS: dict[str, tuple[type, Callable[[Any], PreparationSummary]]] = {
    "mimic": (MimicConfig, run_mimic),
    "openi": (OpenIConfig, run_openi),
    "cxr14": (Cxr14Config, run_cxr14),
    "csv": (CsvConfig, run_csv),
    "published": (PublishedFilesConfig, run_published),
}
"""Source -> its config and what prepares it."""
