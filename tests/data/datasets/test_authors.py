"""The authors' files: the matrix survives the conversion exactly, and faults are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.data.datasets import authors
from medslip.data.datasets.authors import MATRIX_FILE, AuthorsFiles
from medslip.data.prepared import PreparationSummary, read_list
from medslip.errors import InputError
from medslip.labels import LabelStore
from medslip.tasks.prepare_data import PrepareConfig, run

ROWS = 7


def prepare(folder: Path, output: Path, images: Path) -> PreparationSummary:
    return run(PrepareConfig(AuthorsFiles(folder, images=images), output))


def matrix_of(seed: int, mentioned: float = 0.01) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.integers(0, 2, (ROWS, 51, 75)).astype(np.float64)
    values[random.random(values.shape) > mentioned] = -1
    return values


def write_files(folder: Path, matrix: np.ndarray, valid: tuple[int, ...] = (2,)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / MATRIX_FILE, matrix)
    lists = {"train": (5, 0), "valid": valid, "test": (6, 6)}
    for split, rows in lists.items():
        entries = {}
        for index, row in enumerate(rows):
            name = f"files/p10/p1000000{row}/s5000000{row}/{split}{index}.jpg"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
            entries[f"/home/someone/mimic/{name}"] = {"labels_id": row, "other": "x"}
        (folder / f"{split}.json").write_text(json.dumps(entries))
    return folder


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.004, 0.5, 1.0]))
def test_the_store_equals_the_matrix(tmp_path_factory: pytest.TempPathFactory, seed: int, mentioned: float) -> None:
    folder, matrix = tmp_path_factory.mktemp("published"), matrix_of(seed, mentioned)
    prepare(write_files(folder, matrix), folder / "out", folder)
    store = LabelStore(folder / "out" / "labels")
    np.testing.assert_array_equal([store.dense(row) for row in range(ROWS)], matrix)


def test_lists_keep_rows_studies_and_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lists are cited as they are: a patient in two of them is kept, but noted."""
    monkeypatch.setattr(authors, "_BLOCK", 3)  # several blocks, the last one short
    folder = write_files(tmp_path, matrix_of(1), valid=(2, 5))
    summary = prepare(folder, tmp_path / "out", folder)
    assert summary.images == {"train": 2, "valid": 2, "test": 2}
    assert "1 patients are in several of the publisher's splits." in summary.notes
    train = read_list(tmp_path / "out" / "train.csv")
    assert train.images["row"].tolist() == [0, 5]
    assert train.images["study"].tolist() == ["s50000000", "s50000005"]
    assert train.images["patient"].tolist() == ["p10000000", "p10000005"]
    assert train.paths[0].is_file()
    store = LabelStore(tmp_path / "out" / "labels")
    store.check(train.images, train.source)


def test_images_of_one_study_keep_their_own_rows(tmp_path: Path) -> None:
    """An image would be trained on the labels of another row."""
    folder = write_files(tmp_path, matrix_of(2))
    names = [f"files/p10/p10000009/s59999999/{index}.jpg" for index in range(2)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "train.json").write_text(json.dumps({names[0]: {"labels_id": 1}, names[1]: {"labels_id": 4}}))
    prepare(folder, tmp_path / "out", folder)
    train = read_list(tmp_path / "out" / "train.csv")
    assert dict(zip((path.stem for path in train.paths), train.images["row"], strict=True)) == {"0": 1, "1": 4}
    LabelStore(tmp_path / "out" / "labels").check(train.images, train.source)


def test_missing_images_are_counted_and_all_missing_is_an_error(tmp_path: Path) -> None:
    folder = write_files(tmp_path, matrix_of(2))
    next(folder.rglob("train0.jpg")).unlink()
    assert prepare(folder, tmp_path / "out", folder).left_out["images that do not exist"] == 1
    with pytest.raises(InputError, match="none of the listed images exists"):
        prepare(folder, tmp_path / "out2", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"a.jpg": {"labels_id": ROWS}}), rf"valid.json: key a.jpg: labels_id {ROWS}"),
        (
            '{"/files/../../a.jpg": {"labels_id": 1}}',
            r"valid.json: key /files/\.\./\.\./a.jpg: .* is outside the folder",
        ),
        ('{"a": {"labels_id"', r"valid.json: not a complete JSON file"),
    ],
)
def test_a_bad_list_is_named_and_nothing_is_written(tmp_path: Path, text: str, message: str) -> None:
    folder = write_files(tmp_path, matrix_of(3))
    (folder / "valid.json").write_text(text)
    with pytest.raises(InputError, match=message):
        prepare(folder, tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [2.0, 0.5, np.nan])
def test_a_value_that_is_no_label_names_its_row_and_writes_nothing(tmp_path: Path, value: float) -> None:
    matrix = matrix_of(4)
    matrix[4, 3, 2] = value
    folder = write_files(tmp_path, matrix)
    with pytest.raises(InputError, match=rf"row 4, cell \(3, 2\) is {value}"):
        prepare(folder, tmp_path / "out", folder)
    assert not (tmp_path / "out" / "labels").exists()


def test_matrices_of_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / MATRIX_FILE
    with pytest.raises(InputError, match="not found"):
        AuthorsFiles(tmp_path).read()
    np.save(path, np.zeros((2, 75, 51)))
    with pytest.raises(InputError, match="studies x 51 x 75"):
        AuthorsFiles(tmp_path).read()
    np.save(path, matrix_of(5))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"not a complete .npy file"):
        AuthorsFiles(tmp_path).read()
    np.save(path, matrix_of(5))
    path.write_bytes(path.read_bytes().replace(b"'shape'", b"7      "))  # numpy raises a TypeError
    with pytest.raises(InputError, match=r"not a complete .npy file"):
        AuthorsFiles(tmp_path).read()
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"not a complete .npy file"):
        AuthorsFiles(tmp_path).read()
