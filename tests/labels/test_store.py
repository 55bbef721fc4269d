"""The label store: labels must come back cell for cell, for the study that the list names."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT, UNKNOWN, A, LabelStore, LabelStoreWriter, P

CELLS = st.dictionaries(
    st.tuples(st.integers(0, A - 1), st.integers(0, P - 1)), st.sampled_from([ABSENT, PRESENT]), max_size=30
)
THREE = [{(4, 8): 1, (50, 0): 0}, {}, {(0, 74): 1}]


def written(folder, studies):
    writer = LabelStoreWriter()
    assert [writer.add(f"s{k}", cells) for k, cells in enumerate(studies, start=1)] == list(range(len(studies)))
    writer.write(folder)
    return folder


@pytest.fixture
def store(tmp_path):
    return written(tmp_path / "labels", THREE)


@settings(max_examples=20, deadline=None)
@given(st.lists(CELLS, max_size=6))
def test_labels_come_back_sparse_and_dense(tmp_path_factory, studies):
    """A lost, moved or flipped cell would be a wrong label."""
    store = LabelStore(written(tmp_path_factory.mktemp("store") / "labels", studies))
    expected = np.full((len(studies), A, P), UNKNOWN, np.int8)
    for row, cells in enumerate(studies):
        for cell, state in cells.items():
            expected[row][cell] = state
        anatomy, pathology, states = (part.tolist() for part in store.cells(row))
        assert dict(zip(zip(anatomy, pathology, strict=True), states, strict=True)) == cells
    assert len(store) == len(studies)
    found = [store.dense(row) for row in range(len(studies))]
    assert all(matrix.dtype == np.int8 for matrix in found)
    np.testing.assert_array_equal(np.reshape(found, expected.shape), expected)


def test_store_is_sparse_and_memory_mapped(store):
    """A store of 220 k studies would take much memory in every process."""
    assert (store / "cells.bin").stat().st_size == 3 * 2
    opened = LabelStore(store)
    assert isinstance(opened._offsets, np.memmap)
    assert isinstance(opened._cells.base, np.memmap)
    assert not opened._cells.flags.writeable


@pytest.mark.parametrize("row", [-1, 3])
def test_row_outside_the_store_is_an_error(store, row):
    with pytest.raises(IndexError):
        LabelStore(store).dense(row)


@pytest.mark.parametrize("cells", [{(51, 0): 1}, {(0, 75): 1}, {(-1, 0): 1}, {(0, 0): -1}, {(0, 0): 2}])
def test_invalid_cells_are_errors(tmp_path, cells):
    with pytest.raises(ValueError, match="no state"):
        LabelStoreWriter().add("s", cells)


def test_a_store_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """Half a store would be taken for a whole one."""
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        LabelStoreWriter().write(tmp_path / "labels")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["cells.bin", "offsets.npy", "keys.npy", "meta.json"])
@pytest.mark.parametrize("kept", [None, 0, 0.4, -1, -2])
def test_truncated_store_is_bad_input(store, file, kept):
    """kept: None if the file is missing, otherwise the fraction (or minus the bytes lost) of an interrupted copy."""
    content = (store / file).read_bytes()
    (store / file).unlink()
    if kept is not None:
        (store / file).write_bytes(content[: int(len(content) * kept)] if kept >= 0 else content[:kept])
    if file == "meta.json" and kept == -1:
        LabelStore(store)  # only its last line break is gone
        return
    with pytest.raises(InputError) as refused:
        LabelStore(store)
    assert str(store) in str(refused.value)


@pytest.mark.parametrize("file", ["cells.bin", "offsets.npy", "keys.npy"])
def test_a_flipped_byte_is_bad_input(store, file):
    """Damage would become wrong labels, or an IndexError in the middle of a training."""
    content = bytearray((store / file).read_bytes())
    content[-1] ^= 1
    (store / file).write_bytes(content)
    with pytest.raises(InputError, match=rf"{file}: is damaged.* run prepare_data\.py again"):
        LabelStore(store)


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"vocabulary": 1}, "another vocabulary; run prepare_data"),
        ({"version": 99}, "not a label store of version 1"),
        ({"format": "something"}, "not a label store"),
        ([], "not a label store"),
        (3, "not a label store"),
    ],
)
def test_store_of_another_vocabulary_or_version_is_bad_input(store, meta, words):
    if isinstance(meta, dict):
        meta = json.loads((store / "meta.json").read_text()) | meta
    (store / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=words):
        LabelStore(store)


def test_a_store_without_checksums_is_read(store):
    """Stores of earlier versions have none; some damage shows without them."""
    meta = json.loads((store / "meta.json").read_text())
    kept = {key: value for key, value in meta.items() if "." not in key}
    assert len(kept) == len(meta) - 3
    (store / "meta.json").write_text(json.dumps(kept))
    assert LabelStore(store).dense(0)[4, 8] == PRESENT
    for file, position, fault in (
        ("cells.bin", 3, "outside the 51 x 75"),
        ("keys.npy", 30, r"keys\.npy: not a complete .npy file"),
    ):
        whole = (store / file).read_bytes()
        (store / file).write_bytes(whole[:position] + b"}" + whole[position + 1 :])
        with pytest.raises(InputError, match=fault):
            LabelStore(store)
        (store / file).write_bytes(whole)


@pytest.mark.parametrize("offsets", [[0.0, 1.0], [[0, 1]], [1, 0], [-1, 1], [], [2**63, 1]])
def test_offsets_that_are_none_are_bad_input(store, offsets):
    """Without a checksum, they would give studies the cells of others, or fail in the middle of a training."""
    (store / "meta.json").write_text(re.sub(r',\s*"\w+\.\w+": \d+', "", (store / "meta.json").read_text()))
    np.save(store / "offsets.npy", np.array(offsets, None if offsets else int))
    with pytest.raises(InputError):
        LabelStore(store)


def test_list_of_another_store_is_an_error_with_file_and_line(store):
    """With the wrong store, every image would be trained on the report of another patient."""
    opened = LabelStore(store)

    def check(rows: list[int], studies: list[str]) -> None:
        opened.check(pd.DataFrame({"row": rows, "study": studies, "line": range(5, 5 + len(rows))}), "train.csv")

    check([2, 0], ["s3", "s1"])
    with pytest.raises(InputError, match=r"train\.csv: line 6 is not of the study of its row 1 in .*labels; use"):
        check([0, 1], ["s1", "s1"])
    for row in (-1, 3):
        with pytest.raises(InputError, match=rf"train\.csv: line 5 has row {row}, but .* has 3 studies"):
            check([row], ["s1"])
