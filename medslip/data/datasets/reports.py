"""A user's own images with the text of their reports: a CSV table, or a folder of images and text files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pandas as pd
from tqdm import tqdm

from medslip.data.dataset import ListedDataSet
from medslip.data.datasets.csv_table import ImageColumns, known_images
from medslip.data.reading import files_below, first_line, listed_images, may_be_image, paths_in, read_cells
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.files import read_text
from medslip.labels import Cells
from medslip.labels.extractors import ExtractorName, check_words, load_extractor
from medslip.labels.radgraph import label_cells
from medslip.labels.report_rules import ReportRules, RuleMapping


@dataclass(frozen=True)
class ReportColumns(ImageColumns):
    """Which column of a table of reports holds what.

    Attributes:
        report: Texts of the reports.
        report_file: Text files with the reports, relative to the folder of the images; they are read instead of the column
            report.
    """

    report: str | None = None
    report_file: str | None = None


@dataclass(frozen=True)
class Reports(ListedDataSet):
    """Your own images and the text of their reports.

    Attributes:
        path: A CSV file with one row per image and the columns image and report (or report_file). Or a folder of images and
            text files (.txt): a report belongs to the images of the same name, wherever they are, and to those in the folder of
            its name, as in p1/s1.txt and p1/s1/a.png.
        images: Folder that the paths of a CSV file are relative to and may not leave; None takes the file's own, and then paths
            may also be absolute.
        columns: Which column holds what.
        extractor: builtin reads reports by words and phrases; radgraph by the model of the radgraph package, which must be
            installed with its weights.
        mapping: Rules from a report's words to the vocabulary: ours, or the authors'.
    """

    kind: ClassVar[str] = "reports"
    images: Path | None = None
    columns: ReportColumns = field(default_factory=ReportColumns)
    extractor: ExtractorName = "builtin"
    mapping: RuleMapping = "medslip"

    def load(self) -> ImageTable:
        """The images with a report; ``report`` is its text."""
        images, left_out = self._folder() if self.path.is_dir() else (self._table(), Counter[str]())
        # A table may have the report in one row of a study that has several images.
        given = images["report"].where(images["report"].str.strip() != "")
        images["report"] = given.fillna(given.groupby([images["patient"], images["study"]]).transform("first"))
        empty = images["report"].isna()
        if empty.all():
            raise InputError(f"{self.path}: every report is empty")
        left_out["images with an empty report"] += int(empty.sum())
        images = images[~empty]
        several = images.groupby("study")["report"].transform("nunique") > 1
        if (line := first_line(several)) is not None:
            raise InputError(
                f"{self.path}: study {images['study'][line]} has several reports; give each report a study"
            )
        remark = check_words(images["report"].drop_duplicates()) if self.extractor == "builtin" else ""
        notes = (f"{self.path}: {remark}.",) if remark else ()
        return ImageTable(self.path.stem, images, left_out=left_out, notes=notes)

    def check_reports(self) -> None:
        """Check that the extractor can be used."""
        load_extractor(self.extractor)

    def triplets(self, table: ImageTable, left_out: Counter[str]) -> Iterator[tuple[str, Cells]]:
        """The triplets of each study's report."""
        studies = table.images.drop_duplicates("study")
        rules = ReportRules.load(self.mapping)
        graphs = load_extractor(self.extractor)(studies["report"])
        named = zip(studies["study"], graphs, strict=True)
        for study, graph in tqdm(named, total=len(studies), desc="reports", unit="report", disable=None):
            if cells := label_cells(graph, rules):
                yield study, cells
            else:
                left_out["studies whose report mentions no finding"] += 1

    def _table(self) -> pd.DataFrame:
        """The rows of a CSV file."""
        rows = read_cells(self.path)
        images = known_images(rows, self.columns, self)
        column, files = self.columns.report or "report", self.columns.report_file or "report_file"
        if self.columns.report_file or (files in rows and column not in rows):
            paths = paths_in(self.images, rows[files], self.path)
            images["report"] = [
                self._text(path, line) if name else ""
                for line, name, path in zip(rows.index, rows[files], paths, strict=True)
            ]
        elif column in rows:
            images["report"] = rows[column]
        else:
            raise InputError(f"{self.path}: has no column 'report' or 'report_file'; name it (key data.columns.report)")
        return images.assign(path=listed_images(images["path"], self.images, self.path))

    def _text(self, path: str, line: int) -> str:
        return read_text(Path(path), f"line {line} of {self.path} names it")

    def _folder(self) -> tuple[pd.DataFrame, Counter[str]]:
        """The images of a folder with the reports of their names."""
        files = sorted(files_below(self.path))
        texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
        if not texts:
            raise InputError(
                f"{self.path}: contains no reports (.txt); give a folder of images and texts, or a CSV file"
            )
        by_name: dict[str, list[Path]] = {}
        for stem in texts:
            by_name.setdefault(stem.name, []).append(stem)
        rows, used = [], set()
        left_out: Counter[str] = Counter()
        for path in files:
            if path.suffix.lower() == ".txt" or not may_be_image(path):
                continue
            named = by_name.get(path.stem, []) or by_name.get(path.name, [])  # 1.2.840, of DICOM, has no suffix
            beside = next((stem for stem in (path.with_suffix(""), path, path.parent) if stem in texts), None)
            if beside is None and len(named) > 1:
                both = " or ".join(str(texts[stem]) for stem in named[:2])
                raise InputError(
                    f"{path}: its report may be {both}; put the right one beside it, or list both in a CSV file"
                )
            if beside is None and not named:
                left_out["images without a report"] += 1
                continue
            stem = beside or named[0]
            used.add(stem)
            rows.append(
                {
                    "path": str(path.relative_to(self.path)),
                    "report": read_text(texts[stem]),
                    "study": str(stem.relative_to(self.path)),
                }
            )
        left_out["reports without an image"] += len(texts.keys() - used)
        if not rows:
            raise InputError(
                f"{self.path}: no report has the name of an image, or of a folder of images; list them in a CSV file"
            )
        images = self.identified(pd.DataFrame(rows), "list the images and patients in a CSV file")
        return images.assign(path=[str(self.path / name) for name in images["path"]]), left_out
