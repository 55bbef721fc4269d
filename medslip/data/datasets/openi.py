"""OpenI, the Indiana University chest radiographs: XML reports with MeSH tags, and images.

Layout: ecgen-radiology/<n>.xml, one report each, and one folder of images CXR<n>_..._<m>.png. OpenI names no patients, so
every report counts as a patient.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from tqdm import tqdm

from medslip.data.dataset import DataSet
from medslip.data.reading import IMAGE_SUFFIXES, read_cells
from medslip.data.table import ImageTable
from medslip.errors import InputError, one_line
from medslip.labels import Cells
from medslip.labels.mesh_rules import coverage, report_cells

_FRONTAL = frozenset({"PA", "AP", "FRONTAL"})
_ALL_VIEWS = (
    "OpenI does not say which images are frontal: all were taken. Give a views file (key data.views) to choose."
)


@dataclass(frozen=True)
class OpenI(DataSet):
    """OpenI's XML reports with their MeSH tags, and its images.

    Attributes:
        path: Folder with the reports (ecgen-radiology), or one above it.
        images: Folder with the images, subfolders included. None takes the same folder.
        views: CSV file with columns image and view (or filename and projection): only frontal images (PA, AP, Frontal) are
            then read. None takes all.
    """

    kind: ClassVar[str] = "openi"
    path: Path = Path("data_file/openi")
    images: Path | None = None
    views: Path | None = None

    def load(self) -> ImageTable:
        """The images of each report; ``tags`` are the report's MeSH terms."""
        files = _index_images(self.images or self.path)
        view_of = None if self.views is None else _read_views(self.views)
        left_out: Counter[str] = Counter()
        tags: Counter[str] = Counter()
        images: list[dict[str, Any]] = []
        for report in iter_reports(self.path):
            tags.update(report.tags)
            kept = []
            for key in dict.fromkeys(map(_image_key, report.images)):
                view = "" if view_of is None else view_of.get(key, "")
                if key not in files:
                    left_out["images that are not in the folder"] += 1
                elif view_of is not None and view not in _FRONTAL:
                    left_out["images that are not frontal" if view else "images without a view"] += 1
                else:
                    kept.append({"path": files[key], "view": "" if view == "FRONTAL" else view})
            left_out["reports without an image"] += not kept
            images += [{**image, "study": report.name, "patient": report.name, "tags": report.tags} for image in kept]
        if not images:
            raise InputError(f"{self.images or self.path}: contains no images of the reports in {self.path}")
        notes = (*coverage(tags), *(() if self.views else (_ALL_VIEWS,)))
        return ImageTable("OpenI", pd.DataFrame(images), left_out=left_out, notes=notes)

    def triplets(self, table: ImageTable, left_out: Counter[str]) -> Iterator[tuple[str, Cells]]:
        """The triplets of each report's tags."""
        for study, tags in table.images.drop_duplicates("study")[["study", "tags"]].itertuples(index=False):
            if cells := report_cells(tags):
                yield study, cells
            else:
                left_out["reports without a tag that says something"] += 1


@dataclass(frozen=True)
class OpenIReport:
    """What is read of one report.

    Attributes:
        name: Its identifier, such as "CXR3029".
        tags: The major MeSH terms.
        images: Names of its images, without suffix.
    """

    name: str
    tags: tuple[str, ...]
    images: tuple[str, ...]


def iter_reports(folder: Path) -> Iterator[OpenIReport]:
    """The reports below a folder, by number.

    Raises:
        InputError: There is none, or a file is not an OpenI report; the message names it.
    """
    files = sorted(folder.rglob("*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise InputError(f"{folder}: contains no OpenI reports (ecgen-radiology/<n>.xml)")
    for path in tqdm(files, desc="reports", unit="report", disable=None):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, LookupError, ValueError, OSError) as error:  # also of an unknown encoding
            raise InputError(f"{path}: not a complete XML file ({one_line(error)})") from None
        name = root.find("uId")
        if name is None or not name.get("id"):
            raise InputError(f"{path}: has no uId; check that it is an OpenI report")
        yield OpenIReport(
            name=str(name.get("id")),
            tags=tuple(term.text.strip() for term in root.iterfind("MeSH/major") if term.text),
            images=tuple(str(image.get("id")) for image in root.iterfind("parentImage")),
        )


def _image_key(name: str) -> str:
    """An image's name in the form in which all of OpenI's files agree: no folder, prefix or suffix, lower case."""
    key = Path(name.strip()).name.lower()
    for suffix in (*IMAGE_SUFFIXES, *IMAGE_SUFFIXES):
        key = key.removesuffix(suffix)
    # Report 1 alone has its number twice in the reports: CXR1_1_IM-0001-3001.
    return re.sub(r"^(\d+)_(\1_im-)", r"\2", key.removeprefix("cxr"))


def _index_images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return {_image_key(path.name): path for path in found}


def _read_views(path: Path) -> dict[str, str]:
    """Image key -> view in capitals, from columns image and view (or filename and projection)."""
    rows = read_cells(path)
    image = next((name for name in ("image", "filename") if name in rows.columns), None)
    view = next((name for name in ("view", "projection") if name in rows.columns), None)
    if image is None or view is None:
        raise InputError(f"{path}: needs the columns image and view (or filename and projection)")
    return dict(zip(rows[image].map(_image_key), rows[view].str.strip().str.upper(), strict=True))
