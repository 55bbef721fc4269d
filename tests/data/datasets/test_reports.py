"""A user's own reports: tables, folders, their faults, and the radgraph package."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from medslip.data.datasets.reports import ReportColumns, Reports
from medslip.errors import InputError
from medslip.labels import LabelStore
from medslip.tasks.prepare_data import PrepareConfig, run
from medslip.vocabulary import anatomy_index, pathology_index

TEXT = "INDICATION: pneumonia?\nIMPRESSION: Left pleural effusion. No pneumothorax."


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2)).save(path)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        image(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text(TEXT)
    path = tmp_path / "reports.csv"
    path.write_text(
        f'image,report,patient,study,view\na.png,"{TEXT}",p1,s1,PA\nb,,p1,s1b,AP\nc.png,"Thank you.",p2,s2,\n'
    )
    return path


def test_a_table_becomes_triplets(table: Path, tmp_path: Path) -> None:
    summary = run(PrepareConfig(Reports(table), tmp_path / "out", 0, 0))
    assert summary.left_out["images with an empty report"] == 1
    assert summary.left_out["studies whose report mentions no finding"] == 1
    assert summary.images == {"train": 1}
    cells = LabelStore(tmp_path / "out" / "labels").dense(0)
    assert cells[anatomy_index("left_pleural"), pathology_index("effusion")] == 1
    assert cells[anatomy_index("unspecified"), pathology_index("pneumothorax")] == 0
    assert (cells >= 0).sum() == 2


def test_a_report_is_of_all_images_of_its_study(table: Path) -> None:
    """A lateral film whose cell is empty would be left out; or it would take the report of another patient's study 1."""
    table.write_text("image,report,patient,study\na.png,,p1,1\nb.png,Effusion.,p1,1\nc.png,,p2,1\n")
    found = Reports(table).read()
    assert found.images[["patient", "report"]].values.tolist() == [["p1", "Effusion."], ["p1", "Effusion."]]
    assert found.left_out["images with an empty report"] == 1


LANGUAGES = [
    "Kein Nachweis eines Pleuraergusses. Herz normal groß. Zwerchfelle glatt begrenzt. Kein Pneumothorax. Aorta elongiert. "
    "Streifige Verdichtung im rechten Unterfeld, am ehesten Atelektase. Mediastinum nicht verbreitert. Emphysem beidseits.",
    "Derrame pleural izquierdo. No se observan infiltrados. Silueta cardiaca de tamaño normal. Edema intersticial. Escoliosis. "
    "Atelectasia en base izquierda. No hay neumotórax. Engrosamiento pleural apical. Hilios normales. Fibrosis pulmonar.",
    "Pas d'épanchement pleural. Silhouette cardiaque de taille normale. Opacité de la base droite. Cardiomégalie modérée. "
    "Pas de pneumothorax. Médiastin non élargi. Cathéter central en place. Fracture de la côte.",
]


@pytest.mark.parametrize("text", LANGUAGES)
def test_reports_in_another_language_are_noted(table: Path, text: str) -> None:
    """Their few English words would become the labels, silently."""
    table.write_text(f'image,report,patient\na.png,"{text * 4}",1\n')
    (note,) = Reports(table).read().notes
    assert "reports.csv: the built-in reader knows the words for a finding and a place in " in note


def test_reports_in_english_are_not_noted(table: Path) -> None:
    """A remark that is always there is not read."""
    table.write_text(f'image,report,patient\na.png,"{TEXT * 20}",1\n')
    assert Reports(table).read().notes == ()


def test_reports_may_be_text_files(table: Path) -> None:
    table.write_text("picture,text,patient\na.png,a.txt,1\n")
    data = Reports(table, columns=ReportColumns(image="picture", report_file="text"))
    assert data.read().images["report"].tolist() == [TEXT]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,patient\na.png,1\n", "reports.csv: has no column 'report' or 'report_file'"),
        ("file,report\na.png,x\n", "has no column 'image' for the image path"),
        ("image,report\na.png,x\n", "lists no patients"),
        ("image,report,patient\na.png,,1\n", "every report is empty"),
        ("image,report,patient\nd.png,x,1\n", "line 2: image .*d.png not found"),
        ("image,report_file,patient\na.png,d.txt,1\n", "d.txt: not found; line 2 of .*reports.csv names it"),
        ("image,report_file,patient\na.png,latin.txt,1\n", "latin.txt: is not text in UTF-8"),
        ("image,report_file,patient\na.png,../d.txt,1\n", "line 2: ../d.txt is outside the folder"),
        ("image,report,patient,study\na.png,x,1,s\nb.png,y,1,s\n", "study s has several reports"),
    ],
)
def test_faults_of_a_table_are_named(table: Path, text: str, message: str) -> None:
    table.write_text(text)
    (table.parent / "latin.txt").write_bytes("Überblähung".encode("latin-1"))
    with pytest.raises(InputError, match=message):
        Reports(table).read()


def test_a_folder_is_matched_by_name(tmp_path: Path) -> None:
    """As folders are found in practice: texts beside images, in a folder of their own, and MIMIC-CXR's."""
    for name in ("x/a.png", "images/b.png", "p1/s1/c.jpg", "p1/s1/d.jpg", "lone.png"):
        image(tmp_path / name)
    (tmp_path / "x" / "1.2.840").write_bytes(bytes(128) + b"DICM")
    for name in ("x/a.txt", "reports/b.txt", "p1/s1.txt", "other.txt", "reports/1.2.840.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    table = Reports(tmp_path, patients="unknown").read()
    found = {
        path.relative_to(tmp_path).as_posix(): text
        for path, text in zip(table.paths, table.images["report"], strict=True)
    }
    assert found == {
        "x/a.png": "x/a.txt",
        "images/b.png": "reports/b.txt",
        "x/1.2.840": "reports/1.2.840.txt",
        "p1/s1/c.jpg": "p1/s1.txt",
        "p1/s1/d.jpg": "p1/s1.txt",
    }
    assert table.images["study"].nunique() == 4
    assert table.left_out == {
        "images without a report": 1,
        "reports without an image": 1,
        "images with an empty report": 0,
    }
    with pytest.raises(InputError, match=r"lists no patients.* list the images and patients in a CSV file"):
        Reports(tmp_path).read()
    patients = Reports(tmp_path / "p1", path_pattern=r"(?P<patient>s\d)").read().patients
    assert patients == ["s1", "s1"]


def test_faults_of_a_folder_are_named(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    with pytest.raises(InputError, match=r"contains no reports"):
        Reports(tmp_path, patients="unknown").read()
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(InputError, match="no report has the name of an image"):
        Reports(tmp_path, patients="unknown").read()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"a\.png: its report may be .*one/a\.txt or .*two/a\.txt"):
        Reports(tmp_path, patients="unknown").read()


def test_the_radgraph_package_is_asked_for_what_it_needs(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entities go the same way as those of RadGraph's file; without it, one line says what to install."""
    monkeypatch.setitem(sys.modules, "radgraph", None)
    with pytest.raises(InputError, match="pip install radgraph, or use builtin"):
        Reports(table, extractor="radgraph").check_reports()

    def no_weights(**_: Any) -> Any:
        raise OSError("offline")

    monkeypatch.setitem(sys.modules, "radgraph", SimpleNamespace(RadGraph=no_weights))
    with pytest.raises(InputError, match=r"weights of the radgraph package cannot be loaded \(offline\)"):
        Reports(table, extractor="radgraph").check_reports()
    entity = {
        "tokens": "edema",
        "label": "Observation::definitely present",
        "start_ix": 0,
        "end_ix": 0,
        "relations": [],
    }
    asked: list[str] = []

    def model(texts: list[str]) -> dict[str, Any]:
        asked.extend(texts)
        return {str(number): {"text": text, "entities": {"1": entity}} for number, text in enumerate(texts)}

    monkeypatch.setitem(sys.modules, "radgraph", SimpleNamespace(RadGraph=lambda **_: model))
    data = Reports(table, extractor="radgraph")
    cells = dict(data.triplets(data.read(), Counter()))
    edema = (anatomy_index("unspecified"), pathology_index("edema"))
    assert cells == {"s1": {edema: 1}, "s2": {edema: 1}}
    assert "pneumonia" not in asked[0]
