"""What the built-in reader finds in OpenI's reports, against the MeSH terms that the reports were coded with.

    python benchmarks/report_extraction.py REPORTS [--half odd] [--mistakes 15]

REPORTS is OpenI's NLMCXR_reports.tgz, or the folder that it unpacks to. The words of the reader were chosen on the reports with
even numbers; those with odd numbers (the default) are its test. Fixed before the test:

- Reports without findings and impression, and those that were not indexed, are left out.
- A report has a pathology if resources/openi_rules.json gives it for one of its major terms, and the reader finds it if it says
  that it is present anywhere; what is uncertain is not found.
- The table has the pathologies of at least 10 reports of even number, without normality and the two catch-all classes.
- Where a MeSH term covers several of our pathologies, they count as one (SAME below); an enlarged heart has cardiomegaly,
  and a tip in the superior vena cava or right atrium is that of a catheter.
- Pairs of anatomy and pathology: a finding without a place is where openi_rules.json expects its pathology, and a term
  without a place agrees with any.

Prints precision, recall and F1 with 95 % intervals (bootstrap over reports), how many normal reports the reader finds something
in, the commonest mistakes, and the speed.
"""

from __future__ import annotations

import argparse
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.evaluation.bootstrap import Estimate, estimate
from medslip.labels.mesh_rules import RULES, default_anatomies, pairs_of_tag
from medslip.labels.radgraph import triplets
from medslip.labels.report_rules import EXCLUDED, TAIL, UNSPECIFIED, ReportRules
from medslip.labels.report_text import ReportReader
from medslip.labels.store import PRESENT
from medslip.vocabulary import NORMALITY

LEAST = 10
RESAMPLES = 2000
SAME = {
    **dict.fromkeys(("picc", "line"), "catheter"),  # "Catheters, Indwelling"
    **dict.fromkeys(("pacemaker", "lead"), "device"),  # "Implanted Medical Device"
    **dict.fromkeys(("engorgement", "redistribution"), "congestion"),  # "Pulmonary Congestion"
}
MISTAKES = {1: "found, not coded", 2: "coded, not found"}
HEART = ("heart_size", "heart_border")
CENTRAL_VEINS = ("svc", "cavoatrial_junction", "right_atrium")

Pairs = set[tuple[str, str]]


class Report(NamedTuple):
    """Number, text and major MeSH terms."""

    number: int
    text: str
    tags: list[str]


def read_reports(source: Path) -> Iterator[Report]:
    """The reports of the archive or folder that can be scored, by number."""
    if source.is_dir():
        files = {path.name: path.read_bytes() for path in source.rglob("*.xml")}
    else:
        with tarfile.open(source) as archive:
            members = [member for member in archive if member.name.endswith(".xml")]
            files = {Path(member.name).name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    for name in sorted(files, key=lambda name: int(name.removesuffix(".xml"))):
        root = ElementTree.fromstring(files[name])
        parts = {str(part.get("Label")): part.text or "" for part in root.iterfind(".//AbstractText")}
        stated = [f"{label}: {parts[label]}" for label in ("FINDINGS", "IMPRESSION") if parts.get(label, "").strip()]
        tags = [term.text.strip() for term in root.iterfind("MeSH/major") if term.text]
        if stated and tags != ["No Indexing"]:
            yield Report(int(name.removesuffix(".xml")), "\n".join(stated), tags)


def comparable(pairs: Pairs) -> Pairs:
    """Pairs as both sides can tell them apart, with default places, without normality and catch-alls."""
    found: Pairs = set()
    for place, name in pairs:
        if name in {*NORMALITY, TAIL, EXCLUDED}:
            continue
        name = "cardiomegaly" if name == "enlarge" and place in HEART else SAME.get(name, name)
        if name == "tip" and place in CENTRAL_VEINS:
            name = "catheter"
        default = RULES["absent_when_normal"].get(name, "")
        found |= {(each, name) for each in (default_anatomies(default) if place == UNSPECIFIED else [place])}
    return found


def coded(tags: list[str]) -> Pairs:
    """The pairs of a report's MeSH terms."""
    return comparable({pair for tag in tags for pair in pairs_of_tag(tag)})


def said(reader: ReportReader, rules: ReportRules, text: str) -> Pairs:
    """The pairs that the reader finds."""
    return comparable({(place, name) for place, name, state in triplets(reader.graph(text), rules) if state == PRESENT})


Counts = npt.NDArray[np.int64]
"""... x 3: true positives, false positives, false negatives."""


def counts(true: list[Pairs], found: list[Pairs], classes: list[str], pairs: bool) -> Counts:
    """Of each report and class, n x C x 3."""
    table = np.zeros((len(true), len(classes), 3), np.int64)
    for row, both in enumerate(zip(true, found, strict=True)):
        for column, name in enumerate(classes):
            a, b = ({pair[0] if pairs else "" for pair in of if pair[1] == name} for of in both)
            if b and a == {UNSPECIFIED}:
                a = b  # a term without a place agrees with any
            table[row, column] = len(a & b), len(b - a), len(a - b)
    return table


def scores(table: Counts) -> npt.NDArray[np.float64]:
    """Precision, recall and F1 along the last axis of counts; NaN where not defined."""
    tp, fp, fn = np.moveaxis(table.astype(float), -1, 0)
    with np.errstate(invalid="ignore"):
        return np.stack([tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn)], -1)


def estimates(table: Counts) -> list[list[Estimate]]:
    """Precision, recall and F1 of all classes together, of the mean over classes, and of each class."""
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES)
    weights = np.concatenate([np.ones((1, len(table)), np.int64), weights])  # first, the reports themselves
    drawn = np.tensordot(weights, table, 1)
    by_class = scores(drawn)
    parts = [scores(drawn.sum(1)), np.nanmean(by_class, 1), *np.moveaxis(by_class, 1, 0)]
    return [[estimate(part[0, at], part[1:, at], len(table)) for at in range(3)] for part in parts]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path)
    parser.add_argument("--half", choices=("odd", "even"), default="odd")
    parser.add_argument("--mistakes", type=int, default=15)
    options = parser.parse_args()
    reports = list(read_reports(options.reports))
    even = Counter(
        name for report in reports if report.number % 2 == 0 for name in {name for _, name in coded(report.tags)}
    )
    classes = [name for name, count in even.most_common() if count >= LEAST]
    reports = [report for report in reports if report.number % 2 == (options.half == "odd")]
    reader, rules = ReportReader.load(), ReportRules.load()
    begun = time.process_time()
    for report in reports:
        reader.graph(report.text)
    speed = len(reports) / (time.process_time() - begun)
    print(
        f"{len(reports)} reports of {options.half} number, {len(classes)} pathologies; {speed:.0f} reports per CPU second"
    )

    true = [coded(report.tags) for report in reports]
    found = [said(reader, rules, report.text) for report in reports]
    table = counts(true, found, classes, pairs=False)
    with_anatomy = estimates(counts(true, found, classes, pairs=True))
    cells = [[*row, pair[2]] for row, pair in zip(estimates(table), with_anatomy, strict=True)]
    rows = pd.DataFrame(cells, ["micro", "macro", *classes], ["precision", "recall", "F1", "F1 with anatomy"])
    rows.insert(0, "positive", ["", "", *table[..., [0, 2]].sum((0, 2))])
    print(f"\n{rows.to_string()}")

    normal = np.array([report.tags == ["normal"] for report in reports])
    alarms = (table[..., 1].any(1) & normal).sum() / normal.sum()
    print(f"\n{normal.sum()} normal reports; a finding of the table is found in {alarms:.1%}\n")
    mistakes = Counter(
        {
            f"{name}: {what}": int(table[:, at, k].sum())
            for at, name in enumerate(classes)
            for k, what in MISTAKES.items()
        }
    )
    for what, count in mistakes.most_common(options.mistakes):
        print(f"{count:4d}  {what}")


if __name__ == "__main__":
    main()
