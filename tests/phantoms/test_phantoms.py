"""Phantom chests: reproducible, true to their labels, and described by well-formed graphs."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.labels.radgraph import label_cells, parse_graph
from medslip.labels.report_rules import ReportRules
from medslip.phantoms.body import sample_body
from medslip.phantoms.canvas import Canvas, Frame
from medslip.phantoms.findings import KINDS, Plan, choose
from medslip.phantoms.markup import graph, plain
from medslip.phantoms.report import write_report
from medslip.phantoms.study import PhantomStudy, draw_study, patient_of
from medslip.vocabulary import ANATOMIES, CLASS_ANATOMIES, PATHOLOGIES, pathology_of

SIDE = 80
EVERY_PLACE = [(kind, site) for kind in KINDS.values() for site in kind.sites]


def placed(index: int, place: int, degree: float = 0.5) -> PhantomStudy:
    kind, site = EVERY_PLACE[place]
    return draw_study(3, index, SIDE, [Plan(kind, site, degree, 11 + index)])


def test_kinds_are_in_the_vocabulary() -> None:
    """A kind, place or class that the vocabulary lacks could never be learned or scored."""
    assert len(KINDS) >= 14
    assert KINDS.keys() <= set(PATHOLOGIES)
    assert {site.anatomy for _, site in EVERY_PLACE} <= set(ANATOMIES)
    assert all(kind.cxr14 is None or pathology_of(kind.cxr14) == name for name, kind in KINDS.items())


@pytest.mark.parametrize("index", [0, 7, 23])
def test_a_study_depends_on_its_seed_and_on_nothing_drawn_before(index: int) -> None:
    """A corpus could not be reproduced, or every seed would draw the same one."""
    first, other = draw_study(5, index, SIDE), draw_study(6, index, SIDE)
    again = draw_study(5, index, SIDE)
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.report, first.dicom) == (again.report, again.dicom)
    assert [finding.box for finding in first.findings] == [finding.box for finding in again.findings]
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("side", [64, 96, 200])
def test_findings_do_not_depend_on_the_side(side: int) -> None:
    """Sizes would not follow the image's side, or a draw would depend on it."""
    small, large = draw_study(1, 2, side), draw_study(1, 2, 128)
    assert small.image.shape == (side, side)
    assert small.image.dtype == np.uint8
    assert small.report == large.report
    for one, other in zip(small.findings, large.findings, strict=True):
        np.testing.assert_allclose(np.asarray(one.box) / side, np.asarray(other.box) / 128, atol=0.06)


@pytest.mark.parametrize("index", range(4))
def test_anatomies_lie_where_they_are_drawn(index: int) -> None:
    """The anatomy stream would be scored against boxes on the wrong side, or of another size than the body's."""
    places, large = draw_study(2, index, SIDE).anatomies, draw_study(2, index, 160).anatomies
    middle = {name: (x + width / 2, y + height / 2) for name, (x, y, width, height) in places.items()}
    assert set(places) <= set(CLASS_ANATOMIES) | {"trachea"}
    for name in [name.removeprefix("left ") for name in places if name.startswith("left")]:
        assert middle[f"right {name}"][0] < middle["trachea"][0] < middle[f"left {name}"][0]
    for side in ("left", "right"):
        order = ("apical zone", "upper lung zone", "mid lung zone", "lower lung zone", "costophrenic angle")
        levels = [middle[f"{side} {name}"][1] for name in order]
        assert levels == sorted(levels)
        x, y, width, height = places[f"{side} lung"]
        for name in order:
            left, top, across, down = places[f"{side} {name}"]
            assert x <= left <= left + across <= x + width
            assert y <= top <= top + down <= y + height
    for name, box in places.items():
        np.testing.assert_allclose(np.asarray(box) / SIDE, np.asarray(large[name]) / 160, atol=0.06)


def test_side_out_of_range_raises() -> None:
    with pytest.raises(ValueError, match="64 to 1024"):
        draw_study(0, 0, 63)


@pytest.mark.parametrize("place", range(len(EVERY_PLACE)))
def test_every_kind_has_a_tight_box_on_the_side_of_its_site(place: int) -> None:
    """A box that misses its mask, or a left-sided finding on the viewer's left, would falsify every grounding score."""
    kind, site = EVERY_PLACE[place]
    for index in range(3):
        finding = placed(index, place, degree=index / 2).findings[0]
        x, y, width, height = finding.box
        assert finding.mask.shape == (SIDE, SIDE)
        assert finding.mask[y : y + height, x : x + width].sum() == finding.mask.sum() > 0
        assert finding.mask[[y, y + height - 1]].any(axis=1).all()
        assert finding.mask[:, [x, x + width - 1]].any(axis=0).all()
        if site.side and kind.name not in ("catheter", "pacemaker"):  # their leads cross the midline
            centre = np.flatnonzero(finding.mask.any(axis=0)).mean() / SIDE
            assert centre > 0.45 if site.side == "left" else centre < 0.55


@pytest.mark.parametrize("place", range(0, len(EVERY_PLACE), 2))
def test_a_finding_changes_the_image_where_its_mask_is(place: int) -> None:
    """A mask would mark something that cannot be seen."""
    with_it = placed(4, place, degree=0.7)
    without = draw_study(3, 4, SIDE, [])
    mask = with_it.findings[0].mask
    change = np.abs(with_it.image.astype(float) - without.image)
    assert change[mask].mean() > 5
    assert change[mask].mean() > 2 * change[~mask].mean()


def test_levels_follow_their_names() -> None:
    """An "upper" nodule could lie below a "lower" one."""
    nodule = KINDS["nodule"]
    sites = {site.anatomy: site for site in nodule.sites}
    for index in range(3):
        plans = [Plan(nodule, sites[f"right_{level}_lung"], 0.5, index) for level in ("upper", "mid", "lower")]
        tops = [draw_study(3, index, SIDE, [plan]).findings[0].box[1] for plan in plans]
        assert tops == sorted(set(tops))


def test_normal_studies_have_no_finding_and_say_so() -> None:
    """A normal report could come with a finding, or the other way round."""
    studies = [draw_study(2, index, 64) for index in range(40)]
    assert {bool(study.findings) for study in studies} == {True, False}
    for study in studies:
        impression = study.report.text.split("IMPRESSION:")[1]
        assert ("No acute" in impression or "Normal chest" in impression) == (not study.findings)


def test_every_kind_is_common_enough_and_findings_never_share_a_zone() -> None:
    """A kind would be too rare to be learnt or scored, or two findings would hide one another."""
    rng = np.random.default_rng(0)
    studies = [choose(rng) for _ in range(3000)]
    counts = Counter(plan.kind.name for plans in studies for plan in plans)
    assert all(0.075 < counts[name] / 3000 < 0.13 for name in KINDS)
    assert 0.19 < studies.count([]) / 3000 < 0.26
    for plans in studies:
        assert len(plans) <= 4
        zones = [zone for plan in plans for zone in plan.site.zones]
        assert len(zones) == len(set(zones))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_graphs_are_well_formed_and_state_what_was_drawn(seed: int) -> None:
    """A wrong index, a dangling relation, or a label that the image contradicts would teach nonsense."""
    rng = np.random.default_rng(seed)
    plans = choose(rng)
    report = write_report(plans, rng)
    for entity in report.entities.values():
        assert report.tokens[entity["start_ix"]] == entity["tokens"]
        assert entity["start_ix"] == entity["end_ix"]
        assert entity["label"] in ("ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U")
        for relation, target in entity["relations"]:
            assert relation in ("modify", "located_at", "suggestive_of")
            assert target in report.entities
            is_anatomy = report.entities[target]["label"] == "ANAT-DP"
            assert is_anatomy == (relation == "located_at" or entity["label"] == "ANAT-DP")
    assert not set("/{}") & set(report.text)
    assert report.text.split() == plain(" ".join(report.tokens)).split()
    assert not re.search(r"\b[Aa] [aeiou]", report.text)
    written = {"text": " ".join(report.tokens), "entities": report.entities}
    cells = label_cells(parse_graph("s1", written, "test"), ReportRules.load("medslip"))
    expected = dict.fromkeys(report.absent, 0) | {plan.kind.name: 1 for plan in plans}
    for name in KINDS:
        states = [state for (_, pathology), state in cells.items() if PATHOLOGIES[pathology] == name]
        assert max(states, default=-1) == expected.get(name, -1)
    for plan in plans:
        if plan.kind.name != "cardiomegaly":  # often stated without a place
            assert cells[ANATOMIES.index(plan.site.anatomy), PATHOLOGIES.index(plan.kind.name)] == 1


def test_markup_makes_the_graph_of_a_sentence() -> None:
    """Tags would be read wrongly: relations or indices of every report would be off."""
    tokens, entities = graph(["FINDINGS :", "Small/o left/a pleural/A effusion/O , no rib/A2 fracture/N2 ."])
    assert tokens[:5] == ["FINDINGS", ":", "Small", "left", "pleural"]
    keys = {entity["tokens"]: key for key, entity in entities.items()}
    relations = {entity["tokens"]: entity["relations"] for entity in entities.values()}
    assert relations == {
        "Small": [["modify", keys["effusion"]]], "left": [["modify", keys["pleural"]]], "pleural": [], "rib": [],
        "effusion": [["located_at", keys["pleural"]]], "fracture": [["located_at", keys["rib"]]],
    }  # fmt: skip
    assert entities[keys["fracture"]]["label"] == "OBS-DA"
    assert plain("Small/o effusion/O , no fracture/N2 .") == "Small effusion, no fracture."


def test_patients_keep_their_body_sex_and_number() -> None:
    """Studies of one patient would differ in build, or a patient's studies would not be consecutive."""
    patients = [patient_of(0, index) for index in range(120)]
    numbers = [patient.number for patient in patients]
    assert numbers == sorted(numbers)
    for before, after in itertools.pairwise(patients):
        if before.number == after.number:
            assert dataclasses.replace(after, study_of_patient=before.study_of_patient) == before
            assert after.study_of_patient == before.study_of_patient + 1
        else:
            assert after.study_of_patient == 0
    assert max(numbers.count(number) for number in numbers) <= 3


@given(angle=st.floats(-0.2, 0.2), bend=st.floats(-0.03, 0.03), x=st.floats(-0.5, 0.5), y=st.floats(0, 0.9))
def test_points_land_on_their_pixels(angle: float, bend: float, x: float, y: float) -> None:
    """Strokes would not lie where the fields are."""
    canvas = Canvas(64, Frame(0.5, 0.2, 0.5, 0.55, angle, bend, 1.0))
    column, row = canvas.to_pixels(np.asarray([(x, y)], np.float32))[0]
    if 0 <= column < 64 and 0 <= row < 64:
        assert canvas.x[int(row), int(column)] == pytest.approx(x, abs=0.04)
        assert canvas.y[int(row), int(column)] == pytest.approx(y, abs=0.04)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), female=st.booleans())
def test_healthy_hearts_are_narrower_than_half_the_chest(seed: int, female: bool) -> None:
    """A healthy body would show cardiomegaly."""
    body = sample_body(np.random.default_rng(seed), female)
    assert (body.heart_left + body.heart_right) / (body.width_left + body.width_right) < 0.53
