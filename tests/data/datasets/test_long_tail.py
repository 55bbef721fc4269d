"""CXR-LT, MIMIC-CXR-LT and NIH-CXR-LT, which the table reader reads with the options of their configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from medslip.data.datasets.csv_table import Columns, CsvTable
from medslip.vocabulary import CLASS_PROMPTS, pathology_of

CONFIGS = Path(__file__).parents[3] / "configs" / "zeroshot_cls"
MIMIC = "files/p10/p10000032/s50414267/02aa804e.jpg"
# The publishers' columns, without the values of patients.
NIH = (
    "id,No Finding,Infiltration,Effusion,Atelectasis,Nodule,Mass,Consolidation,Pneumothorax,Pleural Thickening,"
    "Cardiomegaly,Emphysema,Edema,Fibrosis,Subcutaneous Emphysema,Pneumonia,Tortuous Aorta,Calcification of the Aorta,"
    "Pneumoperitoneum,Hernia,Pneumomediastinum,subj_id"
)
MIMIC_LT = (
    "dicom_id,subject_id,study_id,path,Support Devices,Lung Opacity,Cardiomegaly,Pleural Effusion,Atelectasis,Pneumonia,"
    "Edema,No Finding,Enlarged Cardiomediastinum,Consolidation,Pneumothorax,Fracture,Calcification of the Aorta,"
    "Tortuous Aorta,Subcutaneous Emphysema,Lung Lesion,Pneumomediastinum,Pneumoperitoneum,Pleural Other"
)
CXR_LT = (
    "dicom_id,subject_id,study_id,ViewPosition,ViewCodeSequence_CodeMeaning,fpath,Adenopathy,Atelectasis,Azygos Lobe,"
    "Calcification of the Aorta,Cardiomegaly,Clavicle Fracture,Consolidation,Edema,Emphysema,Enlarged Cardiomediastinum,"
    "Fibrosis,Fissure,Fracture,Granuloma,Hernia,Hydropneumothorax,Infarction,Infiltration,Kyphosis,Lobar Atelectasis,"
    "Lung Lesion,Lung Opacity,Mass,Nodule,Normal,Pleural Effusion,Pleural Other,Pleural Thickening,Pneumomediastinum,"
    "Pneumonia,Pneumoperitoneum,Pneumothorax,Pulmonary Embolism,Pulmonary Hypertension,Rib Fracture,Round(ed) Atelectasis,"
    "Subcutaneous Emphysema,Support Devices,Tortuous Aorta,Tuberculosis"
)
UNSEEN = ("Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis")


@pytest.mark.parametrize(
    ("config", "header", "about", "image", "patient", "classes"),
    [
        ("nih_lt", NIH, {"id": "00000001_000.png", "subj_id": "1"}, "images_001/images/00000001_000.png", "1", 19),
        ("mimic_cxr_lt", MIMIC_LT, {"path": MIMIC, "subject_id": "10000032"}, MIMIC, "10000032", 18),
        ("cxr_lt", CXR_LT, {"fpath": MIMIC, "subject_id": "10000032", "ViewPosition": "PA"}, MIMIC, "10000032", 39),
    ],
)
def test_the_publishers_tables_are_read_with_the_configs(
    tmp_path: Path, config: str, header: str, about: dict[str, str], image: str, patient: str, classes: int
) -> None:
    """A class would be left out, have no query, or belong to no patient."""
    cells = {**dict.fromkeys(header.split(","), "0"), "dicom_id": "02aa804e", "study_id": "50414267"}
    cells |= {"ViewCodeSequence_CodeMeaning": "postero-anterior"} if "View" in header else {}
    cells |= {"Tortuous Aorta": "1", "Cardiomegaly": "1.0", **about}
    (tmp_path / "table.csv").write_text(f"{header}\n{','.join(cells[name] for name in header.split(','))}\n")
    (tmp_path / "images" / image).parent.mkdir(parents=True)
    Image.new("L", (2, 2)).save(tmp_path / "images" / image)
    options: dict[str, Any] = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())["data"]
    assert options.pop("kind") == "csv"
    options |= {"path": tmp_path / "table.csv", "images": tmp_path / "images"}
    table = CsvTable(**options | {"columns": Columns(**options["columns"])}).read()
    assert table.paths == [tmp_path / "images" / image]
    assert table.patients == [patient]
    assert len(table.classes) == classes
    assert table.labels is not None
    assert set(table.labels.columns[table.labels.iloc[0] == 1]) == {"Tortuous Aorta", "Cardiomegaly"}
    assert all(pathology_of(name) or name in CLASS_PROMPTS for name in (*table.classes, *UNSEEN))
