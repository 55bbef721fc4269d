"""Batches for fine-tuning: images with a target each, a mask or class labels.

A batch's ``labels`` are B x 1 x S x S uint8 masks (1 inside, 0 outside) or B x C int8 class labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from medslip.data.equalise import histogram_equalise
from medslip.data.images import read_image
from medslip.data.joint_transforms import squash_pair
from medslip.data.loading import Batch, EpochSampler, EvaluationLoader, Item, Refusal, TrainingLoader, data_loader
from medslip.data.subsample import Indices
from medslip.data.table import ImageTable
from medslip.data.transforms import TrainingTransform, generator_for, squash
from medslip.errors import InputError

Source = Callable[[int], tuple[Tensor, Tensor]]
"""Position in the data set -> image (1 x H x W, uint8) and target. Picklable, for worker processes."""

Augment = Callable[[Tensor, Tensor, int, int, int], tuple[Tensor, Tensor]]
"""Image, target, seed, epoch, place in the epoch's list -> image (1 x S x S, uint8) and target. Picklable."""


@dataclass(frozen=True)
class Shard:
    """Which share of the batches this process takes, and how they are loaded.

    Attributes:
        batch: Images per batch on one process.
        workers: Worker processes; 0 decodes in this one.
        world_size: Number of training processes.
        rank: This process.
        pin_memory: Whether batches are put into page-locked memory, for a copy to a GPU.
    """

    batch: int
    workers: int = 0
    world_size: int = 1
    rank: int = 0
    pin_memory: bool = False


@dataclass(frozen=True)
class TableSource:
    """Images of a table, each with the mask of a class or with its labels.

    Attributes:
        table: The images.
        finding: The class whose masks are the targets, B x 1 x S x S; None takes the labels, B x C.
        side: Side that images and masks are squashed to; None leaves images at their own size, without masks.
        at_least: As for read_image.
        equalise: Whether to equalise each image's histogram first.
    """

    table: ImageTable
    finding: str | None = None
    side: int | None = None
    at_least: int | None = None
    equalise: bool = False

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """See Source."""
        path = Path(str(self.table.images["path"].iat[index]))
        image = read_image(path, self.at_least)
        image = histogram_equalise(image) if self.equalise else image
        if self.finding is not None and self.side is not None:
            return squash_pair(image, self.table.mask(index, self.finding), self.side, str(path))
        labels = torch.tensor(self.table.label_array[index])
        return torch.from_numpy(image)[None] if self.side is None else squash(image, self.side), labels


@dataclass(frozen=True)
class LabelAugment:
    """Augments images; their class labels stay as they are, since no class has a side."""

    transform: TrainingTransform

    def __call__(self, image: Tensor, labels: Tensor, seed: int, epoch: int, place: int) -> tuple[Tensor, Tensor]:
        """See Augment."""
        return self.transform(image[0].numpy(), generator_for(seed, epoch, place))[0], labels


@dataclass(frozen=True)
class _Memory:
    images: Tensor
    targets: Tensor

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.targets[index]


def training_loader(source: Source, chosen: Indices, augment: Augment, seed: int, shard: Shard) -> TrainingLoader:
    """Shuffled batches of augmented images.

    Args:
        source: Images and targets of a data set.
        chosen: Which of them to train on.
        augment: The augmentation.
        seed: Seed of the order and of the augmentation.
        shard: The share of this process.
    """
    sampler = EpochSampler(len(chosen), seed, shard.batch, shard.world_size, shard.rank)
    dataset = _Batches(source, chosen, augment, seed)
    return TrainingLoader(sampler, data_loader(dataset, sampler, shard.workers, shard.pin_memory, persistent=True))


def evaluation_loader(source: Source, images: int, shard: Shard) -> EvaluationLoader:
    """Every image once, in order, without augmentation. Process r of w takes images r, r + w, r + 2 w, ...

    Args:
        source: Images and targets of a data set, all of one side.
        images: How many.
        shard: The share of this process.
    """
    mine = range(shard.rank, images, shard.world_size)
    batches = [[(0, index) for index in mine[at : at + shard.batch]] for at in range(0, len(mine), shard.batch)]
    dataset = _Batches(source, np.arange(images))
    loader = data_loader(dataset, batches, shard.workers, shard.pin_memory, persistent=False)
    return EvaluationLoader(loader, len(batches))


def preload(source: Source, images: int, workers: int) -> Source:
    """Decode every image and target once and keep them in memory: side squared bytes per image, and as many per mask.

    Raises:
        InputError: An image or mask cannot be read, or their sizes differ.
    """
    kept: _Memory | None = None
    with tqdm(total=images, desc="loading images", unit="image") as progress:
        for batch in evaluation_loader(source, images, Shard(64, workers)):
            assert batch.labels is not None
            if kept is None:
                pair = (batch.images, batch.labels)
                kept = _Memory(*(torch.empty((images, *each.shape[1:]), dtype=each.dtype) for each in pair))
            kept.images[batch.indices], kept.targets[batch.indices] = batch.images, batch.labels
            progress.update(len(batch))
    return kept or source


class _Batches(Dataset[Batch | Refusal]):
    def __init__(self, source: Source, chosen: Indices, augment: Augment | None = None, seed: int = 0) -> None:
        self._source, self._chosen, self._augment, self._seed = source, chosen, augment, seed

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, items: Sequence[Item]) -> Batch | Refusal:
        try:
            pairs = [self._sample(epoch, place) for epoch, place in items]
        except InputError as error:
            return Refusal(str(error))
        images, targets = (torch.stack(column) for column in zip(*pairs, strict=True))
        return Batch(images, torch.tensor([int(self._chosen[place]) for _, place in items]), targets)

    def _sample(self, epoch: int, place: int) -> tuple[Tensor, Tensor]:
        image, target = self._source(int(self._chosen[place]))
        return (image, target) if self._augment is None else self._augment(image, target, self._seed, epoch, place)
