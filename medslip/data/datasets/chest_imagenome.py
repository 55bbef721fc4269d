"""Chest ImaGenome in the publisher's layout: boxes of anatomies on frontal images of MIMIC-CXR.

gold_dataset/gold_bbox_coordinate_annotations_1000images.csv (drawn by hand, one row per box: image_id, bbox_name, original_x1,
original_y1, original_x2, original_y2, ...), silver_dataset/scene_graph/<dicom_id>_SceneGraph.json (by a detector; the same of
each entry of "objects"), and silver_dataset/splits/*.csv (subject_id, study_id, dicom_id, path, ViewPosition), where
images_to_avoid.csv has the gold patients. Coordinates that begin with "original" are pixels of the image as MIMIC-CXR has it.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from medslip.data.dataset import DataSet
from medslip.data.images import read_headers
from medslip.data.reading import first_line, listed_images, read_cells
from medslip.data.table import FINDING_COLUMNS, ImageTable
from medslip.errors import InputError, one_line
from medslip.files import read_json
from medslip.vocabulary import anatomy_of

GOLD_FILE = "gold_dataset/gold_bbox_coordinate_annotations_1000images.csv"
GRAPHS = "silver_dataset/scene_graph"
SPLITS_FOLDER = "silver_dataset/splits"

_CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")


@dataclass(frozen=True)
class ChestImaGenome(DataSet):
    """Chest ImaGenome: boxes of anatomies.

    Attributes:
        path: The publisher's folder: gold_dataset/, silver_dataset/ with scene_graph/ (unpacked) and splits/.
        images: MIMIC-CXR-JPG's folder, which has files/.
        boxes: "gold" for the boxes that were drawn by hand, "silver" for those of the detector.
        split: Of the silver boxes: train, valid or test, or several, as in valid+test. None takes all that exist.
    """

    kind: ClassVar[str] = "chest_imagenome"
    path: Path = Path("data_file/chest_imagenome")
    images: Path = Path("data_file/mimic_cxr")
    boxes: Literal["gold", "silver"] = "gold"
    split: str | None = None

    def load(self) -> ImageTable:
        """The images in the order of the boxes (gold) or of the splits; a finding's class is an anatomy of the vocabulary."""
        left_out: Counter[str] = Counter()
        if self.boxes == "gold":
            source, listed = self.path / GOLD_FILE, self._listed(["images_to_avoid", "train", "valid", "test"])
            found = read_cells(source, ("image_id", "bbox_name", *_CORNERS))
            found["image_id"] = found["image_id"].str.removesuffix(".dcm")
            if (line := first_line(~found["image_id"].isin(listed.index))) is not None:
                name = found["image_id"][line]
                raise InputError(f"{source}: line {line}: image {name} is in no file of {self.path / SPLITS_FOLDER}")
        else:
            source, listed = self.path / SPLITS_FOLDER, self._listed(list(self.splits))
            found = self._graphs(listed.index, left_out)
            if not len(found):
                raise InputError(
                    f"{self.path / GRAPHS}: has no box of an image that {source} lists; unpack scene_graph.zip"
                )
        images = listed.loc[found["image_id"].unique()]
        paths = images.set_index("line")["path"].str.replace(r"\.dcm$", ".jpg", regex=True)
        paths = listed_images(paths, self.images, self.path / SPLITS_FOLDER)
        headers = read_headers([Path(path) for path in paths])
        known = {
            "path": paths.tolist(),
            "patient": ("p" + images["subject_id"]).tolist(),
            "study": ("s" + images["study_id"]).tolist(),
            "view": images["ViewPosition"].tolist(),
            "split": images["split"].tolist(),
            "height": [header.height for header in headers],
            "width": [header.width for header in headers],
        }
        table = pd.DataFrame(known)
        findings = self._findings(found, images.index, table, left_out)
        name = "gold" if self.boxes == "gold" else f"silver, {self.split or 'all splits'}"
        return ImageTable(f"Chest ImaGenome ({name})", table, findings=findings, left_out=left_out)

    def _listed(self, splits: list[str]) -> pd.DataFrame:
        """What the lists of these splits say of each image; the index holds its name."""
        parts = []
        for split in splits:
            file = self.path / SPLITS_FOLDER / f"{split}.csv"
            if file.exists() or (self.boxes == "silver" and self.split is not None):
                rows = read_cells(file, ("subject_id", "study_id", "dicom_id", "path", "ViewPosition"))
                parts.append(rows.assign(split="" if self.boxes == "gold" else split, line=rows.index))
        if not parts:
            raise InputError(
                f"{self.path / SPLITS_FOLDER}: contains none of {', '.join(f'{name}.csv' for name in splits)}; check the path"
            )
        return pd.concat(parts).drop_duplicates("dicom_id").set_index("dicom_id")

    def _graphs(self, names: pd.Index, left_out: Counter[str]) -> pd.DataFrame:
        """The objects of the scene graphs, in columns of numbers: there are nine million."""
        rows, objects, corners = array("l"), list[str](), array("d")
        for row, name in enumerate(tqdm(names, "graphs", unit="file", disable=None)):
            for entry in self._graph(name, left_out):
                rows.append(row)
                objects.append(sys.intern(str(entry["bbox_name"])))
                corners.extend(_number(entry[key]) for key in _CORNERS)
        columns = np.asarray(corners).reshape(-1, len(_CORNERS)).T
        return pd.DataFrame(
            {"image_id": names[rows], "bbox_name": objects, **dict(zip(_CORNERS, columns, strict=True))}
        )

    def _graph(self, name: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
        """The objects of a scene graph."""
        file = self.path / GRAPHS / f"{name}_SceneGraph.json"
        if not file.exists():
            left_out["images without a scene graph"] += 1
            return
        graph = read_json(file, "unpack scene_graph.zip")
        objects = graph.get("objects") if isinstance(graph, dict) else None
        if not isinstance(objects, list):
            raise InputError(f"{file}: not a scene graph: a JSON object with the list objects")
        for entry in objects:
            if not isinstance(entry, dict) or not {"bbox_name", *_CORNERS} <= entry.keys():
                raise InputError(f"{file}: an object has no bbox_name or no {_CORNERS[0]} to {_CORNERS[-1]}")
            yield entry

    def _findings(
        self, found: pd.DataFrame, order: pd.Index, images: pd.DataFrame, left_out: Counter[str]
    ) -> pd.DataFrame:
        """The boxes of anatomies of the vocabulary that lie in their image."""
        row = pd.Series(np.arange(len(order)), order)[found["image_id"]].to_numpy()
        corners = found[list(_CORNERS)].apply(pd.to_numeric, errors="coerce").to_numpy()
        (x1, y1, x2, y2), size = corners.T, images.loc[row, ["width", "height"]].to_numpy()
        inside = np.isfinite(corners).all(axis=1)
        inside &= (np.clip(corners[:, :2], 0, None) < np.minimum(corners[:, 2:], size)).all(axis=1)
        left_out["empty boxes"] += int((~inside).sum())
        name_of = {name: self.classes.get(name, anatomy_of(name)) for name in found["bbox_name"].unique()}
        anatomy = found["bbox_name"].map(name_of)
        for name, number in found["bbox_name"][inside & anatomy.isna()].value_counts().items():
            left_out[f"boxes of {one_line(name, 80)}, for which the vocabulary has no anatomy"] += int(number)
        columns = dict(zip(FINDING_COLUMNS, (row, anatomy, x1, y1, x2 - x1, y2 - y1, None), strict=True))
        return pd.DataFrame(columns)[inside & anatomy.fillna("").ne("")].reset_index(drop=True)


def _number(value: Any) -> float:
    """A corner; NaN where there is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
