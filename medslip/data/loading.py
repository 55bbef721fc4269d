"""Images of a data set -> batches: which image comes when, on which process, decoded and augmented by worker processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from medslip.data.augmentation import Augment
from medslip.data.images import ImageInput, read_image
from medslip.data.prepared import ImageList
from medslip.data.preprocessing import equalise, squash, squash_mask
from medslip.data.splits import Indices
from medslip.data.table import ImageTable
from medslip.data.texts import Texts
from medslip.errors import STOP_SIGNALS, InputError
from medslip.labels import LabelStore

Source = Callable[[int], tuple[Tensor, Tensor]]
"""Position in the data set -> image (1 x H x W, uint8) and target, empty if there is none. Picklable, for worker processes."""

_DRAWS = 10
"""Images to try in the place of one that cannot be read; if all fail, a disk or folder is missing rather than a file broken."""

_Item = tuple[int, int]
"""(epoch, place in the epoch's list). The epoch goes with the place, as workers outlive it."""


@dataclass(frozen=True)
class Batch:
    """B images of a data set.

    Attributes:
        images: B x 1 x S x S, uint8, 0 to 255, bones bright; see Preprocessing.normalise.
        indices: B positions in the data set, int64.
        labels: The targets: B x A x P or B x C, int8, 1 present, 0 absent, -1 unknown; or masks, B x 1 x S x S, uint8, 1 inside
            and 0 outside. None without targets.
        unreadable: Position in the data set -> why it could not be read; another image takes its place in the batch.
    """

    images: Tensor
    indices: Tensor
    labels: Tensor | None = None
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device, except for the labels: the losses first choose from them what to compute."""
        images, indices = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.indices))
        return replace(self, images=images, indices=indices)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; called by DataLoader."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, images=self.images.pin_memory(), indices=self.indices.pin_memory(), labels=labels)


@dataclass(frozen=True)
class Shard:
    """Which part of the batches this process takes, and how they are loaded.

    Attributes:
        batch: Images per batch on one process.
        workers: Worker processes; 0 decodes in this one. Does not change what is loaded.
        world_size: Number of processes.
        rank: This process, 0 to world_size - 1.
        pin_memory: Whether batches are put into page-locked memory, for a copy to a GPU.
    """

    batch: int
    workers: int = 0
    world_size: int = 1
    rank: int = 0
    pin_memory: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch size: {self.batch} is less than 1 image")
        if self.workers < 0:
            raise InputError(f"workers: {self.workers} is less than 0; 0 decodes in this process")


class ImageSource:
    """Images from their files, each with a target; see Source.

    Args:
        images: An image table, or files or images as for read_image.
        side: Side in pixels that images are squashed to; None leaves them at their own size.
        target: Position -> target; None for no targets.
        equalise: Whether to equalise each image's histogram first.
        at_least: As for read_image.
    """

    def __init__(
        self,
        images: ImageTable | ImageList | Sequence[ImageInput],
        side: int | None,
        target: Callable[[int], Tensor] | None = None,
        equalise: bool = False,
        at_least: int | None = None,
    ) -> None:
        self._images: Sequence[ImageInput]
        self._lines, self._source = None, ""
        if isinstance(images, ImageTable | ImageList):
            paths = images.images["path"]
            self._images = paths if isinstance(paths, Texts) else Texts(map(str, paths))
            self._lines = np.asarray(images.images["line"]) if "line" in images.images else None
            self._source = images.source
        else:
            self._images = images
        self._side, self._target, self._equalise, self._at_least = side, target, equalise, at_least

    def __len__(self) -> int:
        return len(self._images)

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and target.

        Raises:
            InputError: The image or its mask cannot be read; the message names the line that lists it.
        """
        try:
            image = read_image(self._images[index], self._at_least)
        except InputError as error:
            where = "" if self._lines is None else f"{self._source}: line {self._lines[index]}: "
            raise InputError(f"{where}{error}") from None
        image = equalise(image) if self._equalise else image
        target = torch.empty(0) if self._target is None else self._target(index)
        return torch.from_numpy(image)[None] if self._side is None else squash(image, self._side), target


@dataclass(frozen=True)
class ClassLabels:
    """Class labels as targets: n x C, int8."""

    labels: npt.NDArray[np.int8]

    def __call__(self, index: int) -> Tensor:
        """The labels of an image."""
        return torch.from_numpy(self.labels[index])


@dataclass(frozen=True)
class Masks:
    """Masks of one class as targets, 1 x side x side, uint8."""

    table: ImageTable
    label: str
    side: int

    def __call__(self, index: int) -> Tensor:
        """The mask of an image."""
        return squash_mask(self.table.mask(index, self.label), self.side)


class StudyLabels:
    """Label matrices as targets, A x P, int8.

    Args:
        table: A prepared list.
        store: Its label store.

    Raises:
        InputError: The list does not belong to the store.
    """

    def __init__(self, table: ImageTable | ImageList, store: LabelStore) -> None:
        self._rows, self._store = np.asarray(table.images["row"]), store
        store.check(table.images, table.source)

    def __call__(self, index: int) -> Tensor:
        """The label matrix of an image's study."""
        return torch.from_numpy(self._store.dense(int(self._rows[index])))


class EpochSampler(Sampler[list[_Item]]):
    """Which images make which batch, in a new order every epoch.

    The order is a function of (seed, epoch). Every process gets the same number of batches, all of one size. Within an epoch,
    no image appears twice; the few that would not fill a batch on every process are left out, different ones each epoch.

    Args:
        n: Number of images.
        seed: Seed of the order.
        batch: Images per batch on one process.
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

    def __iter__(self) -> Iterator[list[_Item]]:
        epoch, start = self._epoch, self._start
        order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
        for step in range(start, len(self)):
            first = (step * self.world_size + self.rank) * self.batch
            yield [(epoch, int(place)) for place in order[first : first + self.batch]]


class Loader:
    """Batches of one process, as often as they are iterated over. Made by ``training_loader`` and ``evaluation_loader``."""

    def __init__(self, dataset: _Batches, batches: EpochSampler | list[list[_Item]], shard: Shard) -> None:
        self._batches = batches
        # batch_size=None: the dataset returns whole batches, so that it can also return an error.
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=None,
            sampler=batches,
            num_workers=shard.workers,
            pin_memory=shard.pin_memory,
            persistent_workers=isinstance(batches, EpochSampler) and shard.workers > 0,
            worker_init_fn=_ignore_stop_signals,
        )

    def __len__(self) -> int:
        """Number of batches; in training, of a whole epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches.

        Raises:
            InputError: An image cannot be read.
        """
        with _without_handler():
            batches = iter(self._loader)
        for batch in batches:
            if isinstance(batch, str):
                raise InputError(batch)
            yield batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The training batches of one epoch.

        Args:
            epoch: Which one, from 0.
            start: Batch to begin with, to go on in the middle of an epoch.

        Raises:
            InputError: An image cannot be read.
        """
        assert isinstance(self._batches, EpochSampler)
        self._batches.begin(epoch, start)
        return iter(self)


def training_loader(
    source: Source, chosen: Indices, augment: Augment, seed: int, shard: Shard, substitute: bool = False
) -> Loader:
    """Shuffled batches of augmented images.

    Args:
        source: Images and targets of a data set.
        chosen: Which of them to train on; an image that is chosen twice appears twice per epoch, augmented differently.
        augment: The augmentation.
        seed: Seed of the order and of the augmentation.
        shard: The part of this process.
        substitute: Whether another of the chosen images takes the place of one that cannot be read.

    Raises:
        InputError: The images do not fill one batch on every process.
    """
    sampler = EpochSampler(len(chosen), seed, shard.batch, shard.world_size, shard.rank)
    if not len(sampler):
        raise InputError(
            f"{len(chosen)} training images do not fill a batch of {shard.batch} on {shard.world_size} process(es); choose a "
            "smaller batch (key train.batch_size)"
        )
    return Loader(_Batches(source, chosen, augment, seed, substitute), sampler, shard)


def evaluation_loader(source: Source, images: int, shard: Shard, substitute: bool = False) -> Loader:
    """Every image once, in order, without augmentation. Process r of w takes images r, r + w, r + 2 w, ...

    Args:
        source: Images and targets of a data set, all of one side.
        images: How many.
        shard: The part of this process.
        substitute: As for training_loader; only for images that are preloaded to train on.
    """
    mine = range(shard.rank, images, shard.world_size)
    batches = [[(0, index) for index in mine[at : at + shard.batch]] for at in range(0, len(mine), shard.batch)]
    return Loader(_Batches(source, np.arange(images), substitute=substitute), batches, shard)


@dataclass(frozen=True)
class Memory:
    """Images and targets in memory; see Source.

    Attributes:
        images: n x 1 x S x S, uint8.
        targets: n targets, empty for a source without targets.
        unreadable: Position -> why it could not be read.
    """

    images: Tensor
    targets: Tensor
    unreadable: dict[int, str] = field(default_factory=dict)

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and target.

        Raises:
            InputError: The image could not be read.
        """
        if index in self.unreadable:
            raise InputError(self.unreadable[index])
        return self.images[index], self.targets[index]


def preload(source: Source, images: int, workers: int, skip: bool = False) -> Memory:
    """Decode every image and target once and keep them in memory: side squared bytes per image, and as many per mask.

    Args:
        source: Images and targets of a data set, all of one side.
        images: How many, at least one.
        workers: Worker processes; 0 decodes in this one.
        skip: Whether to leave the error of an image that cannot be read to those who ask for that image.

    Raises:
        InputError: An image or mask cannot be read.
    """
    memory: Memory | None = None
    with tqdm(total=images, desc="loading images", unit="image") as progress:
        for batch in evaluation_loader(source, images, Shard(64, workers), skip):
            targets = batch.images.new_empty((len(batch), 0)) if batch.labels is None else batch.labels
            if memory is None:
                image, target = (part.new_empty((images, *part.shape[1:])) for part in (batch.images, targets))
                memory = Memory(image, target)
            memory.images[batch.indices], memory.targets[batch.indices] = batch.images, targets
            memory.unreadable.update(batch.unreadable)
            progress.update(len(batch))
    assert memory is not None
    return memory


@contextmanager
def _without_handler() -> Iterator[None]:
    """Remove the handler by which torch raises wherever this process is when a worker dies; the loader notices it anyway."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


def _ignore_stop_signals(worker: int) -> None:
    """Schedulers send their signals to all processes of a job, but the main process still needs its workers, and ends them."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True)
class _Batches(Dataset[Batch | str]):
    """Whole batches; what they hold is a function of the seed and the items alone.

    An InputError is returned as its message, because DataLoader would bury that line in a worker's traceback.
    """

    source: Source
    chosen: Indices
    augment: Augment | None = None
    seed: int = 0
    substitute: bool = False

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, items: Sequence[_Item]) -> Batch | str:
        unreadable: dict[int, str] = {}
        try:
            samples = [self._sample(epoch, place, unreadable) for epoch, place in items]
        except InputError as error:
            return str(error)
        indices, images, targets = (torch.stack(column) for column in zip(*samples, strict=True))
        return Batch(images, indices, targets if targets.numel() else None, unreadable)

    def _sample(self, epoch: int, place: int, unreadable: dict[int, str]) -> tuple[Tensor, Tensor, Tensor]:
        for index in self._candidates(epoch, place):
            try:
                image, target = self.source(index)
            except InputError as error:
                unreadable[index] = str(error)
                continue
            if self.augment is not None:
                image, target = self.augment(image, target, self.seed, epoch, place)
            return torch.tensor(index), image, target
        tried = f"; nor can {_DRAWS} others that were drawn in its place" if self.substitute else ""
        raise InputError(f"{unreadable[int(self.chosen[place])]}{tried}")

    def _candidates(self, epoch: int, place: int) -> Iterator[int]:
        """The image of this place; then, drawn only if it cannot be read, those that may take it."""
        yield int(self.chosen[place])
        if self.substitute:
            yield from np.random.default_rng((self.seed, epoch, place)).choice(self.chosen, _DRAWS).tolist()
