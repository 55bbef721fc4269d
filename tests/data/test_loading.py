"""Samplers and loaders."""

import itertools
import multiprocessing
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medslip.data.augmentation import (
    AugmentationConfig,
    JointAugmentationConfig,
    JointTransform,
    LabelAugment,
    TrainingTransform,
    mirror_labels,
)
from medslip.data.images import read_image
from medslip.data.loading import (
    Batch,
    ClassLabels,
    EpochSampler,
    ImageSource,
    Masks,
    Shard,
    StudyLabels,
    evaluation_loader,
    preload,
    training_loader,
)
from medslip.data.masks import runs_of
from medslip.data.prepared import read_list
from medslip.data.preprocessing import equalise, squash
from medslip.data.table import FINDING_COLUMNS, ImageTable
from medslip.errors import InputError
from medslip.labels import LabelStore

TRAINING = TrainingTransform(32, AugmentationConfig(flip_probability=0.5))


@pytest.fixture(scope="module")
def studies(tiny_prepared) -> ImageTable:
    return read_list(tiny_prepared / "train.csv")


@pytest.fixture(scope="module")
def store(tiny_prepared) -> LabelStore:
    return LabelStore(tiny_prepared / "labels")


# Sampler

sizes = {
    "n": st.integers(1, 200),
    "seed": st.integers(0, 2**32),
    "batch": st.integers(1, 12),
    "world": st.integers(1, 4),
    "epoch": st.integers(0, 50),
}


def epoch_of(sampler: EpochSampler, epoch: int, start: int = 0) -> list[list[tuple[int, int]]]:
    sampler.begin(epoch, start)
    return list(sampler)


@given(**sizes)
def test_processes_share_an_epoch_without_overlap(n, seed, batch, world, epoch):
    """Unequal numbers of batches would hang a distributed run; a doubled image would count twice."""
    ranks = [epoch_of(EpochSampler(n, seed, batch, world, rank), epoch) for rank in range(world)]
    number = n // (batch * world)
    assert [len(batches) for batches in ranks] == [number] * world
    items = [item for batches in ranks for one in batches for item in one]
    assert all(len(one) == batch for batches in ranks for one in batches)
    assert {epoch} >= {item[0] for item in items}
    indices = [index for _, index in items]
    assert len(set(indices)) == len(indices) == number * batch * world
    assert n - len(indices) < batch * world
    assert set(indices) <= set(range(n))


@given(**sizes, start=st.integers(0, 30))
def test_an_epoch_can_be_taken_up_in_the_middle(n, seed, batch, world, epoch, start):
    """A resumed run must see exactly the batches that the stopped one had not seen."""
    whole = epoch_of(EpochSampler(n, seed, batch, world, 0), epoch)
    assert epoch_of(EpochSampler(n, seed, batch, world, 0), epoch, start) == whole[start:]


@given(n=st.integers(1, 100), batch=st.integers(1, 8), split=st.sampled_from([1, 2, 4]))
def test_global_batches_do_not_depend_on_the_number_of_processes(n, batch, split):
    """One process with batch 4 b, or 4 with b, take the same steps."""
    one = epoch_of(EpochSampler(n, 3, batch * split), 5)
    many = [epoch_of(EpochSampler(n, 3, batch, split, rank), 5) for rank in range(split)]
    assert one == [list(itertools.chain(*parts)) for parts in zip(*many, strict=True)]


def test_order_changes_with_epoch_and_seed():
    orders = {
        tuple(index for one in epoch_of(EpochSampler(50, seed, 5), epoch) for _, index in one)
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9
    assert tuple(range(50)) not in orders


# Training


def source_of(studies, store, transform=TRAINING) -> ImageSource:
    return ImageSource(studies, None, StudyLabels(studies, store), at_least=transform.source_side)


def training(studies, store, shard, seed=0, transform=TRAINING, substitute=False):
    source = source_of(studies, store, transform)
    return training_loader(source, np.arange(len(studies)), LabelAugment(transform), seed, shard, substitute)


def evaluation(images, shard, side=32):
    return evaluation_loader(ImageSource(images, side), len(images), shard)


def test_batch_holds_what_it_says(studies, store):
    loader = training(studies, store, Shard(5))
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 4
    for batch in batches:
        assert len(batch) == 5
        assert batch.images.shape == (5, 1, 32, 32)
        assert batch.images.dtype == torch.uint8
        assert batch.indices.dtype == torch.int64
        assert batch.labels.dtype == torch.int8


def test_labels_belong_to_their_images_and_are_mirrored_with_them(studies, store):
    """The images are bright on the side of their effusion: after a flip, image and label must still agree."""
    config = AugmentationConfig(scale_min=1.0, scale_max=1.0, operations=0, flip_probability=0.5)
    flips = 0
    for batch in training(studies, store, Shard(6), transform=TrainingTransform(32, config)).epoch(0):
        for image, index, labels in zip(batch.images, batch.indices.tolist(), batch.labels.numpy(), strict=True):
            plain = squash(read_image(studies.paths[index]), 32)
            truth = store.dense(int(studies.images["row"].iat[index]))
            same = (image.int() - plain.int()).abs().float().mean()
            flipped = (image.flip(-1).int() - plain.int()).abs().float().mean()
            flips += bool(flipped < same)
            assert (labels == (mirror_labels(truth) if flipped < same else truth)).all()
    assert 0 < flips < 24


def test_workers_change_nothing_in_any_epoch(studies, store):
    """Also with workers that live on over epochs, and after an epoch that was left in the middle."""
    alone, helped = (training(studies, store, Shard(4, workers), seed=1) for workers in (0, 2))
    next(helped.epoch(7))
    previous = None
    for epoch, start in ((0, 0), (1, 2)):
        pairs = list(zip(alone.epoch(epoch, start), helped.epoch(epoch, start), strict=True))
        assert len(pairs) == 6 - start
        for ours, theirs in pairs:
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.indices, theirs.indices)
            assert torch.equal(ours.labels, theirs.labels)
        assert previous is None or not torch.equal(previous, pairs[0][0].images)
        previous = pairs[0][0].images


def test_images_that_fill_no_batch_are_refused(studies, store):
    with pytest.raises(InputError, match=r"24 training images do not fill a batch of 13 on 2"):
        training(studies, store, Shard(13, world_size=2))


def test_list_of_another_store_is_refused(studies, store):
    backwards = studies.images.assign(row=studies.images["row"].to_numpy()[::-1])
    with pytest.raises(InputError, match=r"train\.csv: line 2"):
        StudyLabels(replace(studies, images=backwards), store)


@pytest.fixture
def localised(tmp_path: Path) -> ImageTable:
    """Six images; each odd one is marked where it is bright."""
    random = np.random.default_rng(0)
    rows, found = [], []
    for index in range(6):
        image, mask = random.integers(0, 90, (40, 40), dtype=np.uint8), np.zeros((40, 40), bool)
        if index % 2:
            mask[5 * index : 5 * index + 10, 10:30] = True
            found.append((index, "blob", *(np.nan,) * 4, runs_of(mask)))
        Image.fromarray(np.where(mask, np.uint8(255), image)).save(tmp_path / f"{index}.png")
        rows.append({"path": tmp_path / f"{index}.png", "height": 40, "width": 40})
    labels = pd.DataFrame({"blob": [index % 2 for index in range(6)]})
    return ImageTable("test", pd.DataFrame(rows), labels, pd.DataFrame(found, columns=list(FINDING_COLUMNS)))


def all_of(loader) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {
        int(index): (image, label)
        for batch in loader
        for index, image, label in zip(batch.indices, batch.images, batch.labels, strict=True)
    }


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_image_comes_once_with_its_mask(localised, world_size):
    found = {}
    source = ImageSource(localised, 32, Masks(localised, "blob", 32))
    for rank in range(world_size):
        found |= all_of(evaluation_loader(source, 6, Shard(2, 0, world_size, rank)))
    assert sorted(found) == list(range(6))
    for index, (image, mask) in found.items():
        assert image.shape == mask.shape == (1, 32, 32)
        assert bool(mask.any()) == bool(index % 2)
        assert not mask.any() or float(image[mask > 0].float().mean()) > 200


@pytest.mark.parametrize("target", ["masks", "labels"])
def test_training_takes_the_chosen_images_alone_and_memory_changes_nothing(localised, target):
    """A subsample of the labels means nothing if other images slip in."""
    if target == "masks":
        source = ImageSource(localised, 48, Masks(localised, "blob", 48))
        augment = JointTransform(32, JointAugmentationConfig())
    else:
        source = ImageSource(localised, 48, ClassLabels(localised.label_array))
        augment = LabelAugment(TRAINING)
    chosen = np.array([1, 4, 5])
    kept = preload(source, 6, 0)
    for epoch in (0, 1):
        batches = [list(training_loader(each, chosen, augment, 7, Shard(1)).epoch(epoch)) for each in (source, kept)]
        assert sorted(int(batch.indices) for batch in batches[0]) == chosen.tolist()
        for ours, theirs in zip(*batches, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)
            assert bool(ours.labels.any()) == bool(int(ours.indices) % 2)


def test_an_image_that_is_chosen_twice_comes_twice_varied_differently(localised):
    source = ImageSource(localised, 48, ClassLabels(localised.label_array))
    loader = training_loader(source, np.array([3, 3]), LabelAugment(TRAINING), 0, Shard(2))
    (batch,) = loader.epoch(0)
    assert batch.indices.tolist() == [3, 3]
    assert not torch.equal(batch.images[0], batch.images[1])


@pytest.fixture
def broken(studies, tmp_path) -> ImageTable:
    """The studies, with an image that is cut short at position 11."""
    (tmp_path / "broken.png").write_bytes(studies.paths[0].read_bytes()[:100])
    paths = [str(path) for path in studies.paths]
    paths[11] = str(tmp_path / "broken.png")
    return replace(studies, images=studies.images.assign(path=paths))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image_is_one_clean_line_from_any_worker(broken, store, workers):
    """DataLoader would bury it under the worker's traceback."""
    loaders = training(broken, store, Shard(4, workers)).epoch(0), evaluation(broken, Shard(4, workers))
    for batches in loaders:
        with pytest.raises(InputError, match=r"train\.csv: line 13: .*broken\.png") as caught:
            list(batches)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preloads", [False, True])
def test_another_image_takes_the_place_of_a_broken_one(broken, store, preloads):
    """The same one with any workers and on any process, with its own labels; the batches stay as many and as large."""
    source = ImageSource(broken, 48, StudyLabels(broken, store))
    source = preload(source, 24, 2, skip=True) if preloads else source
    plain = TrainingTransform(48, AugmentationConfig(scale_min=1.0, scale_max=1.0, operations=0, flip_probability=0.0))

    def epoch(number, batch, workers=0, world=1, rank=0):
        shard = Shard(batch, workers, world, rank)
        return list(training_loader(source, np.arange(24), LabelAugment(plain), 1, shard, True).epoch(number))

    taken = set()
    for number in range(3):
        alone, helped = epoch(number, 4), epoch(number, 4, workers=2)
        shared = [
            batch for pair in zip(*(epoch(number, 2, 0, 2, rank) for rank in (0, 1)), strict=True) for batch in pair
        ]
        orders = [torch.cat([batch.indices for batch in batches]) for batches in (alone, helped, shared)]
        assert torch.equal(orders[0], orders[1])
        assert torch.equal(orders[0], orders[2])
        indices = orders[0].tolist()
        assert (len(alone), len(indices), 11 in indices) == (6, 24, False)
        taken |= {index for index in indices if indices.count(index) == 2}
        for batch in alone:
            for image, index, labels in zip(batch.images, batch.indices.tolist(), batch.labels.numpy(), strict=True):
                assert torch.equal(image, squash(read_image(broken.paths[index]), 48))
                assert (labels == store.dense(int(broken.images["row"].iat[index]))).all()
        (unreadable,) = [batch.unreadable for batch in helped if batch.unreadable]
        assert list(unreadable) == [11]
        assert "train.csv: line 13: " in unreadable[11]
    assert len(taken) > 1  # not one image for ever


def test_a_folder_of_unreadable_images_ends_the_run_all_the_same(studies, store, tmp_path):
    """A disk that is gone must not look like a run on the rest."""
    gone = replace(studies, images=studies.images.assign(path=[str(tmp_path / f"{k}.png") for k in range(24)]))
    with pytest.raises(InputError, match=r"train\.csv: line \d+: .*check the path; nor can 10 others that were drawn"):
        list(training(gone, store, Shard(4), substitute=True).epoch(0))


# Evaluation


def test_a_killed_worker_is_an_error_of_the_loader(studies):
    """torch's own handler would raise it wherever the main process happens to be, such as in a write or a clean-up."""
    handler, batches = signal.getsignal(signal.SIGCHLD), iter(evaluation(studies.paths, Shard(1, 1)))
    next(batches)
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    assert signal.getsignal(signal.SIGCHLD) == handler
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(batches)


@pytest.mark.parametrize(("workers", "world"), [(0, 1), (2, 1), (0, 5)])
def test_every_image_comes_once_in_order(studies, workers, world):
    """An image twice or not at all would change the scores."""
    seen = []
    for rank in range(world):
        loader = evaluation(studies.paths, Shard(5, workers, world, rank))
        batches = list(loader)
        assert len(batches) == len(loader)
        mine = torch.cat([batch.indices for batch in batches]).tolist()
        assert mine == list(range(rank, 24, world))
        for index, image in zip(mine, torch.cat([batch.images for batch in batches]), strict=True):
            assert torch.equal(image, squash(read_image(studies.paths[index]), 32))
        seen += mine
    assert sorted(seen) == list(range(24))


def test_evaluation_can_be_repeated_and_carries_labels(studies, store):
    loader = evaluation_loader(ImageSource(studies, 32, StudyLabels(studies, store)), 24, Shard(7))
    first, second = list(loader), list(loader)
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
    labels = torch.cat([batch.labels for batch in first]).numpy()
    assert (labels == [store.dense(row) for row in studies.images["row"]]).all()
    assert next(iter(evaluation(studies, Shard(7)))).labels is None


def test_more_processes_than_images():
    assert list(evaluation([Path("a")], Shard(4, world_size=3, rank=2))) == []


# Preloading


@pytest.mark.parametrize("workers", [0, 2])
def test_preloaded_images_replace_the_files(studies, store, workers):
    labels = StudyLabels(studies, store)
    kept = preload(ImageSource(studies, 32, labels), 24, workers)
    plain = torch.cat([batch.images for batch in evaluation(studies, Shard(5))])
    assert torch.equal(kept.images, plain)
    assert (kept.targets.numpy() == [store.dense(row) for row in studies.images["row"]]).all()
    again = evaluation_loader(kept, 24, Shard(5))
    assert torch.equal(torch.cat([batch.images for batch in again]), plain)
    before = kept.images.clone()
    trained = training_loader(kept, np.arange(24), LabelAugment(TRAINING), 0, Shard(4, workers))
    assert len(list(trained.epoch(0))) == 6
    assert torch.equal(kept.images, before)
    assert preload(ImageSource(studies, 32), 24, 0).targets.numel() == 0


@settings(max_examples=10)
@given(labelled=st.booleans())
def test_a_batch_moves_without_its_labels(labelled):
    """The losses choose by the labels what to compute; on a GPU they would have to wait for it."""
    labels = torch.zeros(2, 51, 75, dtype=torch.int8) if labelled else None
    batch = Batch(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2), labels).to("meta")
    assert batch.images.device.type == batch.indices.device.type == "meta"
    assert batch.labels is labels


def test_equalised_images_are_what_the_published_preprocessing_gives(tmp_path: Path) -> None:
    """Scores on RSNA would not be on the published input."""
    dark = np.random.default_rng(0).integers(10, 60, (32, 32), dtype=np.uint8)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    image, _ = ImageSource([tmp_path / "dark.png"], 32, equalise=True)(0)
    np.testing.assert_array_equal(image[0].numpy(), equalise(dark))


@pytest.mark.parametrize(("batch", "workers", "words"), [(0, 0, "batch size: 0"), (4, -1, "workers: -1")])
def test_impossible_numbers_are_refused(batch, workers, words) -> None:
    """A mistyped option would end in a traceback of torch."""
    with pytest.raises(InputError, match=words):
        Shard(batch, workers)
