"""MIMIC-CXR-JPG's layout with RadGraph's graphs -> lists, label store and summary."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from medslip.data.datasets.mimic_cxr import MimicCxr
from medslip.data.prepared import PreparationSummary, read_list
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import LabelStore
from medslip.tasks.prepare_data import PrepareConfig, run
from medslip.vocabulary import anatomy_index, pathology_index

IMAGES = [  # dicom_id, patient, study, view, split
    ("d1", "10000001", "50000001", "PA", "train"),
    ("d2", "10000001", "50000001", "LATERAL", "train"),
    ("d3", "10000001", "50000001", "AP", "train"),
    ("d4", "10000002", "50000002", "AP", "validate"),
    ("d5", "10000003", "50000003", "PA", "test"),
    ("d6", "10000003", "50000004", "PA", "test"),
    ("d7", "10000003", "50000005", "", "test"),
]


def report(finding: str, label: str) -> dict[str, Any]:
    entities = {
        "1": {"tokens": "pleural", "label": "ANAT-DP", "start_ix": 0, "end_ix": 0, "relations": []},
        "2": {"tokens": finding, "label": label, "start_ix": 1, "end_ix": 1, "relations": [["located_at", "1"]]},
    }  # fmt: skip
    return {"text": f"pleural {finding} .", "entities": entities}


GRAPHS = {
    "p10/p10000001/s50000001.txt": report("effusion", "OBS-DP"),
    "p10/p10000002/s50000002.txt": report("effusion", "OBS-DA"),
    "p10/p10000003/s50000003.txt": report("thickening", "OBS-DP"),
    "p10/p10000003/s50000005.txt": report("effusion", "OBS-DP"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout with seven images of five studies; study 50000004 has no graph, d7 no view."""
    folder = tmp_path / "mimic"
    folder.mkdir()
    write_tables(folder, IMAGES)
    for name, patient, study, *_ in IMAGES:
        file = folder / f"files/p{patient[:2]}/p{patient}/s{study}/{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (folder / "graphs.json").write_text(json.dumps(GRAPHS))
    return folder


def write_tables(folder: Path, images: list[tuple[str, str, str, str, str]], packed: bool = True) -> None:
    metadata = ["dicom_id,subject_id,study_id,Rows,ViewPosition"]
    split = ["dicom_id,study_id,subject_id,split"]
    for name, patient, study, view, part in images:
        metadata.append(f"{name},{patient},{study},3056,{view}")
        split.append(f"{name},{study},{patient},{part}")
    for stem, lines in (("metadata", metadata), ("split", split)):
        text = "\n".join(lines).encode() + b"\n"
        name = f"mimic-cxr-2.0.0-{stem}.csv" + ".gz" * packed
        (folder / name).write_bytes(gzip.compress(text, mtime=0) if packed else text)


def lists(folder: Path) -> dict[str, ImageTable]:
    return {path.stem: read_list(path) for path in sorted(folder.glob("*.csv"))}


def test_frontal_images_of_reported_studies(root: Path, tmp_path: Path) -> None:
    """Lists, rows and labels would not fit together, or images vanish without a word."""
    summary = prepare(root, root / "graphs.json", tmp_path / "out")
    found = lists(tmp_path / "out")
    assert {name: len(part) for name, part in found.items()} == {"train": 2, "valid": 1, "test": 1}
    table = found["train"].images
    assert list(table["view"]) == ["PA", "AP"]
    assert list(table["study"]) == ["s50000001"] * 2
    assert list(table["patient"]) == ["p10000001"] * 2
    assert table["row"].nunique() == 1  # one study, one row
    store = LabelStore(tmp_path / "out/labels")
    effusion = anatomy_index("pleural_unspec"), pathology_index("effusion")
    assert store.dense(found["train"].images["row"][0])[effusion] == 1
    assert store.dense(found["valid"].images["row"][0])[effusion] == 0
    for part in found.values():
        assert all(part.paths[index].is_file() for index in range(len(part)))
        store.check(part.images, part.source)
    assert (summary.studies, summary.present, summary.absent) == (3, 2, 1)
    assert {reason: count for reason, count in summary.left_out.items() if count} == {
        "images of view LATERAL": 1,
        "images of view (unnamed)": 1,
        "graphs of studies without an image to use": 1,
        "studies without a graph": 1,
    }
    assert json.loads((tmp_path / "out/summary.json").read_text())["left_out"] == summary.left_out
    prepare(root, root / "graphs.json", tmp_path / "lateral", views=("LATERAL",))
    assert {name: list(part.images["view"]) for name, part in lists(tmp_path / "lateral").items()} == {
        "train": ["LATERAL"]
    }


def test_a_few_missing_images_are_counted_and_most_refused(root: Path, tmp_path: Path) -> None:
    """One file that was not downloaded would stop everything; a wrong folder prepare the few that happen to be there."""
    files = sorted(root.rglob("*.jpg"))
    files[2].unlink()
    summary = prepare(root, root / "graphs.json", tmp_path / "some")
    assert summary.left_out["images whose file is missing"] == 1
    assert summary.images["train"] == 1
    for file in files[:2] + files[3:5]:
        file.unlink()
    refused(root, tmp_path / "out", r"4 of 5 image files are missing, starting with .*d1\.jpg")


def test_mapping_is_a_choice(root: Path, tmp_path: Path) -> None:
    """Labels as in the published matrices could not be made."""
    for mapping, pathology in (("medslip", "thicken"), ("authors", "tail_abnorm_obs")):
        prepare(root, root / "graphs.json", tmp_path / mapping, mapping=mapping)  # type: ignore[arg-type]
        row = lists(tmp_path / mapping)["test"].images["row"][0]
        _, columns, _ = LabelStore(tmp_path / mapping / "labels").cells(row)
        assert columns.tolist() == [pathology_index(pathology)]


def test_unpacked_tables_and_keys_without_folders(root: Path, tmp_path: Path) -> None:
    """Unpacked files, and graphs named by the study alone, would be refused."""
    for file in root.glob("*.gz"):
        file.unlink()
    write_tables(root, IMAGES, packed=False)
    short = {key.split("/")[-1]: graph for key, graph in GRAPHS.items()}
    (root / "graphs.json").write_text(json.dumps(short))
    assert prepare(root, root / "graphs.json", tmp_path / "out").studies == 3


def test_numbered_graphs_are_read_with_a_table_of_keys(root: Path, tmp_path: Path) -> None:
    """Graphs of the radgraph package and of RadGraph-XL, whose keys do not name the study, could not be used."""
    (tmp_path / "package.json").write_text(json.dumps({str(k): graph for k, graph in enumerate(GRAPHS.values())}))
    lines = [xl_document(k, graph) for k, graph in enumerate(GRAPHS.values())]
    (tmp_path / "xl.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    studies = [key[-13:] for key in GRAPHS]
    (tmp_path / "keys.csv").write_text("key,study\n" + "".join(f"{k},{study}\n" for k, study in enumerate(studies)))
    prepare(root, root / "graphs.json", tmp_path / "named")
    for name in ("package.json", "xl.jsonl"):
        prepare(root, tmp_path / name, tmp_path / name[:2], graph_keys=tmp_path / "keys.csv")
        for file in ("train.csv", "labels/cells.bin", "labels/keys.npy"):
            assert (tmp_path / name[:2] / file).read_bytes() == (tmp_path / "named" / file).read_bytes()
    (tmp_path / "keys.csv").write_text("key,study\n0,50000001\n8,50000002\n")
    left_out = prepare(root, tmp_path / "xl.jsonl", tmp_path / "some", graph_keys=tmp_path / "keys.csv").left_out
    assert left_out["graphs whose key is not in the table of keys"] == 3


def xl_document(key: int, graph: dict[str, Any]) -> dict[str, Any]:
    """A graph of two entities in RadGraph-XL's form."""
    label = {"DP": "definitely present", "DA": "definitely absent"}[graph["entities"]["2"]["label"][-2:]]
    marks = [[0, 0, "Anatomy::definitely present"], [1, 1, f"Observation::{label}"]]
    relations = [[1, 1, 0, 0, "located_at"]]
    return {"doc_key": key, "sentences": [graph["text"].split()], "ner": [marks], "relations": [relations]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [("0,s50000001\n0,s50000002\n", "line 3 .* repeats a key"), ("0,s50000001\n1,x\n", "line 3 .* names no study")],
)
def test_a_bad_table_of_keys_is_refused(root: Path, tmp_path: Path, rows: str, message: str) -> None:
    """A report's labels would go to another patient."""
    (tmp_path / "keys.csv").write_text(f"key,study\n{rows}")
    with pytest.raises(InputError, match=message):
        prepare(root, root / "graphs.json", tmp_path / "out", graph_keys=tmp_path / "keys.csv")


@pytest.mark.parametrize(("name", "graphs"), [("graphs_package.json", 12), ("radgraph-XL.jsonl", 3)])
def test_graphs_of_the_shared_case(shared: Path, tmp_path: Path, name: str, graphs: int) -> None:
    """The same, with a file as the package wrote it."""
    case = shared / "cases" / "mimic_small"
    if not case.is_dir():
        pytest.skip("needs ../shared/cases")
    refused(case, tmp_path / "out", "report 0 names no study; .*key and study", case / name)
    keys = "".join(f"{k},{50000000 + k}\n" for k in range(12))
    (tmp_path / "keys.csv").write_text(f"key,study\n{keys}")
    views = ("AP", "PA", "LATERAL", "PA LLD", "")
    summary = prepare(case, case / name, tmp_path / "out", graph_keys=tmp_path / "keys.csv", views=views)
    assert sum(summary.images.values()) == graphs


@pytest.mark.parametrize("name", ["/etc/x", "../../../../../x"])
def test_a_name_that_leaves_the_folder_is_refused(root: Path, name: str) -> None:
    """A table from elsewhere could have any file of the machine read."""
    write_tables(root, [*IMAGES, (name, *IMAGES[0][1:])])
    with pytest.raises(InputError, match=rf"metadata\.csv\.gz: line 9: .*{re.escape(name)}\.jpg is outside the folder"):
        MimicCxr(root).read()


def prepare(root: Path, graphs: Path, output: Path, **options: Any) -> PreparationSummary:
    return run(PrepareConfig(MimicCxr(root, graphs=graphs, **options), output))


def refused(root: Path, output: Path, match: str, graphs: Path | None = None) -> None:
    with pytest.raises(InputError, match=match) as caught:
        prepare(root, graphs or root / "graphs.json", output)
    assert "\n" not in str(caught.value)
    assert not output.exists() or not list(output.iterdir())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([*IMAGES, IMAGES[0]], r"metadata\.csv\.gz: line 9: image d1 is listed twice"),
        ([*IMAGES[:3], ("d4", "1", "2", "AP", "other")], r"split\.csv\.gz: line 5: split 'other'"),
        ([IMAGES[1]], r"no image has view AP or PA; the metadata has LATERAL"),
    ],
)
def test_bad_tables_are_refused(root: Path, tmp_path: Path, images: Any, message: str) -> None:
    """Images would be in two lists, in none, or the lists empty."""
    write_tables(root, images)
    refused(root, tmp_path / "out", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(b"dicom_id,split\nd1,train\n", mtime=0),
            r"metadata\.csv\.gz: line 3: image d2 is not in .*split",
        ),
        (gzip.compress(b"dicom_id,part\nd1,train\n", mtime=0), "has no column 'split'"),
        (
            gzip.compress(b"dicom_id,split\n" + b"d1,train\n" * 99, mtime=0)[:-12],
            r"split\.csv\.gz: is damaged",
        ),
        (None, r"has neither .*split\.csv\.gz nor .*split\.csv"),
    ],
)
def test_incomplete_tables_are_refused(root: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    """Tables of two releases, without a column, cut short or absent would end in a traceback."""
    split = root / "mimic-cxr-2.0.0-split.csv.gz"
    split.unlink() if content is None else split.write_bytes(content)
    refused(root, tmp_path / "out", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(GRAPHS)[:-40], r"graphs\.json: is truncated .*s50000003"),
        (json.dumps({**GRAPHS, "s50000001": {"entities": {}}}), "study s50000001 has two graphs"),
        (json.dumps({"report": {"entities": {}}}), "report report names no study"),
        (json.dumps({"0": {"entities": {}}}), "report 0 names no study; .*a CSV file with columns key and study"),
        (json.dumps({"s1": {"entities": {}}}), "no graph is of a study in"),
        (json.dumps({"s50000001": {"entities": {}}}), "no images are left to prepare"),
    ],
)
def test_bad_graph_files_are_refused_and_nothing_is_left(root: Path, tmp_path: Path, text: str, message: str) -> None:
    """Half a graph file would become half a data set."""
    (tmp_path / "graphs.json").write_text(text)
    refused(root, tmp_path / "out", message, tmp_path / "graphs.json")
