"""Samplers and loaders."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medslip.data.equalise import histogram_equalise
from medslip.data.images import read_image
from medslip.data.loading import (
    Batch,
    EpochSampler,
    evaluation_loader,
    image_paths,
    preload,
    training_loader,
)
from medslip.data.records import StudyList, read_list
from medslip.data.transforms import AugmentationConfig, EvaluationTransform, TrainingTransform, mirror_labels
from medslip.errors import InputError
from medslip.labels import LabelStore

EVALUATION = EvaluationTransform(32)
TRAINING = TrainingTransform(32, AugmentationConfig(flip_probability=0.5))


@pytest.fixture(scope="module")
def studies(tiny_prepared) -> StudyList:
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


def test_batch_holds_what_it_says(studies, store):
    loader = training_loader(studies, store, TRAINING, seed=0, batch=5, workers=0)
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
    loader = training_loader(studies, store, TrainingTransform(32, config), seed=0, batch=6, workers=0)
    flips = 0
    for batch in loader.epoch(0):
        for image, index, labels in zip(batch.images, batch.indices.tolist(), batch.labels.numpy(), strict=True):
            plain = EVALUATION(read_image(studies.image_path(index)))
            truth = store.dense(int(studies.table["row"].iat[index]))
            same = (image.int() - plain.int()).abs().float().mean()
            flipped = (image.flip(-1).int() - plain.int()).abs().float().mean()
            flips += bool(flipped < same)
            assert (labels == (mirror_labels(truth) if flipped < same else truth)).all()
    assert 0 < flips < 24


def test_workers_change_nothing_in_any_epoch(studies, store):
    """Also with workers that live on over epochs, and after an epoch that was left in the middle."""
    alone = training_loader(studies, store, TRAINING, seed=1, batch=4, workers=0)
    helped = training_loader(studies, store, TRAINING, seed=1, batch=4, workers=2)
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


def test_list_shorter_than_a_batch_is_refused(studies, store):
    with pytest.raises(InputError, match=r"train\.csv: 24 images do not fill a batch of 13 on 2"):
        training_loader(studies, store, TRAINING, seed=0, batch=13, workers=0, world_size=2)


def test_list_of_another_store_is_refused(studies, store):
    backwards = studies.table["row"].to_numpy()[::-1]
    swapped = StudyList(studies.table.assign(row=backwards), studies.folder, "a.csv")
    with pytest.raises(InputError, match=r"a\.csv: line 2"):
        training_loader(swapped, store, TRAINING, seed=0, batch=4, workers=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image_is_one_clean_line_from_any_worker(studies, store, tmp_path, workers):
    """DataLoader would bury it under the worker's traceback."""
    (tmp_path / "broken.png").write_bytes(read_bytes_of_first(studies)[:100])
    images = [str(path) for path in image_paths(studies)]
    images[11] = str(tmp_path / "broken.png")
    broken = StudyList(studies.table.assign(image=images), studies.folder, studies.source)
    training = training_loader(broken, store, TRAINING, seed=0, batch=4, workers=workers)
    evaluation = evaluation_loader(broken, EVALUATION, batch=4, workers=workers)
    for batches in (training.epoch(0), iter(evaluation)):
        with pytest.raises(InputError, match=r"broken\.png") as caught:
            list(batches)
        assert "\n" not in str(caught.value)


def read_bytes_of_first(studies: StudyList) -> bytes:
    return studies.image_path(0).read_bytes()


# Evaluation


@pytest.mark.parametrize(("workers", "world"), [(0, 1), (2, 1), (0, 5)])
def test_every_image_comes_once_in_order(studies, workers, world):
    """An image twice or not at all would change the scores."""
    seen = []
    for rank in range(world):
        loader = evaluation_loader(
            image_paths(studies), EVALUATION, batch=5, workers=workers, world_size=world, rank=rank
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        mine = torch.cat([batch.indices for batch in batches]).tolist()
        assert mine == list(range(rank, 24, world))
        for index, image in zip(mine, torch.cat([batch.images for batch in batches]), strict=True):
            assert torch.equal(image, EVALUATION(read_image(studies.image_path(index))))
        seen += mine
    assert sorted(seen) == list(range(24))


def test_evaluation_can_be_repeated_and_carries_labels(studies, store):
    loader = evaluation_loader(studies, EVALUATION, batch=7, workers=0, store=store)
    first, second = list(loader), list(loader)
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
    labels = torch.cat([batch.labels for batch in first]).numpy()
    assert (labels == store.dense_batch(studies.table["row"].tolist())).all()
    assert next(iter(evaluation_loader(studies, EVALUATION, batch=7, workers=0))).labels is None


def test_more_processes_than_images():
    assert list(evaluation_loader([Path("a")], EVALUATION, 4, 0, world_size=3, rank=2)) == []


# Preloading


@pytest.mark.parametrize("workers", [0, 2])
def test_preloaded_images_replace_the_files(studies, store, workers):
    kept = preload(studies, 32, workers)
    assert kept.shape == (24, 1, 32, 32)
    plain = torch.cat([batch.images for batch in evaluation_loader(studies, EVALUATION, 5, 0)])
    assert torch.equal(kept, plain)
    nowhere = StudyList(studies.table, Path("/nowhere"), studies.source)
    again = evaluation_loader(nowhere, EVALUATION, 5, 0, preloaded=kept)
    assert torch.equal(torch.cat([batch.images for batch in again]), plain)
    before = kept.clone()
    trained = training_loader(nowhere, store, TRAINING, 0, 4, workers, preloaded=kept)
    assert len(list(trained.epoch(0))) == 6
    assert torch.equal(kept, before)


def test_preloaded_images_of_another_list_are_refused(studies, store):
    with pytest.raises(ValueError, match="preloaded"):
        training_loader(studies, store, TRAINING, 0, 4, 0, preloaded=torch.zeros(3, 1, 32, 32, dtype=torch.uint8))


@settings(max_examples=10)
@given(labelled=st.booleans())
def test_a_batch_moves_whole(labelled):
    labels = torch.zeros(2, 51, 75, dtype=torch.int8) if labelled else None
    batch = Batch(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2), labels).to("meta")
    assert batch.images.device.type == batch.indices.device.type == "meta"
    assert (batch.labels is not None) == labelled
    assert batch.labels is None or batch.labels.device.type == "meta"


def test_paths_follow_the_list(studies):
    assert image_paths(studies) == [studies.image_path(index) for index in range(24)]
    assert np.all([path.exists() for path in image_paths(studies)])


def test_equalised_images_are_what_the_published_preprocessing_gives(tmp_path: Path) -> None:
    """Scores on RSNA would not be on the published input."""
    dark = np.random.default_rng(0).integers(10, 60, (32, 32), dtype=np.uint8)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    loader = evaluation_loader([tmp_path / "dark.png"], EvaluationTransform(32), 1, 0, equalise=True)
    np.testing.assert_array_equal(next(iter(loader)).images[0, 0].numpy(), histogram_equalise(dark))


def test_unreadable_image_of_a_list_is_named_with_its_line(tiny_prepared, tmp_path: Path, store) -> None:
    """Nobody would find the entry to take out of a list of 200 k."""
    table = read_list(tiny_prepared / "train.csv").table.iloc[:3].copy()
    (tmp_path / "broken.png").write_bytes(b"no image")
    table["image"] = ["gone.png", "broken.png", "gone.png"]
    broken = StudyList(table, tmp_path, str(tmp_path / "train.csv"))
    with pytest.raises(InputError, match=r"train\.csv: line 2: .*gone\.png"):
        next(iter(evaluation_loader(broken, EVALUATION, 1, 0)))
    with pytest.raises(InputError, match=r"train\.csv: line 2: .*gone\.png"):
        preload(broken, 32, 0)
    with pytest.raises(InputError, match=r"train\.csv: line [24]: .*gone\.png|train\.csv: line 3: .*broken\.png"):
        next(training_loader(broken, store, TRAINING, 0, 3, 0).epoch(0))


def test_impossible_numbers_are_refused(studies, store) -> None:
    """A mistyped option would end in a traceback of torch."""
    for batch, workers, words in ((0, 0, "batch size: 0"), (4, -1, "workers: -1")):
        with pytest.raises(InputError, match=words):
            training_loader(studies, store, TRAINING, 0, batch, workers)
        with pytest.raises(InputError, match=words):
            evaluation_loader(studies, EVALUATION, batch, workers)
