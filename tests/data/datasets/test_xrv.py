"""The classes of torchxrayvision, on made images and the first rows of the label tables that it packages."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medslip.data.datasets.xrv import TorchXRayVision
from medslip.data.images import Header
from medslip.errors import InputError
from medslip.phantoms.dicom import uid_of, write_dicom

xrv = pytest.importorskip("torchxrayvision")
PACKAGED = Path(xrv.datasets.datapath)


def head(name: str, rows: int, to: Path) -> pd.DataFrame:
    table = pd.read_csv(PACKAGED / name, nrows=rows, low_memory=False)
    table.to_csv(to, index=False)
    return table


def save(path: Path, depth: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(depth, (4, 4)).save(path)


def chexpert(root: Path) -> dict[str, Any]:
    for name in head("chexpert_train.csv.gz", 60, root / "train.csv")["Path"]:
        save(root / name.partition("/")[2])
    return {"csvpath": root / "train.csv"}


def padchest(root: Path) -> dict[str, Any]:
    for index, name in enumerate(
        head("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", 40, root / "table.csv")["ImageID"]
    ):
        save(root / str(index % 2) / name, "I;16")
    return {"csvpath": root / "table.csv", "views": ["PA", "L"]}


def vindr(root: Path) -> dict[str, Any]:
    for name in head("vinbigdata-train.csv.gz", 60, root / "table.csv")["image_id"].unique():
        header = Header("", "M", 50, "PA", 4, 4)
        write_dicom(root / f"{name}.dicom", np.zeros((4, 4), np.uint8), header, uid_of(name))
    return {"csvpath": root / "table.csv"}


def openi(root: Path) -> dict[str, Any]:
    with tarfile.open(PACKAGED / "NLMCXR_reports.tgz") as packed, tarfile.open(root / "few.tgz", "w:gz") as few:
        for member in [member for member in packed if member.name.endswith(".xml")][:8]:
            text = packed.extractfile(member).read()  # type: ignore[union-attr]
            few.addfile(member, io.BytesIO(text))
            for part in text.decode().split('parentImage id="')[1:]:
                save(root / f"{part.partition(chr(34))[0]}.png")
    return {"arguments": {"xmlpath": str(root / "few.tgz")}}


def nih(root: Path) -> dict[str, Any]:
    for name in head("Data_Entry_2017_v2020.csv.gz", 30, root / "table.csv")["Image Index"]:
        save(root / "images_001" / "images" / name)
    return {"csvpath": root / "table.csv", "arguments": {"unique_patients": False}}


@pytest.mark.parametrize(
    ("dataset", "write"),
    [
        ("CheX_Dataset", chexpert),
        ("PC_Dataset", padchest),
        ("VinDr_Dataset", vindr),
        ("Openi_Dataset", openi),
        ("NIH_Dataset", nih),
    ],
)
def test_images_and_labels_are_those_of_the_class(
    tmp_path: Path, dataset: str, write: Callable[[Path], dict[str, Any]]
) -> None:
    """A label would belong to another image, unknown count as absent, or a class be lost."""
    options = write(tmp_path)
    table = TorchXRayVision(tmp_path, dataset=dataset, **options).read()
    given = {"views": options["views"]} if "views" in options else {}
    given |= {"csvpath": str(options["csvpath"])} if "csvpath" in options else {}
    theirs = getattr(xrv.datasets, dataset)(imgpath=str(tmp_path), **given, **options.get("arguments", {}))
    assert len(table) == len(theirs.csv) > 3
    expected = np.where(np.isnan(theirs.labels), -1, theirs.labels)
    assert table.classes == tuple(theirs.pathologies)  # each of them has a query
    np.testing.assert_array_equal(table.label_array, expected)
    assert {-1, 0, 1} >= set(np.unique(expected)) >= {0, 1}
    assert not table.left_out
    if dataset != "VinDr_Dataset":
        assert table.patients == theirs.csv["patientid"].astype(str).tolist()
    if dataset == "PC_Dataset":
        assert set(table.images["view"]) == {"PA", "L"}
        assert set(table.images["sex"]) <= {"M", "F", ""}


def test_labels_without_a_query_are_left_out(tmp_path: Path) -> None:
    """A covariate, such as whether a patient survived, would end the task, or be queried by a wrong text."""
    rows = pd.DataFrame(
        {"patientid": 1, "view": "PA", "sex": "M", "age": 50, "finding": ["Pneumonia/Viral/COVID-19", "No Finding"]}
    )
    rows = rows.assign(filename=["a.png", "b.png"], folder="images", modality="X-ray", offset=0, survival="Y")
    rows.to_csv(tmp_path / "metadata.csv", index=False)
    for name in rows["filename"]:
        save(tmp_path / name)
    data = TorchXRayVision(tmp_path, dataset="COVID19_Dataset", csvpath=tmp_path / "metadata.csv")
    table = data.read()
    assert {"COVID-19", "Pneumonia"} <= set(table.classes)
    assert "labels of Viral, which has no query" in table.left_out
    mapped = TorchXRayVision(
        tmp_path, {"Viral": "pneumonia"}, dataset="COVID19_Dataset", csvpath=tmp_path / "metadata.csv"
    )
    assert "Viral" in mapped.read().classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "Chex"}, r"data.dataset: 'Chex' is not one of .*CheX_Dataset"),
        ({"dataset": "PC_Dataset", "csvpath": Path("no.csv")}, "torchxrayvision cannot read it as PC_Dataset"),
        ({"dataset": "NIH_Dataset", "arguments": {"size": 3}}, "NIH_Dataset of torchxrayvision has no argument 'size'"),
        ({"dataset": "NIH_Dataset"}, r"image .*png is not in .*; download it"),
        ({"dataset": "NIH_Dataset", "views": ["XX"]}, "NIH_Dataset has no image of these views"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TorchXRayVision(tmp_path, **options).read()
    assert "\n" not in str(caught.value)
