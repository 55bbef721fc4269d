"""The label store: labels must come back cell for cell, for the study that the list names."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT, UNKNOWN, A, LabelStore, LabelStoreWriter, P

cells = st.dictionaries(st.integers(0, A * P - 1), st.sampled_from([ABSENT, PRESENT]), max_size=30)


def dense(mentioned):
    matrix = np.full(A * P, UNKNOWN, np.int8)
    for cell, state in mentioned.items():
        matrix[cell] = state
    return matrix.reshape(A, P)


@pytest.fixture
def store(tmp_path):
    with LabelStoreWriter(tmp_path / "labels") as writer:
        writer.add_cells("s1", [4, 50], [8, 0], [1, 0])
        writer.add_cells("s2", [], [], [])
        writer.add_cells("s3", [0], [74], [1])
    return tmp_path / "labels"


@settings(max_examples=20, deadline=None)
@given(st.lists(cells, min_size=1, max_size=6))
def test_dense_and_sparse_are_the_same_labels_both_ways(tmp_path_factory, studies):
    """A lost, moved or flipped cell would be a wrong label."""
    folder = tmp_path_factory.mktemp("store")
    matrices = [dense(mentioned) for mentioned in studies]
    with LabelStoreWriter(folder / "dense") as from_dense, LabelStoreWriter(folder / "cells") as from_cells:
        for row, (matrix, mentioned) in enumerate(zip(matrices, studies, strict=True)):
            assert from_dense.add(str(row), matrix) == row
            index = np.array(list(mentioned), np.int64)
            assert from_cells.add_cells(str(row), index // P, index % P, list(mentioned.values())) == row
    for name in ("dense", "cells"):
        store = LabelStore(folder / name)
        assert len(store) == len(studies)
        found = store.dense_batch(range(len(studies)))
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, np.stack(matrices))
        for row, mentioned in enumerate(studies):
            anatomy, pathology, state = store.cells(row)
            assert dict(zip((anatomy * P + pathology).tolist(), state.tolist(), strict=True)) == mentioned
    for file in ("cells.bin", "offsets.npy", "keys.npy", "meta.json"):
        assert (folder / "dense" / file).read_bytes() == (folder / "cells" / file).read_bytes()


def test_store_is_sparse_and_memory_mapped(store):
    """A store of 220 k studies would take long to open and much memory in every process."""
    assert (store / "cells.bin").stat().st_size == 3 * 2
    opened = LabelStore(store)
    assert isinstance(opened._offsets, np.memmap)
    assert isinstance(opened._cells, np.memmap)
    assert not opened._cells.flags.writeable


def test_batch_keeps_the_order_of_its_rows(store):
    batch = LabelStore(store).dense_batch([2, 0, 2])
    assert (batch[0] == batch[2]).all()
    assert batch[1, 4, 8] == PRESENT
    assert LabelStore(store).dense_batch([]).shape == (0, A, P)


@pytest.mark.parametrize("row", [-1, 3])
def test_row_outside_the_store_is_an_error(store, row):
    with pytest.raises(IndexError):
        LabelStore(store).dense(row)


@pytest.mark.parametrize(
    ("anatomy", "pathology", "state"),
    [([51], [0], [1]), ([0], [75], [1]), ([-1], [0], [1]), ([0], [0], [-1]), ([0], [0], [2]), ([0, 0], [1, 1], [1, 0])],
)
def test_invalid_cells_are_errors(tmp_path, anatomy, pathology, state):
    with pytest.raises(ValueError), LabelStoreWriter(tmp_path / "labels") as writer:
        writer.add_cells("s", anatomy, pathology, state)


def test_matrix_of_another_shape_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="shape"), LabelStoreWriter(tmp_path / "labels") as writer:
        writer.add("s", np.zeros((P, A), np.int8))


def test_nothing_is_left_behind_after_an_error(tmp_path):
    """Half a store would be taken for a whole one."""

    def write_and_fail():
        with LabelStoreWriter(tmp_path / "labels") as writer:
            writer.add_cells("s1", [0], [0], [1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_error_while_rewriting_keeps_the_earlier_store(store):
    with pytest.raises(RuntimeError), LabelStoreWriter(store):
        raise RuntimeError
    assert len(LabelStore(store)) == 3


def test_rewriting_replaces_the_store_but_never_another_folder(store, tmp_path):
    with LabelStoreWriter(store) as writer:
        writer.add_cells("s9", [1], [1], [0])
    assert len(LabelStore(store)) == 1
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="is not a label store"):
        LabelStoreWriter(tmp_path / "photos")


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocabulary": 1}, "another vocabulary; run prepare_data"),
        ({"version": 99}, "not a label store of version 1"),
        ({"format": "something"}, "not a label store"),
    ],
)
def test_store_of_another_vocabulary_or_version_is_bad_input(store, change, words):
    meta = json.loads((store / "meta.json").read_text())
    (store / "meta.json").write_text(json.dumps(meta | change))
    with pytest.raises(InputError, match=words):
        LabelStore(store)


@pytest.mark.parametrize("meta", ["[]", "{}", "3"])
def test_meta_file_that_is_something_else_is_bad_input(store, meta):
    (store / "meta.json").write_text(meta)
    with pytest.raises(InputError, match="not a label store"):
        LabelStore(store)


def test_list_of_another_store_is_an_error_with_file_and_line(store):
    """With the wrong store, every image would be trained on the report of another patient."""
    opened = LabelStore(store)
    opened.check([2, 0], ["s3", "s1"], "train.csv")
    with pytest.raises(InputError, match=r"train\.csv: line 3 is study s1, but row 1 of .*labels belongs to another"):
        opened.check([0, 1], ["s1", "s1"], "train.csv")
    for row in (-1, 3):
        with pytest.raises(InputError, match=rf"train\.csv: line 2 has row {row}, but .* has 3 studies"):
            opened.check([row], ["s1"], "train.csv")


def test_a_store_that_cannot_be_created_is_bad_input(tmp_path):
    """An output inside a file would end in a traceback."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be created"):
        LabelStoreWriter(tmp_path / "file" / "labels")
