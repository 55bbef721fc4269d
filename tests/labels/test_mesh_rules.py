"""OpenI's MeSH tags to triplets, and what a normal report denies."""

from __future__ import annotations

import pytest

from medslip.labels.mesh_rules import MeshRules, TagCounter, report_cells
from medslip.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_index, pathology_index


@pytest.fixture(scope="module")
def rules() -> MeshRules:
    return MeshRules.load()


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
def test_tags(rules: MeshRules, tag: str, expected: set[tuple[str, str]]) -> None:
    assert set(rules.triplets(tag)) == expected


def test_every_rule_speaks_the_vocabulary(rules: MeshRules) -> None:
    for rule in rules.findings:
        assert set(rule.pathologies) <= set(PATHOLOGIES), rule
        assert not rule.place or rule.place in rules.places, rule
    assert set(rules.states.values()) <= set(PATHOLOGIES)
    for term, sides in rules.places.items():
        assert set(sides) == {"left", "right", "both", "none"}, term
        assert {name for anatomies in sides.values() for name in anatomies} <= set(ANATOMIES), term
    assert rules.general_places <= rules.places.keys()
    assert set(rules.absent_when_normal) <= set(PATHOLOGIES)
    assert set(rules.absent_when_normal.values()) <= {"", *rules.places}
    assert rules.absent_when_untagged.keys() <= rules.absent_when_normal.keys()


def test_a_normal_report_denies_the_findings_where_a_report_would(rules: MeshRules) -> None:
    cells = report_cells(["normal"], rules)
    assert cells[anatomy_index("unspecified"), pathology_index("normal")] == 1
    assert cells[anatomy_index("pleural_unspec"), pathology_index("effusion")] == 0
    assert cells[anatomy_index("heart_size"), pathology_index("cardiomegaly")] == 0
    assert len(cells) == 1 + len(rules.absent_when_normal)


def test_an_untagged_effusion_is_absent_unless_a_related_tag_leaves_it_open(rules: MeshRules) -> None:
    effusion = (anatomy_index("pleural_unspec"), pathology_index("effusion"))
    assert report_cells(["Opacity/lung/base/left"], rules)[effusion] == 0
    assert effusion not in report_cells(["Costophrenic Angle/left/blunted"], rules)
    assert report_cells(["Pleural Effusion"], rules)[effusion] == 1
    assert report_cells(["No Indexing"], rules) == {}


def test_coverage_counts_occurrences(rules: MeshRules) -> None:
    counter = TagCounter(rules)
    counter.add(["normal", "Strange", "Strange"])
    assert (counter.mapped.total(), counter.unmapped.total()) == (1, 2)
    assert "Strange (2)" in counter.notes()[1]
