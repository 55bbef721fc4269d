"""What every data set must do, whatever its publisher's layout: on phantoms in each of them, and on its own options."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medslip.data.dataset import DataSet
from medslip.data.registry import DATA_SETS, data_set
from medslip.errors import InputError
from medslip.labels import A, P
from medslip.tasks.make_phantom import MakePhantomConfig
from medslip.tasks.make_phantom import run as make_phantom
from medslip.vocabulary import CLASS_PROMPTS, pathology_of

LAYOUTS: dict[str, dict[str, Any]] = {
    "coco": {"path": "coco"},
    "chest_imagenome": {"path": "chest_imagenome", "images": "mimic_cxr"},
    "covidx": {"path": "covidx"},
    "csv": {"path": "findings.csv"},
    "cxr14": {"path": "cxr14"},
    "folder": {"path": "siim_acr"},
    "mimic": {"path": "mimic_cxr", "graphs": "radgraph/MIMIC-CXR_graphs.json"},
    "ms_cxr": {"path": "ms_cxr", "images": "mimic_cxr"},
    "rsna": {"path": "rsna"},
    "siim_acr": {"path": "siim_acr"},
}
"""Kind -> its options on a phantom corpus, paths relative to it; the other kinds have no phantoms."""

LOCALISED = ("chest_imagenome", "folder", "ms_cxr")
"""Kinds without labels or reports."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("phantom") / "corpus"
    return make_phantom(
        MakePhantomConfig(output, studies=24, valid_fraction=0.3, test_fraction=0.4, side=64, workers=1)
    )


def on(corpus: Path, kind: str) -> DataSet:
    options: dict[str, Any] = {name: corpus / value for name, value in LAYOUTS[kind].items()}
    return data_set(kind)(**options, **({"boxes": "silver"} if kind == "chest_imagenome" else {}))


@pytest.mark.parametrize("kind", DATA_SETS)
def test_kind_is_registered_under_its_own_name_and_every_option_is_explained(kind: str) -> None:
    """A run's config.yaml would name another data set; --help would be silent about a key."""
    found = data_set(kind)
    assert found.kind == kind
    texts = "\n".join(inspect.getdoc(base) or "" for base in found.__mro__ if issubclass(base, DataSet))
    assert all(f"    {field.name}: " in texts for field in fields(found))


def test_an_unknown_kind_lists_those_that_there_are() -> None:
    with pytest.raises(
        InputError, match=r"unknown kind of data 'nih'; choose one of authors, chest_imagenome, .*siim_acr"
    ):
        data_set("nih")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_table_is_complete(corpus: Path, kind: str) -> None:
    """Every task works on any data set only if all of them say the same things in the same form."""
    data = on(corpus, kind).all_splits()
    table = data.read()
    assert table.name
    images = table.images
    assert all(path.is_file() for path in table.paths)
    assert images["path"].is_unique
    assert images.index.tolist() == list(range(len(table)))
    assert set(images["sex"]) <= {"M", "F", ""}
    assert set(images["split"]) <= {"train", "valid", "test", ""}
    assert images["age"].dtype == np.float64
    assert (images["study"] != "").all() or kind == "folder"
    assert (images["patient"] != "").all() or kind == "folder"
    if table.labels is not None:
        assert table.label_array.dtype == np.int8
        assert set(np.unique(table.label_array)) <= {-1, 0, 1}
        assert all(pathology_of(name) or name in CLASS_PROMPTS for name in table.classes)
    if table.findings is not None:
        assert table.found().any()
        for index in np.flatnonzero(table.found()).tolist():
            height, width = table.frame(index)
            for finding in table.findings_of(index):
                assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in finding.boxes)
                assert not finding.masks or table.mask(index, finding.label).any()
    if kind not in LOCALISED:
        left_out: Counter[str] = Counter()
        studies = dict(data.triplets(table, left_out)) if kind != "covidx" else {}
        assert set(studies) <= set(images["study"])
        assert all(0 <= a < A and 0 <= p < P for cells in studies.values() for a, p in cells)


def test_reports_and_their_graphs_say_the_same(corpus: Path) -> None:
    """Reports of one's own would be prepared otherwise than MIMIC-CXR's."""
    reports = data_set("reports")(corpus / "mimic_cxr" / "files", path_pattern=r"(?P<patient>p\d{8})")
    from_text = dict(reports.triplets(reports.read(), Counter()))
    graphs = on(corpus, "mimic")
    from_graphs = dict(graphs.triplets(graphs.read(), Counter()))
    assert {study.rpartition("/")[2]: cells for study, cells in from_text.items()} == from_graphs


@pytest.mark.parametrize("kind", ["covidx", "csv", "cxr14", "coco", "chest_imagenome", "ms_cxr"])
def test_a_split_is_part_of_the_whole(corpus: Path, kind: str) -> None:
    """Test images would be trained on."""
    data: Any = on(corpus, kind)
    whole, test = data.all_splits().read(), replace(data, split="test").read()
    assert sorted(test.paths) == sorted(whole.at(np.flatnonzero(whole.images["split"] == "test")).paths)
    assert 0 < len(test) < len(whole)


@pytest.mark.parametrize("kind", [kind for kind in LAYOUTS if kind not in ("folder", "mimic")])
def test_a_missing_image_is_named(corpus: Path, tmp_path: Path, kind: str) -> None:
    """It would be found after hours, or be left out in silence. (MIMIC-CXR's are counted.)"""
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    missing = on(copy, kind).read().paths[-1]
    missing.unlink()
    with pytest.raises(InputError, match=missing.stem):
        on(copy, kind).read()


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("covidx", "covidx/test.txt", "listed twice, also in line 4"),
        ("cxr14", "cxr14/test_list.txt", "listed twice, also in line 4"),
        ("siim_acr", "siim_acr/train-rle.csv", "is already in line 4; only rows with different masks"),
        ("rsna", "rsna/stage_2_train_labels.csv", "has the same box twice"),
        ("csv", "findings.csv", "listed twice, also in line 4"),
    ],
)
def test_an_image_listed_twice_is_named(corpus: Path, tmp_path: Path, kind: str, name: str, words: str) -> None:
    """It would count double, or be learnt from and tested on."""
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    lines = (copy / name).read_text().splitlines()
    (copy / name).write_text("\n".join([*lines, lines[3]]) + "\n")
    with pytest.raises(InputError, match=rf"{copy / name}: line {len(lines) + 1}: .*({words})"):
        on(copy, kind).read()


@pytest.mark.parametrize("kind", ["rsna", "siim_acr"])
@pytest.mark.parametrize("missing", ["PixelData", "Rows"])
def test_a_dicom_file_without_an_image_is_named(corpus: Path, tmp_path: Path, kind: str, missing: str) -> None:
    """It would be found only when its batch is read, hours later."""
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    path = sorted(copy.joinpath(LAYOUTS[kind]["path"]).rglob("*.dcm"))[7]
    dataset = pydicom.dcmread(path)
    delattr(dataset, missing)
    dataset.save_as(path)
    with pytest.raises(InputError, match=rf"{path}: contains no image \(no DICOM .*\); remove it from the list"):
        on(copy, kind).read()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_folder_that_does_not_exist_is_one_line(kind: str) -> None:
    with pytest.raises(InputError, match=r"nowhere") as caught:
        on(Path("nowhere"), kind).read()
    assert "\n" not in str(caught.value)


def test_classes_are_left_out_where_they_map_to_nothing(corpus: Path) -> None:
    table = on(corpus, "coco").read()
    left = replace(on(corpus, "coco"), classes={"mass": ""}).read()
    assert set(table.classes) - set(left.classes) == {"mass"}
    assert "mass" not in left.finding_classes


def test_a_missing_package_is_installed_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not on an index, so that the advice would fail; the forms would differ."""
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    with pytest.raises(InputError, match="install torchxrayvision: ") as error:
        data_set("xrv")(path=tmp_path, dataset="NIH_Dataset").read()
    advice = str(error.value).partition("install torchxrayvision: ")[2]
    assert f"`{advice}`" in (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
