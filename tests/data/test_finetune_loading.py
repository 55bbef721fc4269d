"""Batches of images with masks or labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medslip.data.finetune_loading import (
    LabelAugment,
    Shard,
    TableSource,
    evaluation_loader,
    preload,
    training_loader,
)
from medslip.data.image_labels import one_class
from medslip.data.joint_transforms import JointAugmentationConfig, JointTransform
from medslip.data.table import FINDING_COLUMNS, ImageTable
from medslip.data.transforms import AugmentationConfig, TrainingTransform
from medslip.errors import InputError


@pytest.fixture
def masked(tmp_path: Path) -> ImageTable:
    """Six images; each odd one has a mask where it is bright."""
    random = np.random.default_rng(0)
    paths, found = [], []
    for index in range(6):
        image, mask = random.integers(0, 90, (40, 40), dtype=np.uint8), np.zeros((40, 40), np.uint8)
        paths.append(tmp_path / f"{index}.png")
        if index % 2:
            mask[5 * index : 5 * index + 10, 10:30] = 255
            found.append((index, "blob", *(np.nan,) * 4, tmp_path / f"mask{index}.png"))
            Image.fromarray(mask).save(found[-1][-1])
        Image.fromarray(np.maximum(image, mask)).save(paths[-1])
    images = pd.DataFrame({"path": list(map(str, paths)), "height": 40, "width": 40})
    return ImageTable(
        "test", images, one_class("blob", np.arange(6) % 2 == 1), pd.DataFrame(found, columns=FINDING_COLUMNS)
    )


def all_of(loader) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {
        int(index): (image, label)
        for batch in loader
        for index, image, label in zip(batch.indices, batch.images, batch.labels, strict=True)
    }


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_image_comes_once_with_its_mask(masked, world_size):
    found = {}
    for rank in range(world_size):
        found |= all_of(evaluation_loader(TableSource(masked, "blob", 32), 6, Shard(2, 0, world_size, rank)))
    assert sorted(found) == list(range(6))
    for index, (image, mask) in found.items():
        assert image.shape == mask.shape == (1, 32, 32)
        assert bool(mask.any()) == bool(index % 2)
        assert not mask.any() or float(image[mask > 0].float().mean()) > 200


def test_training_uses_the_subsample_alone_and_memory_changes_nothing(masked):
    """A subsample of the labels means nothing if other images slip in."""
    augment, chosen = JointTransform(32, JointAugmentationConfig()), np.array([1, 4, 5])
    source = TableSource(masked, "blob", 48)
    sources = (source, preload(source, 6, 0))
    for epoch in (0, 1):
        loaders = [training_loader(source, chosen, augment, 7, Shard(1)) for source in sources]
        one, other = (all_of(loader.epoch(epoch)) for loader in loaders)
        assert sorted(one) == [1, 4, 5]
        assert all(torch.equal(a, b) for index in one for a, b in zip(one[index], other[index], strict=True))


def test_an_image_that_comes_twice_is_augmented_differently(masked):
    augment = JointTransform(32, JointAugmentationConfig())
    (batch,) = training_loader(TableSource(masked, "blob", 48), np.array([1, 1]), augment, 0, Shard(2)).epoch(0)
    assert batch.indices.tolist() == [1, 1]
    assert not torch.equal(batch.images[0], batch.images[1])


def test_class_labels_stay_with_their_images(masked):
    augment = LabelAugment(TrainingTransform(32, AugmentationConfig(scale_min=0.9, operations=0)))
    loader = training_loader(TableSource(masked), np.array([0, 3, 4, 5]), augment, 0, Shard(2))
    found = all_of(loader.epoch(0))
    assert {index: int(label) for index, (_, label) in found.items()} == {0: 0, 3: 1, 4: 0, 5: 1}


def test_a_bad_file_is_one_line_from_a_worker_too(masked):
    masked.paths[3].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"3\.png"):
        list(evaluation_loader(TableSource(masked, "blob", 32), 6, Shard(2, workers=1)))
