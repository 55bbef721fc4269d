"""COCO annotations: boxes and masks (polygons and run lengths) per category, as VinDr-CXR and CheXlocalize are converted to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from medslip.data.dataset import ListedDataSet
from medslip.data.images import read_headers, years
from medslip.data.masks import Mask, Runs, runs_of
from medslip.data.reading import check_files, check_unique, paths_in, read_box, sexes_of
from medslip.data.table import FINDING_COLUMNS, ImageTable
from medslip.errors import InputError
from medslip.files import read_json
from medslip.labels import PRESENT
from medslip.vocabulary import class_key

_KNOWN = ("patient", "study", "view", "sex", "age")
_IMAGE_KEYS: Mapping[str, Any] = {"id": int | str, "file_name": str, "height": int | float, "width": int | float}


@dataclass(frozen=True)
class Coco(ListedDataSet):
    """COCO annotations: boxes and masks; images are labelled as having the categories that they are annotated with.

    Entries of "images" may also have the keys patient, study, view, sex and age.

    Attributes:
        path: The JSON file, or a folder with train.json, valid.json and test.json.
        split: If path is a folder: train, valid or test, or several, as in valid+test. None takes all that exist.
        images: Folder that file names are relative to and may not leave. None takes the JSON file's, or the one above it if the
            first image is there.
    """

    kind: ClassVar[str] = "coco"
    split: str | None = None
    images: Path | None = None

    def load(self) -> ImageTable:
        """The images by their id, and the annotations in file order."""
        files = self.split_files(".json") if self.path.is_dir() else {"": self.path}
        tables = [self._read(file, split) for split, file in files.items()]
        images = pd.concat([images for images, *_ in tables])
        comparable = images["id"].is_unique and images["id"].map(type).nunique() == 1
        images = images.sort_values("id", kind="stable") if comparable else images
        check_unique(images.set_axis(range(1, len(images) + 1))["path"], self.path)
        row_of = {key: row for row, key in enumerate(zip(images["file"], images["id"], strict=True))}
        found = [
            (row_of[str(file), image], *rest)
            for file, (_, _, annotations) in zip(files.values(), tables, strict=True)
            for image, *rest in annotations
        ]
        findings = pd.DataFrame(found, columns=list(FINDING_COLUMNS))
        is_normal = findings["class"].map(class_key) == "nofinding"
        categories = dict.fromkeys(name for _, names, _ in tables for name in names)
        classes = [name for name in categories if class_key(name) != "nofinding"]
        labels = np.zeros((len(images), len(classes)), np.int8)
        column = {name: index for index, name in enumerate(classes)}
        marked = findings[~is_normal]
        labels[marked["image"].to_numpy(int), marked["class"].map(column).to_numpy(int)] = PRESENT
        normal = np.isin(np.arange(len(images)), findings["image"][is_normal])
        folder = self.path.resolve()
        name = folder.parent.name if folder.name == "coco" else folder.stem
        return ImageTable(
            f"{name} ({self.split})" if self.split and folder.is_dir() else name,
            images.drop(columns=["id", "file"]).assign(normal=normal),
            pd.DataFrame(labels, columns=classes),
            marked.reset_index(drop=True),
        )

    def _read(self, source: Path, split: str) -> tuple[pd.DataFrame, list[str], list[tuple[Any, ...]]]:
        """The images of a file, its categories, and image id, class, box and mask of its annotations."""
        data = _read_coco(source)
        images = pd.DataFrame(data["images"], index=range(1, len(data["images"]) + 1), dtype=object)
        for key, kind in _IMAGE_KEYS.items():
            usable = [isinstance(value, kind) and not pd.isna(value) for value in images.get(key, [None])]
            if not all(usable):
                raise InputError(f"{source}: an image has no {key!r}, or none that can be used")
        if not images["id"].is_unique:
            raise InputError(f"{source}: two images have the id {images['id'][images['id'].duplicated()].iat[0]}")
        folder = self.images or _folder_above(source, str(images["file_name"].iat[0]))
        # As text, as one file may have numbers where another has text, and patients are compared.
        known = {key: images[key].fillna("").map(str).str.strip() for key in _KNOWN if key in images}
        columns = {"path": images["file_name"], **known, **images[["id", "height", "width"]]}
        table = self.identified(pd.DataFrame(columns), 'add "patient" to the images')
        table = table.assign(path=paths_in(folder, table["path"], source), split=split, file=str(source))
        if "sex" in table:
            table["sex"] = sexes_of(table["sex"])
        if "age" in table:
            table["age"] = table["age"].map(years)
        check_files(table["path"].tolist(), table.index, source)
        self._check_sizes(table, source)
        if not all(
            {"id", "name"} <= entry.keys() and isinstance(entry["id"], int | str) for entry in data["categories"]
        ):
            raise InputError(f"{source}: a category has no 'id' or no 'name'")
        categories = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
        size_of = {image: (int(h), int(w)) for image, h, w in images[["id", "height", "width"]].itertuples(index=False)}
        annotations = [_annotation(entry, categories, size_of, source) for entry in data["annotations"]]
        return table, list(categories.values()), annotations

    def _check_sizes(self, table: pd.DataFrame, source: Path) -> None:
        headers = read_headers([Path(path) for path in table["path"]])
        for header, (path, height, width) in zip(
            headers, table[["path", "height", "width"]].itertuples(index=False), strict=True
        ):
            if (header.height, header.width) != (height, width):
                raise InputError(
                    f"{source}: {path} has {header.width} x {header.height} pixels, not {width} x {height}; correct it, or "
                    "boxes and masks will be in the wrong place"
                )


def _read_coco(source: Path) -> dict[str, list[Any]]:
    data = read_json(source, "give the COCO file, or its folder")
    keys = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in keys):
        raise InputError(f"{source}: not COCO annotations: a JSON object with the lists {', '.join(keys)}")
    if not all(isinstance(entry, dict) for key in keys for entry in data[key]):
        raise InputError(f"{source}: an entry of {', '.join(keys)} is not a JSON object")
    if not data["images"]:
        raise InputError(f"{source}: lists no image")
    return data


def _folder_above(source: Path, name: str) -> Path | None:
    """The folder above the file's, if the image is there and not in the file's own."""
    above = source.parent.parent
    return above if not os.path.exists(source.parent / name) and os.path.exists(above / name) else None


def _annotation(
    entry: Mapping[str, Any], categories: Mapping[Any, str], size_of: Mapping[Any, tuple[int, int]], source: Path
) -> tuple[Any, ...]:
    """Image id, class, x, y, width, height and mask."""
    where = f"{source}: annotation {entry.get('id')}"
    image, category = entry.get("image_id"), entry.get("category_id")
    if not all(isinstance(key, int | str) for key in (image, category)) or (
        image not in size_of or category not in categories
    ):
        raise InputError(f"{where}: image {image} or category {category} is not listed")
    height, width = size_of[image]
    box, segmentation = entry.get("bbox"), entry.get("segmentation")
    if class_key(categories[category]) == "nofinding":
        return image, categories[category], *(np.nan,) * 4, None
    if not box and not segmentation:
        raise InputError(f"{where}: has neither a box nor a mask")
    if box and not (isinstance(box, list) and len(box) == 4 and _are_numbers(box)):
        raise InputError(f"{where}: the box {box} is not four numbers: x, y, width, height")
    sides = read_box(box, where, height, width) if box else (np.nan,) * 4
    return image, categories[category], *sides, _mask(segmentation, height, width, where) if segmentation else None


def _mask(segmentation: Any, height: int, width: int, where: str) -> Runs:
    """Run lengths of polygons, or of run lengths in either form."""
    if isinstance(segmentation, list):
        parts = [part for part in segmentation if isinstance(part, list) and _are_numbers(part)]
        if len(parts) < len(segmentation) or not all(len(part) >= 6 and len(part) % 2 == 0 for part in parts):
            raise InputError(f"{where}: a polygon is not x, y of three or more points")
        return runs_of(np.logical_or.reduce([_fill(polygon, height, width) for polygon in segmentation]))
    given = segmentation if isinstance(segmentation, dict) else {}
    counts = given.get("counts")
    runs = decompress(counts) if isinstance(counts, str) else counts
    if (
        not isinstance(runs, list)
        or not all(isinstance(run, int) and 0 <= run < 1e9 for run in runs)
        or given.get("size") != [height, width]
    ):
        raise InputError(f"{where}: the mask is not run lengths of {height} x {width} pixels")
    if sum(runs) != height * width:
        raise InputError(f"{where}: the run lengths end at pixel {sum(runs)}, not at the end of the image")
    if not any(runs[1::2]):
        raise InputError(f"{where}: the mask is empty; draw what the finding covers, or remove the annotation")
    return np.array(runs[: len(runs) // 2 * 2], np.int32)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and abs(value) < 1e9 for value in values)


def _fill(polygon: Sequence[float], height: int, width: int) -> Mask:
    """The pixels whose centre is inside a polygon; of one that is too small for that, the pixel in its middle."""
    points = np.reshape(polygon, (-1, 2))
    (x1, y1), (x2, y2) = points.T[..., None], np.roll(points, -1, axis=0).T[..., None]
    centres = np.arange(height) + 0.5
    edge, row = np.nonzero((y1 <= centres) != (y2 <= centres))
    crossing = x1[edge, 0] + (centres[row] - y1[edge, 0]) * (x2 - x1)[edge, 0] / (y2 - y1)[edge, 0]
    # Right of each crossing, inside becomes outside and the reverse.
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (row, np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)), 1)
    inside: Mask = turns[:, :width].cumsum(axis=1) % 2 == 1
    if not inside.any():
        x, y = np.clip(points.mean(axis=0).astype(int), 0, (width - 1, height - 1))
        inside[y, x] = True
    return inside


def decompress(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: 5 bits per character, low ones first; from the fourth on, differences."""
    runs: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in text):
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
