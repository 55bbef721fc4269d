"""Splits, exclusions and subsamples: without them, a patient could be trained and tested on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.data.splits import (
    check_fractions,
    choose_subsample,
    read_exclusion,
    set_aside,
    split_name,
    split_of,
    split_patients,
)
from medslip.data.table import ImageTable
from medslip.errors import InputError


@settings(deadline=None)
@given(st.text(), st.integers(0, 2**31), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_patient_has_one_split_for_ever(patient: str, seed: int, valid: float, test: float) -> None:
    split = split_of(patient, seed, valid, test)
    assert split == split_of(patient, seed, valid, test)
    assert test > 0 or split != "test"
    assert valid > 0 or split != "valid"


def test_fractions_are_met_and_seeds_differ() -> None:
    patients = [f"p{index}" for index in range(5000)]
    counts = Counter(split_of(patient, 0, 0.1, 0.2) for patient in patients)
    assert abs(counts["valid"] / 5000 - 0.1) < 0.02
    assert abs(counts["test"] / 5000 - 0.2) < 0.02
    moved = sum(split_of(patient, 0, 0.1, 0.2) != split_of(patient, 1, 0.1, 0.2) for patient in patients)
    assert moved > 500
    # The same on every machine.
    first = [split_of(f"p{index}", 0, 0.25, 0.25) for index in range(8)]
    assert first == ["train", "train", "test", "train", "train", "train", "train", "train"]


def test_publishers_words_for_splits() -> None:
    assert [split_name(text, "x") for text in ("validate", "Train", " testing")] == ["valid", "train", "test"]
    with pytest.raises(InputError, match=r"a.csv: line 3: split 'fold1'"):
        split_name("fold1", "a.csv: line 3")


@pytest.mark.parametrize("fractions", [(-0.1, 0.2), (0.5, 0.5)])
def test_fractions_that_leave_nothing_are_refused(fractions: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="less than 1"):
        check_fractions(*fractions)


def four(*patients: str) -> ImageTable:
    return ImageTable("x", pd.DataFrame({"path": [f"x/{number}.jpg" for number in (1, 2, 3, 4)], "patient": patients}))


TABLE = four("a", "a", "b", "c")


def test_images_exclude_their_patients_whatever_folder_and_suffix(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("else/2.png\n9.png\n")
    patients, notes = read_exclusion(TABLE, None, tmp_path / "list.txt")
    assert patients == {"a"}
    assert "names 2 images; 1 are in the table" in notes[0]
    assert read_exclusion(TABLE, None, None) == (frozenset(), [])


@pytest.mark.parametrize("text", ["c\nz\n", "image,patient\n7.png,c\n"])
def test_patients_are_excluded_by_text_file_or_csv(tmp_path: Path, text: str) -> None:
    (tmp_path / "patients.csv").write_text(text)
    assert read_exclusion(TABLE, tmp_path / "patients.csv", None)[0] == {"c"}


def test_images_of_unknown_patients_cannot_be_excluded_silently(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("1.png\n")
    with pytest.raises(InputError, match="patient column"):
        read_exclusion(four("", "", "", ""), None, tmp_path / "list.txt")


@pytest.mark.parametrize(("text", "message"), [("", "empty"), ("p,q\n1,2\n", "several columns")])
def test_a_useless_exclusion_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "patients.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_exclusion(TABLE, tmp_path / "patients.txt", None)
    with pytest.raises(InputError, match="not found"):
        read_exclusion(TABLE, tmp_path / "none.txt", None)


def test_patients_are_set_aside_whole() -> None:
    """A threshold would be chosen on a patient who is scored."""
    patients = [name for index in range(20) for name in (f"p{index}", f"p{index}")] + ["", ""]
    images = ImageTable("x", pd.DataFrame({"path": map(str, range(42)), "patient": patients}))
    aside, rest = set_aside(images, 0.25, 1)
    assert not set(aside.patients) & set(rest.patients) - {""}
    assert sorted([*aside.paths, *rest.paths]) == sorted(images.paths)
    assert aside.paths == set_aside(images, 0.25, 1)[0].paths
    assert 5 <= len(aside) <= 12
    with pytest.raises(InputError, match="only one patient"):
        set_aside(images.at([0, 1]), 0.25, 1)


def test_patients_are_not_split_wherever_their_images_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patient would be trained and tested on; or another machine, or spelling of a path, would choose other images."""
    monkeypatch.chdir(tmp_path)
    patients = [f"p{index // 3}" for index in range(60)] + [""] * 20
    names = [f"{index % 3}/{index}.png" for index in range(80)]
    folders = (Path("images"), tmp_path / "images", Path("/far/away"), Path("images/../images"))
    found = []
    for folder in folders:
        images = pd.DataFrame({"path": [str(folder / name) for name in names], "patient": patients, "study": range(80)})
        splits = split_patients(ImageTable("x", images), 0, 0.3, 0.3)
        found.append({split: table.images["study"].tolist() for split, table in splits.items()})
    owners = [{patients[index] or str(index) for index in indices} for indices in found[0].values()]
    assert sum(map(len, owners)) == len(set.union(*owners))
    assert sorted(index for indices in found[0].values() for index in indices) == list(range(80))
    assert all(other == found[0] for other in found[1:])


strata = st.lists(st.sampled_from("abc"), min_size=1, max_size=300)
fractions = st.floats(0.001, 1)
seeds = st.integers(0, 1000)


@given(strata, fractions, fractions, seeds)
@settings(max_examples=60, deadline=None)
def test_a_smaller_subsample_is_part_of_a_larger_one(labels, one, other, seed):
    """Otherwise results at 1 % and 10 % would also differ by the luck of the images, or a run not be repeatable."""
    small, large = sorted((one, other))
    assert set(choose_subsample(labels, small, seed)) <= set(choose_subsample(labels, large, seed))


@given(strata, fractions, seeds)
@settings(max_examples=60, deadline=None)
def test_the_number_is_the_fraction_of_the_whole_and_of_each_stratum(labels, fraction, seed):
    chosen = choose_subsample(labels, fraction, seed)
    number = max(1, round(fraction * len(labels)))
    assert len(chosen) == len(set(chosen)) == number
    assert (np.diff(chosen) > 0).all()
    taken, sizes = Counter(labels[index] for index in chosen), Counter(labels)
    for name, size in sizes.items():
        share = size / len(labels)
        # Within 1 of its own share of the cut, and the cut within one image per stratum of the number.
        assert abs(taken[name] - number * share) <= 1 + len(sizes) * share + 1e-9


def test_fraction_1_is_everything_and_seeds_differ():
    labels = ["marked", "empty"] * 100
    assert np.array_equal(choose_subsample(labels, 1.0, 0), np.arange(200))
    assert not np.array_equal(choose_subsample(labels, 0.1, 0), choose_subsample(labels, 0.1, 1))
    assert Counter(labels[index] for index in choose_subsample(labels, 0.1, 0)) == {"marked": 10, "empty": 10}


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_an_error(fraction):
    with pytest.raises(InputError, match=r"data\.fraction: .* is not above 0 and at most 1"):
        choose_subsample(["a"], fraction, 0)
