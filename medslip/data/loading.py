"""Lists -> batches: which image comes when, on which process, decoded and varied by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from medslip.data.equalise import histogram_equalise
from medslip.data.images import read_image
from medslip.data.records import StudyList
from medslip.data.transforms import (
    EvaluationTransform,
    Grey,
    TrainingTransform,
    generator_for,
    mirror_labels,
)
from medslip.errors import InputError
from medslip.labels import LabelStore

Item = tuple[int, int]
"""(epoch, index in the list). The epoch travels with the index, so that workers that live on know it."""


@dataclass(frozen=True)
class Batch:
    """B images of a list.

    Attributes:
        images: B x 1 x S x S, uint8, 0 to 255, bones bright; see EvaluationTransform.normalise.
        indices: B positions in the list, int64.
        labels: B x A x P, int8, 1 present, 0 absent, -1 unknown; None where the loader was given no label
            store.
    """

    images: Tensor
    indices: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), self.indices.to(device, non_blocking=True), labels)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; called by DataLoader."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return Batch(self.images.pin_memory(), self.indices.pin_memory(), labels)


@dataclass(frozen=True)
class Refusal:
    """An InputError on its way out of a worker: DataLoader would bury its one line in a traceback."""

    message: str


class EpochSampler(Sampler[list[Item]]):
    """Which images make which batch, in a new order every epoch.

    The order is a function of (seed, epoch). Every process gets equally many batches of equal size. Within an
    epoch no image comes twice, and only those that fill no batch on every process are left out, other ones
    each epoch.

    Args:
        n: Number of images.
        seed: Seed of the order.
        batch: Images a batch on one process.
        world_size: Number of processes.
        rank: This process, 0 to world_size - 1.
    """

    def __init__(self, n: int, seed: int, batch: int, world_size: int = 1, rank: int = 0) -> None:
        self.n, self.seed, self.batch = n, seed, batch
        self.world_size, self.rank = world_size, rank
        self._epoch, self._start = 0, 0

    def begin(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that the next iteration gives, from its start-th batch on."""
        self._epoch, self._start = epoch, start

    def __len__(self) -> int:
        """Batches of a whole epoch, on each process."""
        return self.n // (self.batch * self.world_size)

    def __iter__(self) -> Iterator[list[Item]]:
        epoch, start = self._epoch, self._start
        order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
        for step in range(start, len(self)):
            first = (step * self.world_size + self.rank) * self.batch
            yield [(epoch, int(index)) for index in order[first : first + self.batch]]


class ImageSource:
    """Where the pixels come from: the files, or memory. A list's unreadable image is named with its line.

    Args:
        paths: A list, or the image files.
        preloaded: What ``preload`` returned for them; None reads the files.
        at_least: As for read_image.
        equalise: Whether to spread the grey values of each file's image first; see equalise.py.
    """

    def __init__(
        self,
        paths: StudyList | Sequence[Path],
        preloaded: Tensor | None,
        at_least: int | None,
        equalise: bool = False,
    ) -> None:
        self._source = paths.source if isinstance(paths, StudyList) else None
        paths = image_paths(paths) if isinstance(paths, StudyList) else paths
        if preloaded is not None and len(preloaded) != len(paths):
            raise ValueError(f"{len(preloaded)} preloaded images for a list of {len(paths)}")
        # One array instead of many objects: workers share its pages.
        self._paths = np.array([str(path) for path in paths], dtype=np.str_)
        self._preloaded = preloaded
        self._at_least = at_least
        self._equalise = equalise

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Grey:
        if self._preloaded is not None:
            grey: Grey = self._preloaded[index, 0].numpy()
            return grey
        try:
            image = read_image(Path(str(self._paths[index])), self._at_least)
        except InputError as error:
            if self._source is None:
                raise
            raise InputError(f"{self._source}: line {index + 2}: {error}") from None
        return histogram_equalise(image) if self._equalise else image


class StudyDataset(Dataset[Batch | Refusal]):
    """Training batches of a list: varied images and their label matrices.

    Args:
        studies: The list.
        store: The label store that its rows point into.
        transform: The augmentation.
        seed: Seed of the augmentation.
        preloaded: What ``preload`` returned for the list; None reads the files.

    Raises:
        InputError: The list does not belong to the store.
    """

    def __init__(
        self,
        studies: StudyList,
        store: LabelStore,
        transform: TrainingTransform,
        seed: int,
        preloaded: Tensor | None = None,
    ) -> None:
        self._images = ImageSource(studies, preloaded, transform.source_side)
        self._rows = _rows(studies, store)
        self._store, self._transform, self._seed = store, transform, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, items: Sequence[Item]) -> Batch | Refusal:
        """One batch; what it holds is a function of the seed and the items alone."""
        labels = self._store.dense_batch([int(self._rows[index]) for _, index in items])
        images = []
        try:
            for position, (epoch, index) in enumerate(items):
                image, mirrored = self._transform(self._images[index], generator_for(self._seed, epoch, index))
                images.append(image)
                if mirrored:
                    labels[position] = mirror_labels(labels[position])
        except InputError as error:
            return Refusal(str(error))
        indices = torch.tensor([index for _, index in items])
        return Batch(torch.stack(images), indices, torch.from_numpy(labels))


class TrainingLoader:
    """Training batches, epoch by epoch. Made by ``training_loader``."""

    def __init__(self, sampler: EpochSampler, loader: DataLoader[Any]) -> None:
        self._sampler, self._loader = sampler, loader

    def __len__(self) -> int:
        """Batches of a whole epoch, on each process."""
        return len(self._sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            epoch: Which one, from 0.
            start: Batch to begin with, to go on in the middle of an epoch.

        Raises:
            InputError: An image cannot be read.
        """
        self._sampler.begin(epoch, start)
        return _batches(self._loader)


def training_loader(
    studies: StudyList,
    store: LabelStore,
    transform: TrainingTransform,
    seed: int,
    batch: int,
    workers: int,
    *,
    world_size: int = 1,
    rank: int = 0,
    preloaded: Tensor | None = None,
    pin_memory: bool = False,
) -> TrainingLoader:
    """Shuffled, augmented batches of a list.

    Args:
        studies: The list.
        store: The label store that its rows point into.
        transform: The augmentation.
        seed: Seed of the order and of the augmentation.
        batch: Images a batch on one process.
        workers: Worker processes; 0 decodes in this one. Does not change what is loaded.
        world_size: Number of training processes.
        rank: This process.
        preloaded: What ``preload`` returned for the list; None reads the files.
        pin_memory: Whether batches are put into page-locked memory, for a copy to a GPU.

    Raises:
        InputError: The list does not belong to the store, or is too short for one batch on every process; or batch or
            workers is out of range.
    """
    _refuse_empty_batches(batch)
    dataset = StudyDataset(studies, store, transform, seed, preloaded)
    sampler = EpochSampler(len(dataset), seed, batch, world_size, rank)
    if not len(sampler):
        raise InputError(
            f"{studies.source}: {len(dataset)} images do not fill a batch of {batch} on {world_size} "
            "process(es); choose a smaller batch"
        )
    return TrainingLoader(sampler, data_loader(dataset, sampler, workers, pin_memory, persistent=True))


def evaluation_loader(
    images: StudyList | Sequence[Path],
    transform: EvaluationTransform,
    batch: int,
    workers: int,
    *,
    store: LabelStore | None = None,
    world_size: int = 1,
    rank: int = 0,
    preloaded: Tensor | None = None,
    pin_memory: bool = False,
    equalise: bool = False,
) -> EvaluationLoader:
    """Every image once, in order, as it is. Process r of w takes images r, r + w, r + 2 w, ...

    Args:
        images: A list, or the image files.
        transform: The evaluation transform.
        batch: Images a batch; the last one may be smaller.
        workers: Worker processes; 0 decodes in this one.
        store: The label store of the list; None loads images alone.
        world_size: Number of processes.
        rank: This process.
        preloaded: What ``preload`` returned for the images; None reads the files.
        pin_memory: Whether batches are put into page-locked memory, for a copy to a GPU.
        equalise: Whether to spread the grey values of each file's image first; see equalise.py.

    Raises:
        InputError: The list does not belong to the store, or batch or workers is out of range.
    """
    _refuse_empty_batches(batch)
    dataset = _EvaluationDataset(images, transform, store, preloaded, equalise)
    mine = range(rank, len(dataset), world_size)
    sampler = [list(mine[start : start + batch]) for start in range(0, len(mine), batch)]
    return EvaluationLoader(data_loader(dataset, sampler, workers, pin_memory, persistent=False), len(sampler))


class EvaluationLoader:
    """Batches in order. Made by ``evaluation_loader``; can be gone through again and again."""

    def __init__(self, loader: DataLoader[Any], length: int) -> None:
        self._loader, self._length = loader, length

    def __len__(self) -> int:
        """Number of batches on this process."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """The batches.

        Raises:
            InputError: An image cannot be read.
        """
        return _batches(self._loader)


class _EvaluationDataset(Dataset[Batch | Refusal]):
    def __init__(
        self,
        images: StudyList | Sequence[Path],
        transform: EvaluationTransform,
        store: LabelStore | None,
        preloaded: Tensor | None,
        equalise: bool,
    ) -> None:
        self._images = ImageSource(images, preloaded, None, equalise)
        self._transform, self._store = transform, store
        if store is not None:
            if not isinstance(images, StudyList):
                raise ValueError("labels need a list: image files alone have no rows in a store")
            self._rows = _rows(images, store)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices: Sequence[int]) -> Batch | Refusal:
        try:
            images = torch.stack([self._transform(self._images[index]) for index in indices])
        except InputError as error:
            return Refusal(str(error))
        labels = None
        if self._store is not None:
            labels = torch.from_numpy(self._store.dense_batch([int(self._rows[index]) for index in indices]))
        return Batch(images, torch.tensor(indices), labels)


def preload(images: StudyList | Sequence[Path], side: int, workers: int) -> Tensor:
    """Decode every image once and keep them all in memory, for a corpus that fits.

    Args:
        images: A list, or the image files.
        side: Side in pixels that they are squashed to. Augmentation starts from it.
        workers: Worker processes; 0 decodes in this one.

    Returns:
        n x 1 x side x side, uint8: side squared bytes an image.

    Raises:
        InputError: An image cannot be read.
    """
    total = len(images.table) if isinstance(images, StudyList) else len(images)
    kept = torch.empty((total, 1, side, side), dtype=torch.uint8)
    with tqdm(total=total, desc="loading images", unit="image") as progress:
        for batch in evaluation_loader(images, EvaluationTransform(side), 64, workers):
            kept[batch.indices] = batch.images
            progress.update(len(batch))
    return kept


def image_paths(studies: StudyList) -> list[Path]:
    """The image files of a list, in its order."""
    return [studies.folder / str(image) for image in studies.table["image"]]


def _rows(studies: StudyList, store: LabelStore) -> np.ndarray[Any, np.dtype[np.int64]]:
    rows = studies.table["row"].to_numpy(np.int64)
    store.check(rows.tolist(), studies.table["study"].tolist(), studies.source)
    return rows


def _refuse_empty_batches(batch: int) -> None:
    if batch < 1:
        raise InputError(f"batch size: {batch} is less than 1 image")


def data_loader(
    dataset: Dataset[Any], batches: Any, workers: int, pin_memory: bool, persistent: bool
) -> DataLoader[Any]:
    """A loader of a dataset that answers with whole batches, or a Refusal.

    Args:
        dataset: Is asked for each of ``batches``.
        batches: What to ask for, in order: a sampler or a list.
        workers: Worker processes; 0 decodes in this one.
        pin_memory: Whether batches are put into page-locked memory.
        persistent: Whether the workers live on after an epoch.

    Raises:
        InputError: The number of workers is negative.
    """
    if workers < 0:
        raise InputError(f"workers: {workers} is less than 0; 0 decodes in this process")
    # batch_size=None: the dataset is asked for whole batches, so that it can answer with a refusal.
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=persistent and workers > 0,
    )


def _batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, Refusal):
            raise InputError(batch.message)
        yield batch
