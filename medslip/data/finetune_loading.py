"""Batches for fine-tuning: images with masks, or with class labels, of chosen images of a data set.

A batch's ``labels`` are B x 1 x S x S uint8 masks (1 inside, 0 outside), or B x C int8 class labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from medslip.data.images import read_image
from medslip.data.joint_transforms import JointTransform, squash_pair
from medslip.data.labelled import LabelledImages
from medslip.data.loading import (
    Batch,
    EpochSampler,
    EvaluationLoader,
    ImageSource,
    Item,
    Refusal,
    TrainingLoader,
    data_loader,
)
from medslip.data.masked import MaskedImages
from medslip.data.transforms import TrainingTransform, generator_for
from medslip.errors import InputError

Chosen = npt.NDArray[np.intp]
"""Positions in a data set; one that stands there twice comes twice an epoch, varied differently."""

_Sample = Callable[[int, int, int], tuple[Tensor, Tensor]]
"""(epoch, place in the epoch's list, position in the data set) -> image and target."""


@dataclass(frozen=True)
class Shard:
    """Which share of the batches this process takes, and how they are loaded.

    Attributes:
        batch: Images a batch on one process.
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
class Pairs:
    """Images and masks of a data set in memory.

    Attributes:
        images: n x 1 x side x side, uint8.
        masks: n x 1 x side x side, uint8, 1 inside and 0 outside.
    """

    images: Tensor
    masks: Tensor


def masked_training_loader(
    data: MaskedImages, chosen: Chosen, transform: JointTransform, seed: int, shard: Shard, pairs: Pairs | None = None
) -> TrainingLoader:
    """Shuffled batches of images and masks, varied alike.

    Args:
        data: The images.
        chosen: Which of them.
        transform: The augmentation.
        seed: Of the order and of the augmentation.
        shard: The share of this process.
        pairs: What ``preload_pairs`` returned for the data at transform.source_side; None reads the files.
    """
    source = _PairSource(data, transform.source_side, pairs)
    return _training_loader(chosen, _VariedPair(source, transform, seed), seed, shard)


def masked_evaluation_loader(
    data: MaskedImages, side: int, shard: Shard, pairs: Pairs | None = None
) -> EvaluationLoader:
    """Every image with its mask once, in order, squashed. Process r of w takes images r, r + w, r + 2 w, ...

    Args:
        data: The images.
        side: Side of the square in pixels.
        shard: The share of this process.
        pairs: What ``preload_pairs`` returned for the data at this side; None reads the files.
    """
    dataset = _Batches(np.arange(len(data)), _AsItIs(_PairSource(data, side, pairs)))
    mine = range(shard.rank, len(data), shard.world_size)
    batches = [
        [(0, place) for place in mine[start : start + shard.batch]] for start in range(0, len(mine), shard.batch)
    ]
    return EvaluationLoader(
        data_loader(dataset, batches, shard.workers, shard.pin_memory, persistent=False), len(batches)
    )


def classified_training_loader(
    data: LabelledImages,
    chosen: Chosen,
    transform: TrainingTransform,
    seed: int,
    shard: Shard,
    preloaded: Tensor | None = None,
    equalise: bool = False,
) -> TrainingLoader:
    """Shuffled batches of varied images and their class labels.

    Args:
        data: The images; they have labels.
        chosen: Which of them.
        transform: The augmentation.
        seed: Of the order and of the augmentation.
        shard: The share of this process.
        preloaded: What ``loading.preload`` returned for the images; None reads the files.
        equalise: Whether to spread the grey values of each file's image first; see equalise.py.
    """
    return _training_loader(chosen, _VariedImage(data, transform, seed, preloaded, equalise), seed, shard)


def preload_pairs(data: MaskedImages, side: int, workers: int) -> Pairs:
    """Decode every image and mask once and keep them in memory, for a corpus that fits: 2 side squared bytes an image.

    Raises:
        InputError: An image or mask cannot be read, or they differ in size.
    """
    shape = (len(data), 1, side, side)
    pairs = Pairs(torch.empty(shape, dtype=torch.uint8), torch.empty(shape, dtype=torch.uint8))
    with tqdm(total=len(data), desc="loading images and masks", unit="image") as progress:
        for batch in masked_evaluation_loader(data, side, Shard(64, workers)):
            assert batch.labels is not None
            pairs.images[batch.indices], pairs.masks[batch.indices] = batch.images, batch.labels
            progress.update(len(batch))
    return pairs


class _PairSource:
    """Images and masks, squashed: from the files, or memory."""

    def __init__(self, data: MaskedImages, side: int, pairs: Pairs | None) -> None:
        self._data, self._side, self._pairs = data, side, pairs

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        if self._pairs is not None:
            return self._pairs.images[index], self._pairs.masks[index]
        path: Path = self._data.paths[index]
        return squash_pair(read_image(path), self._data.mask(index), self._side, str(path))


class _AsItIs:
    def __init__(self, source: _PairSource) -> None:
        self._source = source

    def __call__(self, epoch: int, place: int, index: int) -> tuple[Tensor, Tensor]:
        return self._source(index)


class _VariedPair:
    def __init__(self, source: _PairSource, transform: JointTransform, seed: int) -> None:
        self._source, self._transform, self._seed = source, transform, seed

    def __call__(self, epoch: int, place: int, index: int) -> tuple[Tensor, Tensor]:
        return self._transform(*self._source(index), self._seed, epoch, place)


class _VariedImage:
    def __init__(
        self, data: LabelledImages, transform: TrainingTransform, seed: int, preloaded: Tensor | None, equalise: bool
    ) -> None:
        assert data.labels is not None, "images without labels cannot be trained on"
        self._images = ImageSource(data.paths, preloaded, transform.source_side, equalise)
        self._labels, self._transform, self._seed = torch.from_numpy(data.labels), transform, seed

    def __call__(self, epoch: int, place: int, index: int) -> tuple[Tensor, Tensor]:
        # A class says nothing of sides, so a mirrored image keeps its labels.
        image, _ = self._transform(self._images[index], generator_for(self._seed, epoch, place))
        return image, self._labels[index]


class _Batches(Dataset[Batch | Refusal]):
    def __init__(self, chosen: Chosen, sample: _Sample) -> None:
        self._chosen, self._sample = chosen, sample

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, items: Sequence[Item]) -> Batch | Refusal:
        indices = [int(self._chosen[place]) for _, place in items]
        try:
            pairs = [self._sample(epoch, place, index) for (epoch, place), index in zip(items, indices, strict=True)]
        except InputError as error:
            return Refusal(str(error))
        images, targets = (torch.stack(column) for column in zip(*pairs, strict=True))
        return Batch(images, torch.tensor(indices), targets)


def _training_loader(chosen: Chosen, sample: _Sample, seed: int, shard: Shard) -> TrainingLoader:
    sampler = EpochSampler(len(chosen), seed, shard.batch, shard.world_size, shard.rank)
    dataset = _Batches(chosen, sample)
    return TrainingLoader(sampler, data_loader(dataset, sampler, shard.workers, shard.pin_memory, persistent=True))
