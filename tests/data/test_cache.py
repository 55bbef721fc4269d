"""The image cache."""

import os
import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medslip.data import cache
from medslip.data.cache import build_cache
from medslip.data.images import read_image
from medslip.data.preprocessing import squash
from medslip.errors import InputError


@pytest.fixture
def images(tiny_prepared, tmp_path):
    folder = shutil.copytree(tiny_prepared, tmp_path / "images")
    return sorted(folder.glob("*.png"))


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_is_squashed_and_comes_back_in_its_place(images, tmp_path, workers):
    """An image would be trained on the report of another."""
    twice = [*images, images[0]]
    cached = build_cache(twice, tmp_path / "cache", 32, workers)
    for original, small in zip(twice, cached, strict=True):
        assert small.is_relative_to(tmp_path / "cache")
        assert (read_image(small) == squash(read_image(original), 32)[0].numpy()).all()
    assert sorted(files(tmp_path / "cache")) == sorted(set(cached))


def test_same_file_name_in_two_folders_gives_two_images(tmp_path):
    """Publishers reuse file names across folders; one image must not overwrite another."""
    paths = [tmp_path / folder / "1.png" for folder in ("a", "b")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        Image.fromarray(np.full((40, 40), 100 * number, np.uint8)).save(path)
    assert [int(read_image(path).max()) for path in build_cache(paths, tmp_path / "cache", 16, 0)] == [0, 100]


def test_an_interrupted_run_goes_on_where_it_was(images, tmp_path, monkeypatch):
    """Only what is missing, or has changed since, is decoded again, and halves of images do not stay."""
    names = build_cache(images, tmp_path / "cache", 32, 0)
    names[3].replace(names[3].with_name(names[3].name + ".partial"))
    os.utime(images[5], ns=(1, 1))
    decoded = []
    monkeypatch.setattr(cache, "read_image", lambda path, **more: decoded.append(path) or read_image(path, **more))
    again = build_cache(images, tmp_path / "cache", 32, 0)
    assert decoded == [images[3].resolve(), images[5].resolve()]
    assert [a == b for a, b in zip(names, again, strict=True)] == [i != 5 for i in range(len(images))]
    assert sorted(files(tmp_path / "cache")) == sorted({*names, *again})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("broken", ["cut", "missing"])
def test_broken_image_is_named(images, tmp_path, workers, broken):
    victim = images[-1]
    if broken == "cut":
        victim.write_bytes(victim.read_bytes()[:60])
    else:
        victim.unlink()
    with pytest.raises(InputError, match=rf"{victim.name}") as caught:
        build_cache(images, tmp_path / "cache", 32, workers)
    assert "\n" not in str(caught.value)


def test_a_killed_worker_leaves_no_half_of_an_image(images, tmp_path, monkeypatch):
    """It cannot remove it itself."""
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: (path.write_text("half"), os._exit(1)))
    with pytest.raises(BrokenProcessPool):
        build_cache(images, tmp_path / "cache", 32, workers=2)
    assert files(tmp_path / "cache") == []
