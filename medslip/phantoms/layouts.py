"""Writes phantoms to disk: what is known of them, and the same studies as COCO and as seven public data sets publish theirs.

The files of one study (images, report, masks) are written as soon as it is drawn, in any process. The tables follow from
the rows of all studies. COCO, Chest ImaGenome and MS-CXR have no images of their own: they refer to those of MIMIC-CXR.

Phantoms have no pneumonia and no COVID-19. In RSNA, consolidations and infiltrates stand in for the opacities that its
readers marked; in COVIDx, a patchy infiltrate counts as positive. Scores on these show that the way from the files to
the score works, and say nothing about the diseases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medslip.data.images import Header
from medslip.data.masks import runs_of
from medslip.data.splits import split_of
from medslip.phantoms.dicom import QUALITY, uid_of, write_dicom
from medslip.phantoms.findings import KINDS
from medslip.phantoms.study import PhantomStudy

RSNA_OPACITIES = ("consolidation", "infiltrate")
COVIDX_POSITIVE = "infiltrate"

_PUBLISHED_FRAME = 1024  # side in pixels of the images that ChestX-ray14 and RSNA give their boxes in
_FAST = 1  # PNG compression level: files little larger than at level 6, written several times as fast
_BOX = ["x", "y", "width", "height"]

Row = dict[str, Any]
StudyRows = tuple[Row, list[Row]]
"""A study's row and a row per finding: all that the tables need."""


def write_study(corpus: Path, study: PhantomStudy, split: str) -> StudyRows:
    """Write the images, the report and the masks of one study; RSNA, SIIM-ACR and COVIDx have no training studies."""
    patient, image, dicom = study.patient, Image.fromarray(study.image), study.dicom
    mimic = f"mimic_cxr/files/{study.folder}/{dicom}.jpg"
    cxr14 = f"{patient.number - 10_000_000 + 1:08d}_{patient.study_of_patient:03d}.png"
    _save(image, corpus / mimic)
    _save(image, corpus / "cxr14" / "images_001" / "images" / cxr14)
    (corpus / mimic).parent.with_suffix(".txt").write_text(study.report.text, encoding="utf-8")
    objects = [
        {"bbox_name": name, "original_x1": x, "original_y1": y, "original_x2": x + w, "original_y2": y + h}
        for name, (x, y, w, h) in study.anatomies.items()
    ]
    scene = {"image_id": dicom, "patient_id": patient.number, "study_id": study.number, "objects": objects}
    graphs = corpus / "chest_imagenome/silver_dataset/scene_graph"
    _write_lines(graphs / f"{dicom}_SceneGraph.json", [json.dumps(scene)])
    covidx = split
    if split != "train":
        if split == "valid":  # training phantoms are not in COVIDx, so these are divided into two of its lists
            covidx = "val" if split_of(str(patient.number), 0, 0.25, 0.0) == "valid" else "train"
        _save(image, corpus / "covidx" / covidx / f"{dicom}.png")
        header = Header(f"p{patient.number}", patient.sex, float(patient.age), study.view, *study.image.shape)
        series = f"{uid_of(f'{dicom}/study')}/{uid_of(f'{dicom}/series')}"
        for path in (f"rsna/stage_2_train_images/{dicom}", f"siim_acr/dicom-images-train/{series}/{uid_of(dicom)}"):
            (corpus / path).parent.mkdir(parents=True, exist_ok=True)
            write_dicom(corpus / f"{path}.dcm", study.image, header, uid_of(dicom))
    findings: list[Row] = []
    for finding, sentence in zip(study.findings, study.report.stated, strict=True):
        mask = f"masks/s{study.number}_{finding.kind.name}.png"
        _save(Image.fromarray(finding.mask), corpus / mask)
        findings.append(
            {"study": f"s{study.number}", "image": mimic, "split": split, "pathology": finding.kind.name,
             "anatomy": finding.site.anatomy, "side": finding.site.side, "box": list(finding.box), "mask": mask,
             "dicom_id": dicom, "cxr14": cxr14, "runs": runs_of(finding.mask).tolist(), "sentence": sentence,
             "pixels": len(study.image)}
        )  # fmt: skip
    row: Row = {
        "image": mimic, "study": f"s{study.number}", "patient": f"p{patient.number}", "split": split, "view": study.view,
        "sex": patient.sex, "age": patient.age, **dict.fromkeys(KINDS, 0), **{f["pathology"]: 1 for f in findings},
        "dicom_id": dicom, "study_id": study.number, "subject_id": patient.number, "pixels": len(study.image),
        "follow_up": patient.study_of_patient, "cxr14": cxr14, "covidx": covidx, "graph": study.radgraph,
    }  # fmt: skip
    return row, findings


def write_tables(corpus: Path, drawn: Iterable[StudyRows]) -> None:
    """Write the tables of all layouts, findings.csv (a row per study) and findings.jsonl (a line per finding)."""
    drawn = list(drawn)
    studies = pd.DataFrame([study for study, _ in drawn])
    known = ["study", "image", "split", "pathology", "anatomy", "side", "box", "mask"]
    columns = [*known, "dicom_id", "cxr14", "runs", "sentence", "pixels"]
    findings = pd.DataFrame([finding for _, of_study in drawn for finding in of_study], columns=columns)
    findings[_BOX] = findings["box"].to_list() or np.empty((0, 4))
    studies.loc[:, "image" : list(KINDS)[-1]].to_csv(corpus / "findings.csv", index=False, lineterminator="\n")
    _write_lines(corpus / "findings.jsonl", map(json.dumps, findings[known].to_dict("records")))
    _write_mimic(corpus, studies)
    _write_coco(corpus / "coco", studies, findings)
    _write_chest_imagenome(corpus / "chest_imagenome/silver_dataset/splits", studies)
    _write_ms_cxr(corpus / "ms_cxr", findings)
    findings[_BOX] *= _PUBLISHED_FRAME / studies["pixels"].iloc[0]
    _write_cxr14(corpus / "cxr14", studies, findings)
    held_out = studies[studies["split"] != "train"]
    _write_rsna(corpus / "rsna", held_out, findings)
    _write_siim(corpus / "siim_acr", held_out, findings)
    _write_covidx(corpus / "covidx", held_out)


def _write_mimic(corpus: Path, studies: pd.DataFrame) -> None:
    """MIMIC-CXR-JPG, and RadGraph's file for it."""
    metadata = studies[["dicom_id", "subject_id", "study_id"]].assign(
        ViewPosition=studies["view"],
        Rows=studies["pixels"],
        Columns=studies["pixels"],
        StudyDate="21" + (50 + studies["follow_up"]).astype(str) + "0101",
        StudyTime="120000.000",
    )
    splits = studies[["dicom_id", "study_id", "subject_id", "split"]].replace({"split": {"valid": "validate"}})
    for name, table in (("metadata", metadata), ("split", splits)):
        path = corpus / "mimic_cxr" / f"mimic-cxr-2.0.0-{name}.csv.gz"
        # A fixed time stamp, so that the same corpus has the same bytes.
        table.to_csv(path, index=False, compression={"method": "gzip", "mtime": 0}, lineterminator="\n")
    graphs = ",\n".join(f"{json.dumps(key)}: {json.dumps(graph)}" for key, graph in studies["graph"])
    _write_lines(corpus / "radgraph" / "MIMIC-CXR_graphs.json", ["{", graphs, "}"])


def _write_coco(folder: Path, studies: pd.DataFrame, findings: pd.DataFrame) -> None:
    """COCO; file names are relative to the corpus."""
    side = int(studies["pixels"].iloc[0])
    images = studies[["patient", "study", "view", "sex", "age", "split"]].assign(
        id=studies.index + 1, file_name=studies["image"], width=side, height=side
    )
    categories = {name: place for place, name in enumerate(KINDS, start=1)}
    annotations = findings[["anatomy", "split"]].assign(
        id=findings.index + 1,
        image_id=findings["study"].map(dict(zip(images["study"], images["id"], strict=True))),
        category_id=findings["pathology"].map(categories),
        bbox=findings["box"],
        area=findings["runs"].map(lambda runs: sum(runs[1::2])),
        iscrowd=0,
        segmentation=findings["runs"].map(lambda runs: {"size": [side, side], "counts": [*runs, side**2 - sum(runs)]}),
    )
    for split in ("train", "valid", "test"):
        content = {
            "images": images[images["split"] == split].drop(columns="split").to_dict("records"),
            "categories": [{"id": place, "name": name} for name, place in categories.items()],
            "annotations": annotations[annotations["split"] == split].drop(columns="split").to_dict("records"),
        }
        _write_lines(folder / f"{split}.json", [json.dumps(content)])


def _write_chest_imagenome(folder: Path, studies: pd.DataFrame) -> None:
    """The lists of Chest ImaGenome's splits."""
    paths = studies["image"].str.removeprefix("mimic_cxr/").str.replace(".jpg", ".dcm", regex=False)
    rows = studies[["subject_id", "study_id", "dicom_id"]].assign(path=paths, view=studies["view"]).reset_index()
    for split in ("train", "valid", "test"):
        of_split = rows[(studies["split"] == split).to_numpy()]
        _write_csv(folder / f"{split}.csv", ",subject_id,study_id,dicom_id,path,ViewPosition", of_split)


def _write_ms_cxr(folder: Path, findings: pd.DataFrame) -> None:
    """MS-CXR: the sentence of the report that states a finding, and its box."""
    rows = findings.assign(path=findings["image"].str.removeprefix("mimic_cxr/"))
    rows = rows[["pathology", "sentence", "path", *_BOX, "pixels", "pixels", "dicom_id", "split"]]
    header = "category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id,split"
    _write_csv(folder / "MS_CXR_Local_Alignment_v1.1.0.csv", header, rows)


def _write_cxr14(folder: Path, studies: pd.DataFrame, findings: pd.DataFrame) -> None:
    """NIH ChestX-ray14: training and validation studies in train_val_list.txt, test studies in test_list.txt."""
    findings = findings.assign(label=findings["pathology"].map({name: kind.cxr14 for name, kind in KINDS.items()}))
    labels = findings.dropna(subset="label").groupby("cxr14")["label"].agg(lambda names: "|".join(sorted(set(names))))
    entries = studies.assign(
        labels=studies["cxr14"].map(labels).fillna("No Finding"),
        number=studies["subject_id"] - 10_000_000 + 1,
        spacing=(0.14 * 2500 / studies["pixels"]).round(3),
    )
    size = ["pixels", "pixels", "spacing", "spacing"]  # across and down
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    columns = ["cxr14", "labels", "follow_up", "number", "age", "sex", "view", *size]
    _write_csv(folder / "Data_Entry_2017_v2020.csv", header, entries[columns])
    # The publisher has boxes for these classes (and for pneumonia) only, and spells one of them differently there.
    boxed = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax")
    boxes = findings[findings["label"].isin(boxed)].replace({"label": {"Infiltration": "Infiltrate"}})
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    _write_csv(folder / "BBox_List_2017.csv", header, boxes[["cxr14", "label", *_BOX]], "%.3f")
    test = studies["split"] == "test"
    _write_lines(folder / "train_val_list.txt", studies["cxr14"][~test])
    _write_lines(folder / "test_list.txt", studies["cxr14"][test])


def _write_rsna(folder: Path, studies: pd.DataFrame, findings: pd.DataFrame) -> None:
    """RSNA Pneumonia: an image without an opacity has a row without a box."""
    opacities = findings[findings["pathology"].isin(RSNA_OPACITIES)]
    rows = studies[["dicom_id"]].merge(opacities[["dicom_id", *_BOX]], on="dicom_id", how="left")
    rows["target"] = rows["x"].notna().astype(int)
    _write_csv(folder / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", rows, "%.1f")


def _write_siim(folder: Path, studies: pd.DataFrame, findings: pd.DataFrame) -> None:
    """SIIM-ACR Pneumothorax: its relative run lengths are those of COCO without the pixels after the last inside."""
    runs = findings[findings["pathology"] == "pneumothorax"].set_index("dicom_id")["runs"]
    text = runs.map(lambda lengths: " ".join(map(str, lengths)))
    rows = pd.DataFrame({"uid": studies["dicom_id"].map(uid_of), "runs": studies["dicom_id"].map(text).fillna("-1")})
    _write_csv(folder / "train-rle.csv", "ImageId, EncodedPixels", rows)


def _write_covidx(folder: Path, studies: pd.DataFrame) -> None:
    labels = studies[COVIDX_POSITIVE].map({1: "positive", 0: "negative"})
    lines = studies["patient"] + " " + studies["dicom_id"] + ".png " + labels + " phantom"
    for name in ("train", "val", "test"):
        _write_lines(folder / f"{name}.txt", lines[studies["covidx"] == name])


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=QUALITY, compress_level=_FAST)


def _write_csv(path: Path, header: str, rows: pd.DataFrame, decimals: str | None = None) -> None:
    """Write a table under a publisher's header, which may name another number of columns."""
    text = rows.to_csv(None, index=False, header=False, float_format=decimals, lineterminator="\n")
    _write_lines(path, [header, *text.splitlines()])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
