"""MIMIC-CXR-JPG with RadGraph's graphs -> a prepared data set.

The publisher's layout, read as it is: mimic-cxr-2.0.0-metadata.csv.gz, mimic-cxr-2.0.0-split.csv.gz (or both
unpacked) and files/p10/p10000032/s50414267/<dicom_id>.jpg. It tells neither sex nor age: they stay empty.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from medslip.data.prepared import PreparedWriter, StudyImage
from medslip.data.splits import split_name
from medslip.data.summary import PreparationSummary
from medslip.errors import InputError
from medslip.labels.radgraph import iter_graphs, label_cells
from medslip.labels.report_rules import ReportRules, RuleMapping

FRONTAL_VIEWS = ("AP", "PA")

_METADATA, _SPLIT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"
_STUDY = re.compile(r"(?:^|/)s?(\d+)(?:\.txt)?$")


def prepare(
    root: Path,
    graphs: Path,
    output: Path,
    views: Sequence[str] = FRONTAL_VIEWS,
    mapping: RuleMapping = "medslip",
) -> PreparationSummary:
    """Prepare the images of all studies whose report has a graph. Images of one study share a row.

    Args:
        root: MIMIC-CXR-JPG's folder.
        graphs: MIMIC-CXR_graphs.json. It is streamed: memory does not grow with it.
        output: Where train.csv, valid.csv, test.csv, labels/ and summary.json are to be.
        views: Values of ViewPosition to take.
        mapping: Which rules map the words of a report; see ReportRules.

    Raises:
        InputError: A file is missing or damaged, lacks a column, names an image twice or an unknown split,
            most image files are missing, or no study has both image and graph.
    """
    left_out: Counter[str] = Counter()
    images = _present(_of_views(_read_images(Path(root)), views, left_out), Path(root), left_out)
    lines_of_study = {str(study): lines for study, lines in images.groupby("study_id").indices.items()}
    paths, splits, view_of, patients = (
        images[column].to_numpy() for column in ("path", "split", "ViewPosition", "subject_id")
    )
    rules = ReportRules.load(mapping)
    done: set[str] = set()
    with PreparedWriter(output, "MIMIC-CXR-JPG") as writer:
        for key, graph in tqdm(
            iter_graphs(graphs), total=len(lines_of_study), desc="graphs", unit=" reports", mininterval=1
        ):
            study = _study_of(key, graphs)
            if study in done:
                raise InputError(f"{graphs}: study s{study} has two graphs, the second named {key}; keep one")
            if study not in lines_of_study:
                left_out["graphs of studies without an image to use"] += 1
                continue
            done.add(study)
            cells = label_cells(graph, rules)
            if not cells:
                left_out["studies whose graph mentions no finding"] += 1
                continue
            lines = lines_of_study[study]
            taken = [StudyImage(Path(paths[line]), splits[line], view_of[line]) for line in lines]
            writer.add(f"s{study}", f"p{patients[lines[0]]}", cells, taken)
        left_out["studies without a graph"] = len(lines_of_study) - len(done)
        if not done:
            raise InputError(f"{graphs}: no graph is of a study in {root}; give the graphs of the same release")
        return writer.finish(left_out)


def _study_of(key: str, graphs: Path) -> str:
    match = _STUDY.search(key)
    if match is None:
        raise InputError(f"{graphs}: report {key} names no study; expected p10/p10000032/s50414267.txt and the like")
    return match[1]


def _read_images(root: Path) -> pd.DataFrame:
    """One line an image, in the order of the metadata, with its path and list name."""
    metadata, images = _read_table(root, _METADATA, ["dicom_id", "subject_id", "study_id", "ViewPosition"])
    source, splits = _read_table(root, _SPLIT, ["dicom_id", "split"])
    names = {}
    for text in splits["split"].unique():
        line = int((splits["split"] == text).to_numpy().argmax()) + 2
        names[text] = split_name(text, f"{source}: line {line}")
    images["split"] = images["dicom_id"].map(splits.set_index("dicom_id")["split"].map(names))
    if images["split"].isna().any():
        line = int(images["split"].isna().to_numpy().argmax())
        raise InputError(
            f"{metadata}: line {line + 2}: image {images['dicom_id'].iat[line]} is not in {source}; "
            "take both from the same release"
        )
    patient = "p" + images["subject_id"]
    images["path"] = (
        os.path.join(root, "files", "")
        + patient.str[:3] + os.sep + patient + os.sep
        + "s" + images["study_id"] + os.sep + images["dicom_id"] + ".jpg"
    )  # fmt: skip
    return images


def _read_table(root: Path, name: str, columns: list[str]) -> tuple[Path, pd.DataFrame]:
    """A publisher's table, packed or not: its file, and the columns asked for, as texts."""
    path = next((root / file for file in (f"{name}.gz", name) if (root / file).exists()), None)
    if path is None:
        raise InputError(f"{root}: has neither {name}.gz nor {name}; name the folder of MIMIC-CXR-JPG")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=lambda column: column in columns)
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        OSError,
        EOFError,
        zlib.error,
        UnicodeDecodeError,
    ) as error:
        raise InputError(f"{path}: cannot be read ({str(error).strip()}); get the file anew") from None
    for column in columns:
        if column not in table.columns:
            raise InputError(f"{path}: has no column {column}; get the file anew")
    twice = table["dicom_id"].duplicated().to_numpy()
    if twice.any():
        line = int(twice.argmax())
        raise InputError(f"{path}: line {line + 2}: image {table['dicom_id'].iat[line]} is listed twice")
    return path, table


def _of_views(images: pd.DataFrame, views: Sequence[str], left_out: Counter[str]) -> pd.DataFrame:
    wanted = images["ViewPosition"].isin([view.upper() for view in views])
    for view, count in images["ViewPosition"][~wanted].value_counts().items():
        left_out[f"images of view {view or '(unnamed)'}"] = int(count)
    if not wanted.any():
        found = ", ".join(sorted(set(images["ViewPosition"]) - {""}))
        raise InputError(f"no image has view {' or '.join(views)}; the metadata has {found}")
    return images[wanted]


def _present(images: pd.DataFrame, root: Path, left_out: Counter[str]) -> pd.DataFrame:
    """The images whose file is there. A few missing ones are counted; most missing is a mistake."""
    there = [os.path.exists(path) for path in tqdm(images["path"], desc="images", unit=" files", mininterval=1)]
    missing = len(there) - sum(there)
    if missing * 2 > len(there):
        first = images["path"].iat[there.index(False)]
        raise InputError(f"{root}: {missing} of {len(there)} image files are missing, {first} the first")
    left_out["images whose file is missing"] = missing
    return images[there]
