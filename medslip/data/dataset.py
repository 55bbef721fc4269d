"""What every data set has: a few options, and how it becomes an image table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from medslip.data.image_labels import label_cells
from medslip.data.reading import first_line
from medslip.data.splits import SPLITS, split_name
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import Cells


@dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
        path: The publisher's folder.
        classes: Class -> pathology, for classes that are not named after one. An empty text leaves the class out.
        equalise: Equalise the histogram of each image first, as published for RSNA.
    """

    kind: ClassVar[str] = ""
    """Its name in the registry, and in configs."""

    path: Path
    classes: dict[str, str] = field(default_factory=dict)
    equalise: bool = False

    def read(self) -> ImageTable:
        """The images, and what is known of them, in the order of the publisher's list.

        Raises:
            InputError: A file is missing or is not as published; the message names file and line.
        """
        table = self.load()
        dropped = [name for name, pathology in self.classes.items() if not pathology]
        if table.labels is not None and dropped:
            table = replace(table, labels=table.labels.drop(columns=dropped, errors="ignore"))
        if table.findings is not None and dropped:
            table = replace(table, findings=table.findings[~table.findings["class"].isin(dropped)])
        return table

    def load(self) -> ImageTable:
        """Read the images, before classes are left out. This is what each data set implements."""
        raise NotImplementedError

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the option ``split`` names, "valid+test" for two; all of them without it.

        Raises:
            InputError: There is no such split.
        """
        text = getattr(self, "split", None)
        return SPLITS if text is None else tuple(split_name(part, "split") for part in text.split("+"))

    def split_files(self, suffix: str) -> dict[str, Path]:
        """The files train, valid and test in the folder: those that ``split`` names, or without it those that exist.

        Raises:
            InputError: There is none.
        """
        files = {split: self.path / f"{split}{suffix}" for split in self.splits}
        if getattr(self, "split", None) is None:
            files = {split: file for split, file in files.items() if file.exists()}
        if not files:
            raise InputError(f"{self.path}: contains none of train{suffix}, valid{suffix} and test{suffix}")
        return files

    def all_splits(self) -> DataSet:
        """The same data set with the images of every split."""
        changes: dict[str, Any] = {"split": None} if hasattr(self, "split") else {}
        return replace(self, **changes)

    def check_reports(self) -> None:
        """Check the files, besides those of ``read``, that triplets are made from, before images are looked for.

        Raises:
            InputError: One is missing or cannot be used.
        """

    def triplets(self, table: ImageTable, left_out: Counter[str]) -> Iterator[tuple[str, Cells]]:
        """What is known of each study, for pre-training: by default its class labels, in the row "unspecified".

        Args:
            table: What ``read`` returned, perhaps fewer of its images.
            left_out: Counts, by reason, what is not used.

        Yields:
            Study and cells of its label matrix; studies of which nothing is known are passed over.

        Raises:
            InputError: There is nothing to make triplets from.
        """
        return label_cells(table, self.classes)


@dataclass(frozen=True)
class ListedDataSet(DataSet):
    """A user's own list of images, which may or may not say whose they are.

    Attributes:
        path_pattern: Regular expression that finds the patient, and perhaps the study, in an image path, if the list does not
            name them: groups named patient and study, as in (?P<patient>p[0-9]+)/(?P<study>s[0-9]+); a backslash in a path
            is matched as /.
        patients: "known": the list must name patients, or path_pattern finds them. "unknown": every image may count as its own
            patient, so that images of one patient may be in different splits.
    """

    path_pattern: str | None = None
    patients: Literal["known", "unknown"] = "known"

    def identified(self, images: pd.DataFrame, advice: str) -> pd.DataFrame:
        """The images with ``patient`` and ``study``; an image of an unknown study is a study.

        Args:
            images: Column ``path``, as listed, and ``patient`` and ``study`` if there are such; the index holds line numbers.
            advice: How the list could name patients, for the message.

        Raises:
            InputError: Patients are not known, or the pattern cannot be used or does not match a path.
        """
        found = pd.DataFrame(index=images.index)
        if self.path_pattern is not None:
            found = self._matches(images["path"])
        elif "patient" not in images and self.patients == "known":
            raise InputError(
                f"{self.path}: lists no patients, so images of one patient could be used for both "
                f"training and testing; {advice}, give a path_pattern that finds the patient in the image path, or accept this "
                "with patients: unknown"
            )
        columns = {
            name: images.get(name, found.get(name, pd.Series("", images.index))) for name in ("patient", "study")
        }
        columns["study"] = columns["study"].where(columns["study"] != "", images["path"])
        return images.assign(**columns)

    def _matches(self, paths: pd.Series) -> pd.DataFrame:
        """Patient and perhaps study of each path."""
        pattern = str(self.path_pattern)
        try:
            groups = set(re.compile(pattern).groupindex)
        except re.error as error:
            raise InputError(f"path_pattern: {pattern!r} is not a regular expression ({error})") from None
        if not {"patient"} <= groups <= {"patient", "study"}:
            raise InputError(
                f"path_pattern: {pattern!r} must have a group (?P<patient>...), and may have (?P<study>...)"
            )
        found = paths.str.replace("\\", "/").str.extract(pattern)
        if (line := first_line(found["patient"].isna())) is not None:
            raise InputError(f"{self.path}: line {line}: path_pattern {pattern!r} does not match {paths[line]!r}")
        return found.fillna("")[sorted(groups)]
