"""The built-in reader of reports: what it makes of sentences, and that it reads phantom reports exactly and any text at all."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medslip.labels.radgraph import label_cells, parse_graph, triplets
from medslip.labels.report_rules import ReportRules
from medslip.labels.report_text import ReportReader
from medslip.phantoms.findings import choose
from medslip.phantoms.report import write_report

READER, RULES = ReportReader.load(), ReportRules.load()
PRESENT, ABSENT, UNCERTAIN = 1, 0, -1


def read(text: str) -> set[tuple[str, str, int]]:
    return {tuple(triplet) for triplet in triplets(READER.graph(text), RULES)}


def states(text: str) -> dict[str, int]:
    return {pathology: state for _, pathology, state in read(text)}


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_phantom_reports_are_read_exactly(seed: int) -> None:
    """Reports of one's own would be prepared otherwise than MIMIC-CXR with RadGraph."""
    rng = np.random.default_rng(seed)
    report = write_report(choose(rng), rng)
    graph = parse_graph("1", {"text": " ".join(report.tokens), "entities": report.entities}, "phantom")
    assert read(report.text) == {tuple(triplet) for triplet in triplets(graph, RULES)}


WORDS = re.findall(
    r"\S+",
    "no and or , . ; : / left lung lower lobes effusion normal is without cannot exclude clear of in with resolved "
    "FINDINGS: nodule bilateral base consistent device 1. heart enlarged not seen",
)


@settings(deadline=None, max_examples=100)
@given(st.text() | st.lists(st.sampled_from([*WORDS, "\n\n"]), max_size=30).map(" ".join))
@example("\0 \ud800 İ FINDINGS: effusion" * 3)
def test_any_text_is_read(text: str) -> None:
    """One odd report of thousands would end the preparation."""
    label_cells(READER.graph(text), RULES)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("There is an effusion.", PRESENT),
        ("No effusion.", ABSENT),
        ("No evidence of pneumothorax, edema or effusion.", ABSENT),
        ("The lungs are clear without effusion.", ABSENT),
        ("Negative for effusion.", ABSENT),
        ("The effusion has resolved.", ABSENT),
        ("Effusion is not seen.", ABSENT),
        ("Nodule and effusion are no longer seen.", ABSENT),
        ("No pneumothorax but an effusion.", PRESENT),
        ("No pneumothorax is seen, effusion is unchanged.", PRESENT),
        ("No change in the effusion.", PRESENT),
        ("Possible effusion.", UNCERTAIN),
        ("Cannot exclude effusion.", UNCERTAIN),
        ("Effusion cannot be excluded.", UNCERTAIN),
        ("No edema, cannot exclude effusion.", UNCERTAIN),
        ("Blunting may represent effusion.", UNCERTAIN),
        ("No definite effusion or edema.", ABSENT),
        ("Resolved effusion.", ABSENT),
        ("Opacity suggestive of effusion.", UNCERTAIN),
        ("Effusion versus scarring.", PRESENT),
        ("History of trauma, small effusion.", PRESENT),
        ("Effusion: None.", ABSENT),
        ("Edema or effusion: negative.", ABSENT),
        ("Effusion: none of significance, unchanged.", ABSENT),
        ("Small effusion. None of the ribs is broken.", PRESENT),
    ],
)
def test_absence_and_doubt_reach_to_the_end_of_their_clause(text: str, state: int) -> None:
    """Absent findings would be taught as present."""
    assert states(text)["effusion"] == state


@pytest.mark.parametrize(
    ("text", "pathology", "places"),
    [
        ("Left pleural effusion.", "effusion", {"left_pleural"}),
        ("Small left effusion.", "effusion", {"left_pleural"}),
        ("PTX on the right.", "pneumothorax", {"right_pleural"}),
        ("Left effusion - mild cardiomegaly.", "cardiomegaly", {"unspecified"}),
        ("Left effusion \u2013 mild cardiomegaly.", "cardiomegaly", {"unspecified"}),
        ("Bilateral pleural effusions.", "effusion", {"pleural_unspec"}),
        ("Opacity in the left upper and lower lobes.", "opacity", {"upper_left_lobe", "lower_left_lobe"}),
        ("Right and left lower lobe opacities.", "opacity", {"lower_right_lobe", "lower_left_lobe"}),
        ("Infiltrate or atelectasis in the left base.", "infiltrate", {"left_lower_lung"}),
        ("The right lower lobe shows dense consolidation.", "consolidation", {"lower_right_lobe"}),
        ("Left basilar opacity, consistent with atelectasis.", "atelectasis", {"left_lower_lung"}),
        ("Both lung bases show scarring.", "scar", {"lung_bases"}),
        ("Clear lungs.", "clear", {"lung_volumes"}),
        ("The heart is enlarged.", "cardiomegaly", {"heart_size"}),
        ("Scarring at the apex of the right lung.", "scar", {"right_apical_lung"}),
        ("A catheter from the left in the SVC.", "catheter", {"svc"}),
        ("Left lower lobe opacity and atelectasis.", "atelectasis", {"lower_left_lobe"}),
        ("Left lower lobe atelectasis and effusion.", "effusion", {"left_pleural"}),
        ("Right lower lobe opacity and cardiomegaly.", "cardiomegaly", {"unspecified"}),
        ("The right lung shows a nodule in the upper lobe.", "nodule", {"upper_right_lobe"}),
        ("Calcified right hilar nodules.", "calcification", {"right_hilar"}),
        ("Deformity of T12.", "deformity", {"spine"}),
        ("Fractures of the left 4th, 5th, and 6th ribs.", "fracture", {"rib"}),
        ("Opacity in the lingula and cardiac enlargement.", "opacity", {"upper_left_lobe"}),
    ],
)
def test_findings_are_placed(text: str, pathology: str, places: set[str]) -> None:
    """A finding would be taught at the wrong place."""
    assert {place for place, name, _ in read(text) if name == pathology} == places


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [
        ("No effusion on the right; small effusion on the left", PRESENT, ABSENT),
        ("No effusion on the right, small effusion on the left.", PRESENT, ABSENT),
        ("No effusion on the right and small effusion on the left.", PRESENT, ABSENT),
        ("No effusion on the right but a small effusion on the left.", PRESENT, ABSENT),
        ("No left effusion. Small right effusion.", ABSENT, PRESENT),
        ("No left effusion, small right effusion.", ABSENT, PRESENT),
        ("Small left effusion, no right effusion.", PRESENT, ABSENT),
        ("Small effusion on the left, none on the right.", PRESENT, ABSENT),
        ("An effusion is seen on the left but not on the right.", PRESENT, ABSENT),
        ("No left effusion, right effusion, or edema.", ABSENT, ABSENT),
        ("No left or right effusion.", ABSENT, ABSENT),
        ("No left effusion and no right effusion.", ABSENT, ABSENT),
        ("Left effusion and right effusion are not seen.", ABSENT, ABSENT),
        ("Possible left effusion and right effusion.", UNCERTAIN, UNCERTAIN),
    ],
)
def test_each_side_has_a_state_of_its_own(text: str, left: int, right: int) -> None:
    """An effusion of one side would be taught as absent because the other side has none."""
    assert read(text) >= {("left_pleural", "effusion", left), ("right_pleural", "effusion", right)}
    assert len([name for _, name, _ in read(text) if name == "effusion"]) == 2


def test_only_sections_that_state_findings_are_read() -> None:
    """The question of the referring doctor would be taken for the answer."""
    text = "INDICATION: Pneumonia?\nComparison: Effusion on the last film.\nFINDINGS: Clear lungs.\n\nIMPRESSION: Small nodule."
    assert states(text) == {"clear": PRESENT, "nodule": PRESENT}
    assert states("Comparison: Effusion. Findings: Clear lungs. Recommendation: CT of the mass.") == {"clear": PRESENT}
    assert states("HISTORY: fracture. Scarring.\nLungs: Small effusion.") == {}
    assert states("Small effusion.\nHISTORY: fracture.") == {"effusion": PRESENT}


def test_what_is_no_finding_of_the_image_is_left_out() -> None:
    """Advice, history and descriptions would be taught as findings."""
    for text in (
        "Recommend CT to exclude mass.",
        "Status post removal of a chest tube.",
        "Nodular opacity.",
        "Enlarging effusion.",
    ):
        assert not {"mass", "tube", "nodule", "enlarge"} & states(text).keys()
    assert states("The pulmonary markings are within normal limits.")["marking"] == ABSENT


def test_structured_reports_are_read_by_their_headings() -> None:
    assert read("FINDINGS:\nHeart: Normal.\nLungs: No consolidation.") == {
        ("heart_size", "normal", PRESENT),
        ("lung_volumes", "consolidation", ABSENT),
    }
