"""OpenI's MeSH tags to pairs of anatomy and pathology, and what a normal report denies."""

from __future__ import annotations

from collections import Counter

import pytest

from medslip.labels.mesh_rules import RULES, coverage, pairs_of_tag, report_cells
from medslip.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_index, pathology_index

EFFUSION = (anatomy_index("pleural_unspec"), pathology_index("effusion"))


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("normal", {("unspecified", "normal")}),
        ("Opacity/lung/base/left/mild", {("left_lower_lung", "opacity")}),
        ("Opacity/lung/bilateral", {("left_lung_unspec", "opacity"), ("right_lung_unspec", "opacity")}),
        ("Pleural Effusion/bilateral/small", {("pleural_unspec", "effusion")}),
        ("Pneumothorax/apex/left", {("left_apical_lung", "pneumothorax")}),
        ("Calcinosis/lung/hilum/lymph nodes/right", {("right_hilar", "calcification")}),
        ("Opacity/lung/upper lobe/left/lower lobe/right",
         {("upper_left_lobe", "opacity"), ("lower_right_lobe", "opacity")}),
        ("Pulmonary Atelectasis/middle lobe/lingula/bilateral",
         {("upper_left_lobe", "atelectasis"), ("middle_right_lobe", "atelectasis")}),
        ("Cardiomegaly/borderline", {("heart_size", "borderline")}),
        ("Cardiac Shadow/enlarged/mild", {("heart_size", "enlarge"), ("heart_size", "cardiomegaly")}),
        ("Lung/hypoinflation", {("lung_volumes", "low")}),
        ("Costophrenic Angle/right/posterior/blunted", {("right_costophrenic", "blunt")}),
        ("Aorta, Thoracic/tortuous", {("aorta", "tortuous")}),
        ("Catheters, Indwelling/right", {("unspecified", "catheter")}),
        ("Technical Quality of Image Unsatisfactory ", set()),
        ("No Indexing", set()),
        ("Some New Term/lung", set()),
    ],
)  # fmt: skip
def test_tags(tag: str, expected: set[tuple[str, str]]) -> None:
    assert set(pairs_of_tag(tag)) == expected


def test_every_rule_uses_words_of_the_vocabulary() -> None:
    """A misspelt class or place would end the preparation in a traceback, or never match."""
    places = RULES["places"]
    for rule in RULES["findings"]:
        assert set(rule["pathology"]) <= set(PATHOLOGIES), rule
        assert rule.get("place", "lung") in places, rule
    assert set(RULES["states"].values()) <= set(PATHOLOGIES)
    for term, place in places.items():
        entry = places[place] if isinstance(place, str) else place
        by_side = entry if isinstance(entry, dict) else dict.fromkeys(("left", "right", "both", "none"), entry)
        assert set(by_side) == {"left", "right", "both", "none"}, term
        assert {name for anatomies in by_side.values() for name in anatomies} <= set(ANATOMIES), term
    assert set(RULES["general_places"]) <= places.keys()
    assert RULES["absent_when_normal"].keys() <= set(PATHOLOGIES)
    assert set(RULES["absent_when_normal"].values()) <= {"", *places}
    assert RULES["absent_when_untagged"].keys() <= RULES["absent_when_normal"].keys()


def test_a_normal_report_denies_the_findings_where_a_report_would() -> None:
    cells = report_cells(["normal"])
    assert cells[anatomy_index("unspecified"), pathology_index("normal")] == 1
    assert cells[EFFUSION] == 0
    assert cells[anatomy_index("heart_size"), pathology_index("cardiomegaly")] == 0
    assert len(cells) == 1 + len(RULES["absent_when_normal"])


def test_an_untagged_effusion_is_absent_unless_a_related_tag_leaves_it_open() -> None:
    assert report_cells(["Opacity/lung/base/left"])[EFFUSION] == 0
    assert EFFUSION not in report_cells(["Costophrenic Angle/left/blunted"])
    assert report_cells(["Pleural Effusion"])[EFFUSION] == 1
    assert report_cells(["No Indexing"]) == {}


def test_coverage_counts_occurrences() -> None:
    mapped, unmapped = coverage(Counter({"normal": 1, "Strange": 2}))
    assert mapped == "MeSH tags: 1 of 3 mapped (33.3%), 1 of 2 distinct ones."
    assert "Strange (2)" in unmapped
