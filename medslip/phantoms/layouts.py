"""Writes phantoms to disk: what is known of them, and the same studies as COCO and as five public data sets publish theirs.

The files of a study alone (images, report, masks) are written as soon as it is drawn, in any process; the tables follow
from the rows of all studies. Images are written once per layout, except that COCO refers to the MIMIC-CXR images.

Phantoms have no pneumonia and no COVID-19. In RSNA, consolidations and infiltrates stand in for the opacities that its
readers marked; in COVIDx, a patchy infiltrate counts as positive. Scores on these show that the way from the files to
the score works, and say nothing about the diseases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medslip.data.images import Header, uid_of, write_dicom
from medslip.data.splits import split_of
from medslip.phantoms.findings import KINDS
from medslip.phantoms.painters import Mask
from medslip.phantoms.study import PhantomStudy

RSNA_OPACITIES = ("consolidation", "infiltrate")
COVIDX_POSITIVE = "infiltrate"

_STUDY_COLUMNS = ["image", "study", "patient", "split", "view", "sex", "age", *KINDS]
_BOX = ["x", "y", "width", "height"]
_PUBLISHED_FRAME = 1024
"""Side in pixels of the images that ChestX-ray14 and RSNA give their boxes in."""

_JPEG_QUALITY = 92
_FAST = 1
"""PNG compression level: files are little larger than at level 6, and several times as fast to write."""

Row = Mapping[str, Any]
StudyRows = tuple[Row, list[Row]]
"""A study's row and a row per finding: all that the tables need."""


def write_study(corpus: Path, study: PhantomStudy, split: str) -> StudyRows:
    """Write the images, the report and the masks of one study.

    Args:
        corpus: The corpus folder.
        study: What was drawn.
        split: "train", "valid" or "test". Only MIMIC-CXR, ChestX-ray14 and COCO hold training studies.

    Returns:
        What the tables need of the study.
    """
    patient, image = study.patient, Image.fromarray(study.image)
    mimic = f"mimic_cxr/files/{study.folder}/{study.dicom}.jpg"
    _save(image, corpus / mimic, quality=_JPEG_QUALITY)
    (corpus / mimic).parent.with_suffix(".txt").write_text(study.report.text, encoding="utf-8")
    cxr14 = f"{patient.number - 10_000_000 + 1:08d}_{patient.study_of_patient:03d}.png"
    _save(image, corpus / "cxr14" / "images_001" / "images" / cxr14, compress_level=_FAST)
    row: dict[str, Any] = {
        "image": mimic, "study": f"s{study.number}", "patient": f"p{patient.number}", "split": split, "view": study.view,
        "sex": patient.sex, "age": patient.age, "follow_up": patient.study_of_patient, "side": len(study.image),
        "dicom": study.dicom, "cxr14": cxr14, "covidx": _covidx_list(patient.number, split), "graph": study.radgraph,
    }  # fmt: skip
    if split != "train":
        header = Header(row["patient"], patient.sex, float(patient.age), study.view, *study.image.shape)
        uid, name = uid_of(study.dicom), f"{study.dicom}.dcm"
        series = f"{uid_of(f'{study.dicom}/study')}/{uid_of(f'{study.dicom}/series')}/{uid}.dcm"
        for path in (f"rsna/stage_2_train_images/{name}", f"siim_acr/dicom-images-train/{series}"):
            (corpus / path).parent.mkdir(parents=True, exist_ok=True)
            write_dicom(corpus / path, study.image, header, uid, _JPEG_QUALITY)
        _save(image, corpus / "covidx" / row["covidx"] / f"{study.dicom}.png")
    findings: list[Row] = []
    for finding in study.findings:
        pathology = finding.kind.name
        mask = f"masks/{row['study']}_{pathology}.png"
        _save(Image.fromarray(finding.mask), corpus / mask, compress_level=_FAST)
        row[pathology] = 1
        findings.append(
            {"study": row["study"], "pathology": pathology, "anatomy": finding.site.anatomy, "side": finding.site.side,
             **dict(zip(_BOX, finding.box, strict=True)), "mask": mask, "runs": run_lengths(finding.mask)}
        )  # fmt: skip
    return {**dict.fromkeys(KINDS, 0), **row}, findings


def write_tables(corpus: Path, drawn: Iterable[StudyRows]) -> None:
    """Write the tables of all layouts, findings.csv (a row per study) and findings.jsonl (a line per finding)."""
    drawn = list(drawn)
    studies = pd.DataFrame([study for study, _ in drawn])
    columns = ["study", "pathology", "anatomy", "side", *_BOX, "mask", "runs"]
    findings = pd.DataFrame([finding for _, of_study in drawn for finding in of_study], columns=columns)
    of_image = studies[["study", "image", "split", "dicom", "cxr14"]]
    findings = findings.merge(of_image, on="study", how="left")
    studies[_STUDY_COLUMNS].to_csv(corpus / "findings.csv", index=False, lineterminator="\n")
    findings["box"] = pd.Series(findings[_BOX].to_numpy().tolist(), dtype=object)
    lines = findings[["study", "image", "split", "pathology", "anatomy", "side", "box", "mask"]].to_dict("records")
    _write_lines(corpus / "findings.jsonl", [json.dumps(line) for line in lines])
    _write_mimic(corpus, studies)
    _write_coco(corpus / "coco", studies, findings)
    scale = _PUBLISHED_FRAME / studies["side"].iloc[0]
    findings[_BOX] = findings[_BOX].astype(float) * scale
    _write_cxr14(corpus / "cxr14", studies, findings)
    held_out = studies[studies["split"] != "train"]
    _write_rsna(corpus / "rsna", held_out, findings)
    _write_siim(corpus / "siim_acr", held_out, findings)
    for name in ("train", "val", "test"):
        rows = held_out[held_out["covidx"] == name]
        labels = rows[COVIDX_POSITIVE].map({1: "positive", 0: "negative"})
        _write_lines(
            corpus / "covidx" / f"{name}.txt", rows["patient"] + " " + rows["dicom"] + ".png " + labels + " phantom"
        )


def run_lengths(mask: Mask) -> list[int]:
    """COCO's uncompressed run lengths: column by column, in turn of pixels outside and inside, outside first."""
    pixels = mask.T.ravel()
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    return np.diff(changes, prepend=0, append=len(pixels)).tolist()


def _write_mimic(corpus: Path, studies: pd.DataFrame) -> None:
    """MIMIC-CXR-JPG, and RadGraph's file for it."""
    table = pd.DataFrame(
        {
            "dicom_id": studies["dicom"],
            "subject_id": studies["patient"].str[1:],
            "study_id": studies["study"].str[1:],
            "PerformedProcedureStepDescription": studies["view"].map(
                {"AP": "CHEST (PORTABLE AP)", "PA": "CHEST (PA AND LAT)"}
            ),
            "ViewPosition": studies["view"],
            "Rows": studies["side"],
            "Columns": studies["side"],
            "StudyDate": "21" + (50 + studies["follow_up"]).astype(str) + "0101",
            "StudyTime": "120000.000",
            "split": studies["split"].replace("valid", "validate"),
        }
    )
    # A fixed time stamp, so that the same corpus has the same bytes.
    packed = {"method": "gzip", "mtime": 0}
    folder = corpus / "mimic_cxr"
    table.drop(columns="split").to_csv(folder / "mimic-cxr-2.0.0-metadata.csv.gz", index=False, compression=packed)
    split = table[["dicom_id", "study_id", "subject_id", "split"]]
    split.to_csv(folder / "mimic-cxr-2.0.0-split.csv.gz", index=False, compression=packed)
    graphs = ",\n".join(f"{json.dumps(key)}: {json.dumps(graph)}" for key, graph in studies["graph"])
    _write_lines(corpus / "radgraph" / "MIMIC-CXR_graphs.json", ["{", graphs, "}"])


def _write_coco(folder: Path, studies: pd.DataFrame, findings: pd.DataFrame) -> None:
    """COCO; file names are relative to the corpus."""
    number = {study: place for place, study in enumerate(studies["study"], start=1)}
    category = {name: place for place, name in enumerate(KINDS, start=1)}
    columns = {"image": "file_name", "side": "width"}
    images = studies[["image", "side", "patient", "study", "view", "sex", "age", "split"]].rename(columns=columns)
    images = images.assign(id=images["study"].map(number), height=images["width"])
    side = int(studies["side"].iloc[0])
    marks = pd.DataFrame(
        {
            "id": range(1, len(findings) + 1),
            "image_id": findings["study"].map(number),
            "category_id": findings["pathology"].map(category),
            "bbox": findings["box"],
            "area": [sum(runs[1::2]) for runs in findings["runs"]],
            "iscrowd": 0,
            "segmentation": [{"size": [side, side], "counts": runs} for runs in findings["runs"]],
            "anatomy": findings["anatomy"],
            "split": findings["split"],
        }
    )
    for split in ("train", "valid", "test"):
        content = {
            "images": images[images["split"] == split].drop(columns="split").to_dict("records"),
            "categories": [{"id": place, "name": name} for name, place in category.items()],
            "annotations": marks[marks["split"] == split].drop(columns="split").to_dict("records"),
        }
        _write_lines(folder / f"{split}.json", [json.dumps(content)])


def _write_cxr14(folder: Path, studies: pd.DataFrame, findings: pd.DataFrame) -> None:
    """NIH ChestX-ray14: training and validation studies in train_val_list.txt, test studies in test_list.txt."""
    classes = findings["pathology"].map({name: kind.cxr14 for name, kind in KINDS.items()})
    labels = classes.dropna().groupby(findings["cxr14"]).agg(lambda names: "|".join(sorted(set(names))))
    spacing = (0.14 * 2500 / studies["side"]).round(3)
    entries = pd.DataFrame(
        {
            "name": studies["cxr14"],
            "labels": studies["cxr14"].map(labels).fillna("No Finding"),
            "follow_up": studies["follow_up"],
            "patient": studies["patient"].str[1:].astype(int) - 10_000_000 + 1,
        }
    ).join(studies[["age", "sex", "view", "side"]])
    entries = entries.assign(height=entries["side"], across=spacing, down=spacing)
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    _write_csv(folder / "Data_Entry_2017_v2020.csv", header, entries)
    # The publisher has boxes for these alone (and for pneumonia), and one of them is spelt in another way there.
    spelling = {
        name: name for name in ("Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule", "Pneumothorax")
    } | {"Infiltration": "Infiltrate"}
    boxes = findings.assign(label=classes.map(spelling)).dropna(subset="label")[["cxr14", "label", *_BOX]]
    _write_csv(folder / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes, "%.3f")
    test = studies["split"] == "test"
    _write_lines(folder / "train_val_list.txt", studies["cxr14"][~test])
    _write_lines(folder / "test_list.txt", studies["cxr14"][test])


def _write_rsna(folder: Path, studies: pd.DataFrame, findings: pd.DataFrame) -> None:
    """RSNA Pneumonia: an image without an opacity has a row without a box."""
    opacities = findings[findings["pathology"].isin(RSNA_OPACITIES)]
    rows = studies[["dicom"]].merge(opacities[["dicom", *_BOX]], on="dicom", how="left")
    rows["target"] = rows["x"].notna().astype(int)
    _write_csv(folder / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", rows, "%.1f")


def _write_siim(folder: Path, studies: pd.DataFrame, findings: pd.DataFrame) -> None:
    """SIIM-ACR Pneumothorax: its relative run lengths are COCO's without the pixels after the last inside."""
    masks = findings[findings["pathology"] == "pneumothorax"].set_index("dicom")["runs"]
    text = masks.map(lambda runs: " ".join(map(str, runs[: len(runs) // 2 * 2])))
    rows = pd.DataFrame({"uid": studies["dicom"].map(uid_of), "runs": studies["dicom"].map(text).fillna("-1")})
    _write_csv(folder / "train-rle.csv", "ImageId, EncodedPixels", rows)


def _covidx_list(subject: int, split: str) -> str:
    """COVIDx holds no training phantoms, so validation patients are divided into its train and val lists."""
    if split == "test":
        return "test"
    return "val" if split_of(str(subject), 0, 0.25, 0.0) == "valid" else "train"


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def _write_csv(path: Path, header: str, rows: pd.DataFrame, decimals: str | None = None) -> None:
    """Write a table under a publisher's header, which may have fewer or more names than there are columns."""
    text = rows.to_csv(None, index=False, header=False, float_format=decimals, lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{header}\n{text}")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
