"""Tables in every form that people and programs read: nothing lost, nothing that looks like a number and is none."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from medslip.evaluation import tables
from medslip.evaluation.bootstrap import Estimate
from medslip.evaluation.tables import (
    Patients,
    from_records,
    show,
    to_markdown,
    to_records,
    to_text,
    words,
    write_csv,
    write_predictions,
)
from medslip.files import plain

TABLE = pd.DataFrame(
    {
        "class": ["Mass", "a|b"],
        "auroc": [Estimate(0.75, 0.5, 0.875, 98, 2), Estimate(np.nan)],
        "positives": pd.array([12345, None], "Int64"),
        "threshold": [1.5e-05, np.nan],
        "clear": [True, False],
        "classes": [["x", "y"], []],
        "empty": [np.nan, ""],
    }
)


def test_text_has_aligned_columns_and_no_nan():
    """Columns that slip under another heading, or a nan that a reader takes for a fault."""
    header, rule, mass, other = to_text(TABLE).splitlines()
    assert header.split() == ["class", "AUROC", "positives", "threshold", "clear", "classes"]
    assert len(header) == len(rule) == len(mass)
    assert mass.split() == ["Mass", "0.750", "[0.500,", "0.875]", "12,345", "1.5e-05", "yes", "x,", "y"]
    assert other.split() == ["a|b", "-", "-", "-", "no"]


def test_markdown_escapes_what_would_end_a_cell():
    lines = to_markdown(TABLE).splitlines()
    assert lines[0].startswith("| class ")
    assert lines[3].startswith("| a\\|b  |")
    assert len({len(line) for line in lines}) == 1


def test_records_give_the_table_back_through_json():
    """The run page would show other numbers than the run found."""
    records = json.loads(json.dumps(plain(to_records(TABLE)), allow_nan=False))
    assert records[0]["auroc"] == {"value": 0.75, "low": 0.5, "high": 0.875, "resamples": 98, "left_out": 2}
    assert records[1]["auroc"]["value"] is None
    again = from_records(records)
    assert again["auroc"][0] == TABLE["auroc"][0]
    assert to_text(again) == to_text(TABLE)


def test_patients_get_names_that_group_their_images_and_do_not_tell_who_they_are(tmp_path, monkeypatch):
    """A hospital's numbers would be published with a run, or be found again by hashing all numbers."""
    monkeypatch.setattr(tables, "_KEY_FILE", tmp_path / "home" / "key")

    def written(key: str, patients: Patients = "hash") -> list[str]:
        monkeypatch.setenv("MEDSLIP_PATIENT_KEY", key)
        write_predictions(pd.DataFrame({"patient": ["0042", "", "7", "0042"]}), tmp_path, patients)
        table = pd.read_csv(tmp_path / "predictions.csv", dtype=str, keep_default_na=False, skip_blank_lines=False)
        return table["patient"].tolist()

    tables._own_key.cache_clear()
    random, own, other = (written(key) for key in ("", "our secret", "another"))
    assert (tmp_path / "home" / "key").stat().st_mode & 0o777 == 0o600
    tables._own_key.cache_clear()  # another process of the same user
    for names in (random, own, other):
        assert names[0] == names[3] != names[2]
        assert (names[1], [len(name) for name in names]) == ("", [17, 0, 17, 17])
    assert len({random[0], own[0], other[0]}) == 3
    assert (written(""), written("our secret")) == (random, own)
    assert written("", "keep") == ["0042", "", "7", "0042"]
    monkeypatch.setattr(tables, "_KEY_FILE", tmp_path / "predictions.csv" / "key")  # cannot be made
    tables._own_key.cache_clear()
    assert written("") not in (random, own, other)
    tables._own_key.cache_clear()


def test_csv_has_the_ends_of_an_interval_in_columns_of_their_own(tmp_path):
    write_csv(TABLE.drop(columns=["classes", "empty"]), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[:2] == [
        "class,auroc,auroc_low,auroc_high,positives,threshold,clear",
        "Mass,0.75,0.5,0.875,12345,1.5e-05,1",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234567, "0.123"), (12345, "12,345"), (0.0, "0.000"), (123456.0, "1.23e+05"), (True, "yes"), (None, "-")],
)
def test_numbers_are_short(value, text):
    assert show(value) == text


def test_names_of_data_stay_names():
    """A class would be renamed on the page."""
    assert [words(name) for name in ("auroc_Mass_2", "Pleural_Effusion", "max_f1", "lung base", "Ödem")] == [
        "AUROC Mass_2", "Pleural_Effusion", "max F1", "lung base", "Ödem",
    ]  # fmt: skip
