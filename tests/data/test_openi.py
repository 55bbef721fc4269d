"""OpenI: tags to triplets, what a normal report denies, and the files' faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from medslip.data.openi import OpenIRules, TagCounter, iter_reports, prepare_openi, report_cells
from medslip.data.records import read_list
from medslip.errors import InputError
from medslip.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_index, pathology_index

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{number}"/><MeSH>{tags}</MeSH>
<parentImage id="CXR{number}_IM-1-1001"/><parentImage id="CXR{number}_IM-1-2001"/></eCitation>"""


@pytest.fixture(scope="module")
def rules() -> OpenIRules:
    return OpenIRules.load()


def write_reports(folder: Path, *tags: str) -> tuple[Path, Path]:
    reports, images = folder / "ecgen-radiology", folder / "images"
    reports.mkdir()
    images.mkdir()
    for number, tag in enumerate(tags, start=1):
        major = "".join(f"<major>{part}</major>" for part in tag.split("|") if part)
        (reports / f"{number}.xml").write_text(REPORT.format(number=number, tags=major))
        for view in (1001, 2001):
            Image.new("L", (2, 2)).save(images / f"CXR{number}_IM-1-{view}.png")
    return reports, images


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("normal", {("unspecified", "normal")}),
        ("Opacity/lung/base/left/mild", {("left_lower_lung", "opacity")}),
        ("Opacity/lung/bilateral", {("left_lung_unspec", "opacity"), ("right_lung_unspec", "opacity")}),
        ("Pleural Effusion/bilateral/small", {("pleural_unspec", "effusion")}),
        ("Pneumothorax/apex/left", {("left_apical_lung", "pneumothorax")}),
        ("Calcinosis/lung/hilum/lymph nodes/right", {("right_hilar", "calcification")}),
        ("Opacity/lung/upper lobe/left/lower lobe/right",
         {("upper_left_lobe", "opacity"), ("lower_right_lobe", "opacity")}),
        ("Pulmonary Atelectasis/middle lobe/lingula/bilateral",
         {("upper_left_lobe", "atelectasis"), ("middle_right_lobe", "atelectasis")}),
        ("Cardiomegaly/borderline", {("heart_size", "borderline")}),
        ("Cardiac Shadow/enlarged/mild", {("heart_size", "enlarge"), ("heart_size", "cardiomegaly")}),
        ("Lung/hypoinflation", {("lung_volumes", "low")}),
        ("Costophrenic Angle/right/posterior/blunted", {("right_costophrenic", "blunt")}),
        ("Aorta, Thoracic/tortuous", {("aorta", "tortuous")}),
        ("Catheters, Indwelling/right", {("unspecified", "catheter")}),
        ("Technical Quality of Image Unsatisfactory ", set()),
        ("No Indexing", set()),
        ("Some New Term/lung", set()),
    ],
)  # fmt: skip
def test_tags(rules: OpenIRules, tag: str, expected: set[tuple[str, str]]) -> None:
    assert set(rules.triplets(tag)) == expected


def test_every_rule_speaks_the_vocabulary(rules: OpenIRules) -> None:
    for rule in rules.findings:
        assert set(rule.pathologies) <= set(PATHOLOGIES), rule
        assert not rule.place or rule.place in rules.places, rule
    assert set(rules.states.values()) <= set(PATHOLOGIES)
    for term, sides in rules.places.items():
        assert set(sides) == {"left", "right", "both", "none"}, term
        assert {name for anatomies in sides.values() for name in anatomies} <= set(ANATOMIES), term
    assert rules.general_places <= rules.places.keys()
    assert set(rules.absent_when_normal) <= set(PATHOLOGIES)
    assert set(rules.absent_when_normal.values()) <= {"", *rules.places}
    assert rules.absent_when_untagged.keys() <= rules.absent_when_normal.keys()


def test_a_normal_report_denies_the_findings_where_a_report_would(rules: OpenIRules) -> None:
    cells = report_cells(["normal"], rules)
    assert cells[anatomy_index("unspecified"), pathology_index("normal")] == 1
    assert cells[anatomy_index("pleural_unspec"), pathology_index("effusion")] == 0
    assert cells[anatomy_index("heart_size"), pathology_index("cardiomegaly")] == 0
    assert len(cells) == 1 + len(rules.absent_when_normal)


def test_an_untagged_effusion_is_absent_unless_a_related_tag_leaves_it_open(rules: OpenIRules) -> None:
    effusion = (anatomy_index("pleural_unspec"), pathology_index("effusion"))
    assert report_cells(["Opacity/lung/base/left"], rules)[effusion] == 0
    assert effusion not in report_cells(["Costophrenic Angle/left/blunted"], rules)
    assert report_cells(["Pleural Effusion"], rules)[effusion] == 1
    assert report_cells(["No Indexing"], rules) == {}


def test_preparation_keeps_reports_whole_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    reports, images = write_reports(tmp_path, *["normal", "Opacity/lung"] * 10, "No Indexing")
    (images / "CXR1_IM-1-2001.png").unlink()
    summary = prepare_openi(reports, images, tmp_path / "out", test_fraction=0.4)
    assert summary.studies == 20
    assert sum(summary.images.values()) == 39
    assert summary.left_out["images that are not in the folder"] == 1
    assert summary.left_out["reports without a tag that says something"] == 1
    assert any("all were taken" in note for note in summary.notes)
    assert any("20 of 21 mapped" in note and "distinct" in note for note in summary.notes)
    lists = [set(read_list(tmp_path / "out" / f"{split}.csv").table["study"]) for split in summary.images]
    assert sum(map(len, lists)) == 20  # no report is in two lists


@pytest.mark.parametrize(
    "text",
    [
        "image,view\nCXR1_IM-1-1001,PA\nCXR1_IM-1-2001,LL\n",
        "uid,filename,projection\n1,1_IM-1-1001.dcm.png,Frontal\n1,1_IM-1-2001.dcm.png,Lateral\n",
    ],
)
def test_views_choose_the_frontal_image(tmp_path: Path, text: str) -> None:
    reports, images = write_reports(tmp_path, "normal")
    (tmp_path / "views.csv").write_text(text)
    summary = prepare_openi(reports, images, tmp_path / "out", tmp_path / "views.csv", 0, 0)
    studies = read_list(tmp_path / "out" / "train.csv")
    assert [studies.image_path(index).stem for index in range(len(studies))] == ["CXR1_IM-1-1001"]
    assert summary.left_out == {"images that are not frontal": 1}


def test_a_cut_report_and_a_wrong_folder_are_named(tmp_path: Path) -> None:
    reports, images = write_reports(tmp_path, "normal")
    with pytest.raises(InputError, match="holds no OpenI report"):
        next(iter_reports(images))
    whole = (reports / "1.xml").read_text()
    (reports / "1.xml").write_text(whole[:80])
    with pytest.raises(InputError, match=r"1\.xml: not a whole XML file"):
        list(iter_reports(reports))
    (reports / "1.xml").write_text("<other/>")
    with pytest.raises(InputError, match=r"1\.xml: has no uId"):
        list(iter_reports(reports))


def test_views_file_without_its_columns(tmp_path: Path) -> None:
    reports, images = write_reports(tmp_path, "normal")
    (tmp_path / "views.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="needs the columns image and view"):
        prepare_openi(reports, images, tmp_path / "out", tmp_path / "views.csv")
    assert not (tmp_path / "out").exists()


def test_coverage_counts_occurrences(rules: OpenIRules) -> None:
    counter = TagCounter(rules)
    counter.add(["normal", "Strange", "Strange"])
    assert (counter.mapped.total(), counter.unmapped.total()) == (1, 2)
    assert "Strange (2)" in counter.notes()[1]
