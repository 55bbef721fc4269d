"""Reading OpenI: reports, images and views, and the files' faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from medslip.data.datasets.openi import OpenI, iter_reports
from medslip.data.prepared import read_list
from medslip.errors import InputError
from medslip.tasks.prepare_data import PrepareConfig, run

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{number}"/><MeSH>{tags}</MeSH>
<parentImage id="CXR{number}_IM-1-1001"/><parentImage id="CXR{number}_IM-1-2001"/></eCitation>"""


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


def test_preparation_keeps_reports_whole_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    reports, images = write_reports(tmp_path, *["normal", "Opacity/lung"] * 10, "No Indexing")
    (images / "CXR1_IM-1-2001.png").unlink()
    summary = run(PrepareConfig(OpenI(reports, images=images), tmp_path / "out", test_fraction=0.4))
    assert summary.studies == 20
    assert sum(summary.images.values()) == 39
    assert summary.left_out["images that are not in the folder"] == 1
    assert summary.left_out["reports without a tag that says something"] == 1
    assert any("all were taken" in note for note in summary.notes)
    assert any("20 of 21 mapped" in note and "distinct" in note for note in summary.notes)
    lists = [set(read_list(tmp_path / "out" / f"{split}.csv").images["study"]) for split in summary.images]
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
    summary = run(PrepareConfig(OpenI(reports, images=images, views=tmp_path / "views.csv"), tmp_path / "out", 0, 0))
    studies = read_list(tmp_path / "out" / "train.csv")
    assert [studies.paths[index].stem for index in range(len(studies))] == ["CXR1_IM-1-1001"]
    assert {reason for reason, count in summary.left_out.items() if count} == {"images that are not frontal"}
    (tmp_path / "views.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="needs the columns image and view"):
        OpenI(reports, images=images, views=tmp_path / "views.csv").read()


def test_an_image_that_a_report_names_twice_is_read_once(tmp_path: Path) -> None:
    """A list with an image twice cannot be trained on."""
    reports, images = write_reports(tmp_path, "normal")
    text = (reports / "1.xml").read_text()
    (reports / "1.xml").write_text(text.replace("</eCitation>", '<parentImage id="CXR1_IM-1-1001"/></eCitation>'))
    assert len(OpenI(reports, images=images).read()) == 2


def test_a_cut_report_and_a_wrong_folder_are_named(tmp_path: Path) -> None:
    reports, images = write_reports(tmp_path, "normal")
    with pytest.raises(InputError, match="contains no OpenI report"):
        next(iter_reports(images))
    whole = (reports / "1.xml").read_text()
    laughs = '<!DOCTYPE a [<!ENTITY a0 "xxxxxxxxxx">' + "".join(
        f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 9)
    )
    for text in (whole[:80], '<?xml version="1.0" encoding="morse"?><a/>', f"{laughs}]><a>&a8;</a>", "<a>" * 10_000):
        (reports / "1.xml").write_text(text)
        with pytest.raises(InputError, match=r"1\.xml: not a complete XML file"):
            list(iter_reports(reports))
    (reports / "1.xml").write_text("<other/>")
    with pytest.raises(InputError, match=r"1\.xml: has no uId"):
        list(iter_reports(reports))


def test_the_first_report_finds_its_images_in_either_download(tmp_path: Path) -> None:
    """Its number is in its images' names twice in the reports, and once in one of the downloads."""
    reports, images = write_reports(tmp_path, "normal")
    (reports / "1.xml").write_text((reports / "1.xml").read_text().replace('id="CXR1_IM', 'id="CXR1_1_IM'))
    assert len(OpenI(reports, images=images).read()) == 2


@pytest.mark.parametrize("images", ["images", "images_kaggle"])
def test_the_first_report_of_the_shared_case(shared: Path, images: str) -> None:
    """The same, for both downloads."""
    case = shared / "cases" / "openi_cxr1"
    if not case.is_dir():
        pytest.skip("needs ../shared/cases")
    views = case / "indiana_projections.csv"
    assert len(OpenI(case / "ecgen", images=case / images).read()) == 4
    assert len(OpenI(case / "ecgen", images=case / images, views=views).read()) == 2
