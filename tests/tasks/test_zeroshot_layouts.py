"""Zero-shot classification of RSNA, SIIM-ACR and COVIDx in their publishers' layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medslip.data.images import Header, uid_of, write_dicom
from medslip.data.registry import data_set
from medslip.tasks.zeroshot_cls import ZeroshotConfig, build_queries, run
from medslip.vocabulary import CLASS_PROMPTS

GREY = np.random.default_rng(0).integers(0, 99, (4, 40, 40), dtype=np.uint8)


def write_rsna(root: Path) -> None:
    folder = root / "stage_2_train_images"
    folder.mkdir()
    rows = ["patientId,x,y,width,height,Target"]
    for index, grey in enumerate(GREY):
        write_dicom(folder / f"{index}.dcm", grey, Header(str(index), "F", 50, "PA", 0, 0), uid_of(str(index)))
        rows.append(f"{index},1,2,3,4,1" if index % 2 else f"{index},,,,,0")
    (root / "stage_2_train_labels.csv").write_text("\n".join(rows) + "\n")


def write_siim(root: Path) -> None:
    folder = root / "dicom-images-train" / "study" / "series"
    folder.mkdir(parents=True)
    for index, grey in enumerate(GREY):
        write_dicom(folder / f"{index}.dcm", grey, Header("", "F", 50, "PA", 0, 0), uid_of(str(index)))
    (root / "train-rle.csv").write_text("ImageId, EncodedPixels\n0,-1\n1,0 3\n2,-1\n3,5 1\n3,9 2\n")


def write_covidx(root: Path) -> None:
    (root / "test").mkdir()
    lines = []
    for index, grey in enumerate(GREY):
        Image.fromarray(grey).save(root / "test" / f"{index}.png")
        lines.append(f"p{index} {index}.png {'positive' if index % 2 else 'negative'} made\n")
    (root / "test.txt").write_text("".join(lines))


@pytest.mark.parametrize(
    ("kind", "write", "label", "query"),
    [
        ("rsna", write_rsna, "Pneumonia", "pneumonia"),
        ("siim_acr", write_siim, "Pneumothorax", "pneumothorax"),
        ("covidx", write_covidx, "COVID-19", CLASS_PROMPTS["COVID-19"]),
    ],
)
def test_a_layout_is_classified_and_scored(
    kind: str, write: Callable[[Path], None], label: str, query: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """A publisher's data set could not be evaluated, or COVID-19 would need a prompt of the user's."""
    write(tmp_path)
    data = data_set(kind)(tmp_path, equalise=kind == "rsna")
    run(
        ZeroshotConfig(
            checkpoint=tiny_checkpoint, data=data, resamples=5, workers=0, device="cpu", output=tmp_path / "run"
        ),
        show=False,
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["queries"] == {label: query}
    assert label in (tmp_path / "run" / "predictions.csv").read_text()


def test_a_prompt_answers_for_a_class_whatever_its_case(tmp_path: Path) -> None:
    """A user's own text for covid-19 would stand beside COVID-19, unscored."""
    write_covidx(tmp_path)
    config = ZeroshotConfig(checkpoint=tmp_path, data=data_set("covidx")(tmp_path), prompt={"covid-19": "hazy"})
    assert build_queries(config.data.read(), config).described() == {"COVID-19": "covid-19: hazy"}
