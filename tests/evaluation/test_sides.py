"""Left and right: the side of a finding, which side the model leans to, and how often that is the right one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medslip.evaluation.grounding_scores import ALL
from medslip.evaluation.sides import lean, score_sides, side_of
from medslip.vocabulary import ANATOMIES, MIRRORED_ANATOMY


def test_the_lean_follows_a_single_anatomy():
    """The patient's left would be taken for the right, or a stream would not count."""
    logits, pathologies = np.zeros((51, 2)), np.ones((2, 3, 3)) / 9
    anatomies = np.full((51, 3, 3), 1 / 9)
    assert lean(logits, pathologies, anatomies).tolist() == [[0, 0], [0, 0]]
    logits[ANATOMIES.index("left_pleural"), 0] = 2
    logits[ANATOMIES.index("right_lower_lung"), 1] = 3
    pathologies[0] = np.eye(3)[0][:, None] * np.eye(3)[2]  # the image's right, where the patient's left is
    anatomies[ANATOMIES.index("left_pleural"), :, 2] = 0.9
    found = lean(logits, pathologies, anatomies)
    assert found[:, 0].tolist() == [2, -3]
    assert found[0, 1] > 0


def test_exchanged_anatomies_turn_the_lean_round():
    """The two sides would not have the same anatomies, and the score would favour one of them."""
    random = np.random.default_rng(0)
    exchange = [row if other < 0 else other for row, other in enumerate(MIRRORED_ANATOMY)]
    logits, pathologies, anatomies = (
        random.normal(size=(4, 51, 5)),
        random.random((4, 5, 3, 3)),
        random.random((4, 51, 3, 3)),
    )
    found = lean(logits, pathologies, anatomies)
    assert found.shape == (4, 5, 2)
    assert lean(logits[:, exchange], pathologies, anatomies[:, exchange]) == pytest.approx(-found)


@pytest.mark.parametrize(
    ("boxes", "side"),
    [
        ([(50, 0, 10, 5)], "left"),
        ([(10, 0, 40, 5), (0, 0, 5, 5)], "right"),
        ([(10, 0, 41, 5)], ""),
        ([(10, 0, 10, 5), (80, 0, 10, 5)], ""),
    ],
)
def test_a_finding_has_a_side_if_no_box_reaches_beyond_the_midline(boxes, side):
    """Cardiomegaly would be scored, or a side would be taken for the other."""
    assert side_of(boxes, 100) == side


def test_the_score_is_the_share_of_right_sides():
    """Findings on both sides would count, or a tie as right."""
    cases = pd.DataFrame(
        {
            "patient": ["a", "a", "b", "c", "d"],
            "class": ["mass", "mass", "mass", "effusion", "effusion"],
            "side": ["left", "right", "left", "right", ""],
            "left_icl": [1.0, 2.0, 0.0, -3.0, 1.0],
            "left_maps": [0.1, -0.1, 0.1, 0.2, np.nan],
        }
    )
    table = score_sides(cases, 50).set_index("class")
    assert table[["cases", "left", "patients"]].values.tolist() == [[1, 0, 1], [3, 2, 2], [4, 2, 3]]
    assert table["icl"].map(float).to_dict() == {"effusion": 1.0, "mass": 0.5, ALL: 2.5 / 4}
    assert table["maps"].map(float).to_dict() == {"effusion": 0.0, "mass": 1.0, ALL: 0.75}
    assert table["icl"][ALL].low <= table["icl"][ALL].value <= table["icl"][ALL].high
    assert score_sides(cases[cases["side"] == ""]).empty
