"""MIMIC-CXR-JPG with RadGraph's graphs, in the publisher's layout.

mimic-cxr-2.0.0-metadata.csv.gz, mimic-cxr-2.0.0-split.csv.gz (or both unpacked) and
files/p10/p10000032/s50414267/<dicom_id>.jpg. They give neither sex nor age.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
from tqdm import tqdm

from medslip.data.dataset import DataSet
from medslip.data.reading import check_unique, first_line, paths_in, read_cells
from medslip.data.splits import splits_of
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import Cells
from medslip.labels.radgraph import iter_graphs, label_cells
from medslip.labels.report_rules import ReportRules, RuleMapping

FRONTAL_VIEWS = ("AP", "PA")

_METADATA, _SPLIT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"
_STUDY = re.compile(r"(?:^|/)(?:s(\d+)|(\d{8}))(?:\.txt)?$")


@dataclass(frozen=True)
class MimicCxr(DataSet):
    """MIMIC-CXR-JPG, with RadGraph's graphs of its reports.

    Attributes:
        path: MIMIC-CXR-JPG's folder: metadata, split, files/.
        graphs: RadGraph's MIMIC-CXR_graphs.json, graphs of the radgraph package, or RadGraph-XL's JSON lines (.jsonl). The file
            is streamed: memory does not grow with it.
        graph_keys: CSV file with columns key and study, for graphs whose keys do not name the study: the radgraph package
            numbers the reports that it is given, 0, 1, ... None for RadGraph's file.
        views: View positions to take.
        mapping: Rules from a report's words to the vocabulary: ours, or the authors'.
    """

    kind: ClassVar[str] = "mimic"
    path: Path = Path("data_file/mimic_cxr")
    graphs: Path | None = None
    graph_keys: Path | None = None
    views: tuple[str, ...] = FRONTAL_VIEWS
    mapping: RuleMapping = "medslip"

    def load(self) -> ImageTable:
        """The images of the chosen views that exist, in the order of the metadata."""
        metadata, images = self._rows(_METADATA, ("dicom_id", "subject_id", "study_id", "ViewPosition"))
        source, splits = self._rows(_SPLIT, ("dicom_id", "split"))
        splits["split"] = splits_of(splits["split"], source)
        images["split"] = images["dicom_id"].map(splits.set_index("dicom_id")["split"])
        if (line := first_line(images["split"].isna())) is not None:
            raise InputError(
                f"{metadata}: line {line}: image {images['dicom_id'][line]} is not in {source}; take both from the same "
                "release"
            )
        left_out: Counter[str] = Counter()
        images = self._of_views(images, left_out).rename(columns={"ViewPosition": "view"})
        images["patient"], images["study"] = "p" + images["subject_id"], "s" + images["study_id"]
        parts = [images["patient"].str[:3], images["patient"], images["study"], images["dicom_id"]]
        names = [os.path.join("files", *part) + ".jpg" for part in zip(*parts, strict=True)]
        images["path"] = paths_in(self.path, pd.Series(names, images.index), metadata)
        table = _existing(images, self.path, left_out)[["path", "patient", "study", "view", "split"]]
        return ImageTable("MIMIC-CXR-JPG", table, left_out=left_out)

    def check_reports(self) -> None:
        """Check that the graphs, and the table of their keys, can be read."""
        if self.graphs is None:
            raise InputError("graphs: not given; give RadGraph's file MIMIC-CXR_graphs.json (key data.graphs)")
        next(iter_graphs(self.graphs), None)
        if self.graph_keys is not None:
            _read_keys(self.graph_keys)

    def triplets(self, table: ImageTable, left_out: Counter[str]) -> Iterator[tuple[str, Cells]]:
        """The triplets of the studies whose report has a graph, in the order of the graphs."""
        assert self.graphs is not None, "check_reports"
        wanted = set(table.images["study"])
        rules = ReportRules.load(self.mapping)
        study_of = None if self.graph_keys is None else _read_keys(self.graph_keys)
        done: set[str] = set()
        graphs = iter_graphs(self.graphs)
        for key, graph in tqdm(graphs, total=len(wanted), desc="graphs", unit=" reports", mininterval=1):
            study = _study_of(key, self.graphs) if study_of is None else study_of.get(key)
            if study is None:
                left_out["graphs whose key is not in the table of keys"] += 1
                continue
            if study in done:
                raise InputError(f"{self.graphs}: study {study} has two graphs, the second named {key}; keep one")
            if study not in wanted:
                left_out["graphs of studies without an image to use"] += 1
                continue
            done.add(study)
            if cells := label_cells(graph, rules):
                yield study, cells
            else:
                left_out["studies whose graph mentions no finding"] += 1
        left_out["studies without a graph"] = len(wanted) - len(done)
        if not done:
            keys = "" if self.graph_keys is None else f", and their keys as in {self.graph_keys}"
            raise InputError(
                f"{self.graphs}: no graph is of a study in {self.path}; give the graphs of the same release{keys}"
            )

    def _rows(self, name: str, columns: tuple[str, ...]) -> tuple[Path, pd.DataFrame]:
        """A publisher's table, compressed or not: its file, and some columns."""
        path = next((self.path / file for file in (f"{name}.gz", name) if (self.path / file).exists()), None)
        if path is None:
            raise InputError(f"{self.path}: has neither {name}.gz nor {name}; name the folder of MIMIC-CXR-JPG")
        rows = read_cells(path, columns)
        check_unique(rows["dicom_id"], path)
        return path, rows

    def _of_views(self, images: pd.DataFrame, left_out: Counter[str]) -> pd.DataFrame:
        wanted = images["ViewPosition"].isin([view.upper() for view in self.views])
        for view, count in images["ViewPosition"][~wanted].value_counts().items():
            left_out[f"images of view {view or '(unnamed)'}"] = int(count)
        if not wanted.any():
            found = ", ".join(sorted(set(images["ViewPosition"]) - {""}))
            raise InputError(f"{self.path}: no image has view {' or '.join(self.views)}; the metadata has {found}")
        return images[wanted]


def _study_of(key: str, graphs: Path) -> str:
    study = _study_name(key)
    if study is None:
        raise InputError(
            f"{graphs}: report {key} names no study; expected a key such as p10/p10000032/s50414267.txt. "
            "Graphs with other keys, such as those of the radgraph package or RadGraph-XL, need a CSV file with columns key "
            "and study (key data.graph_keys)"
        )
    return study


def _study_name(text: str) -> str | None:
    """The study that p10/p10000032/s50414267.txt, s50414267 or 50414267 names, with its s."""
    match = _STUDY.search(text.strip())
    return None if match is None else f"s{match[1] or match[2]}"


def _read_keys(path: Path) -> dict[str, str]:
    """Key of a graph -> study."""
    rows = read_cells(path, ("key", "study"))
    studies = rows["study"].map(_study_name)
    for wrong, fault in ((rows["key"].duplicated(), "repeats a key"), (studies.isna(), "names no study")):
        if (line := first_line(wrong)) is not None:
            raise InputError(
                f"{path}: line {line} ({rows['key'][line]}, {rows['study'][line]}) {fault}; expected one line per graph, "
                "with a study such as 50414267 or s50414267"
            )
    return dict(zip(rows["key"], studies, strict=True))


def _existing(images: pd.DataFrame, root: Path, left_out: Counter[str]) -> pd.DataFrame:
    """The images whose file exists. A few missing ones are counted; most missing is a mistake."""
    exists = [os.path.exists(path) for path in tqdm(images["path"], desc="images", unit=" files", mininterval=1)]
    missing = len(exists) - sum(exists)
    if missing * 2 > len(exists):
        first = images["path"].iloc[exists.index(False)]
        raise InputError(f"{root}: {missing} of {len(exists)} image files are missing, starting with {first}")
    left_out["images whose file is missing"] = missing
    return images[exists]
