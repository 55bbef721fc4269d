"""The image cache."""

import os
import shutil
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from PIL import Image

from medslip.data import cache
from medslip.data.cache import build_cache
from medslip.data.images import read_image
from medslip.data.prepared import read_list, write_list
from medslip.data.preprocessing import squash
from medslip.errors import InputError


@pytest.fixture
def prepared(tiny_prepared, tmp_path):
    return shutil.copytree(tiny_prepared, tmp_path / "prepared")


def lists(prepared):
    return [prepared / "train.csv", prepared / "valid.csv"]


def images(path):
    return read_list(path).paths


@pytest.mark.parametrize("workers", [0, 2])
def test_lists_name_the_small_images_in_order_and_nothing_else_changes(prepared, workers):
    before = {path: (read_list(path).images, images(path)) for path in lists(prepared)}
    build_cache(lists(prepared), prepared / "cache", 32, workers)
    for path, (table, originals) in before.items():
        after = read_list(path)
        assert after.images.drop(columns="path").equals(table.drop(columns="path"))
        for original, cached in zip(originals, images(path), strict=True):
            assert cached.is_relative_to(prepared / "cache")
            assert (read_image(cached) == squash(read_image(original), 32)[0].numpy()).all()
    assert not list(prepared.rglob("*.partial"))


def test_same_file_name_in_two_folders_gives_two_images(prepared):
    """Publishers number images anew in each folder: one must not overwrite the other."""
    table = read_list(prepared / "train.csv").images.iloc[:2]
    for number, folder in enumerate(("a", "b")):
        (prepared / folder).mkdir()
        Image.fromarray(np.full((40, 40), 100 * number, np.uint8)).save(prepared / folder / "1.png")
    write_list(prepared / "two.csv", table.assign(image=["a/1.png", "b/1.png"]))
    build_cache([prepared / "two.csv"], prepared / "cache", 16, 0)
    assert [int(read_image(path).max()) for path in images(prepared / "two.csv")] == [0, 100]


def count_decoded(monkeypatch) -> list:
    decoded = []

    def counting(path, at_least=None):
        decoded.append(path)
        return read_image(path, at_least)

    monkeypatch.setattr(cache, "read_image", counting)
    return decoded


def test_an_interrupted_run_goes_on_where_it_was(prepared, monkeypatch):
    """Only what is missing, or has changed since, is decoded again."""
    original = {path: path.read_bytes() for path in lists(prepared)}
    sources = images(lists(prepared)[0])
    build_cache(lists(prepared), prepared / "cache", 32, 0)
    names = images(lists(prepared)[0])
    for path, content in original.items():
        path.write_bytes(content)
    names[3].unlink()
    os.utime(sources[5], ns=(1, 1))
    decoded = count_decoded(monkeypatch)
    build_cache(lists(prepared), prepared / "cache", 32, 0)
    assert decoded == [sources[3].resolve(), sources[5].resolve()]
    again = images(lists(prepared)[0])
    assert [a == b for a, b in zip(names, again, strict=True)] == [i != 5 for i in range(24)]


def test_caching_a_cached_list_again_changes_nothing_and_another_size_is_refused(prepared, monkeypatch):
    """It would enlarge small images, or shrink twice, in silence."""
    build_cache(lists(prepared), prepared / "cache", 32, 0)
    content = [path.read_bytes() for path in lists(prepared)]
    decoded = count_decoded(monkeypatch)
    build_cache(lists(prepared), prepared / "cache", 32, 0)
    assert decoded == []
    assert [path.read_bytes() for path in lists(prepared)] == content
    with pytest.raises(InputError, match="of a size other than 48"):
        build_cache(lists(prepared), prepared / "cache", 48, 0)


@pytest.mark.parametrize("inside", [True, False])
def test_a_prepared_folder_can_be_moved_with_its_cache_inside_or_without_it(prepared, tmp_path, inside):
    cache = prepared / "cache" if inside else tmp_path / "elsewhere"
    build_cache(lists(prepared), cache, 32, 0)
    moved = prepared.rename(tmp_path / "moved")
    folder = moved / "cache" if inside else cache
    assert all(path.exists() and path.is_relative_to(folder) for path in images(moved / "train.csv"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("broken", ["cut", "missing"])
def test_broken_image_is_named_and_the_lists_stay_as_they_were(prepared, workers, broken):
    content = [path.read_bytes() for path in lists(prepared)]
    victim = prepared / "valid_4.png"
    if broken == "cut":
        victim.write_bytes(victim.read_bytes()[:60])
    else:
        victim.unlink()
    with pytest.raises(InputError, match=r"valid_4\.png") as caught:
        build_cache(lists(prepared), prepared / "cache", 32, workers)
    assert "\n" not in str(caught.value)
    assert [path.read_bytes() for path in lists(prepared)] == content


def test_a_killed_worker_leaves_no_half_of_an_image(prepared, monkeypatch):
    """It cannot remove it itself."""
    monkeypatch.setattr(Image.Image, "save", lambda image, path, **_: (path.write_bytes(b"half"), os._exit(1)))
    content = [path.read_bytes() for path in lists(prepared)]
    with pytest.raises(BrokenProcessPool):
        build_cache(lists(prepared), prepared / "cache", 32, workers=2)
    assert [path for path in (prepared / "cache").rglob("*") if path.is_file()] == []
    assert [path.read_bytes() for path in lists(prepared)] == content
