"""Files that are written whole or not at all, and JSON that every reader accepts."""

from __future__ import annotations

import errno
import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.files import folder_written_whole, to_json, write_text, written_whole


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    """Another program, or a resumed run, would read half of it."""
    path = tmp_path / "new" / "a.csv"
    with written_whole(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        assert partial.name == "a.csv.partial"
    assert path.read_text() == "half"
    assert [file.name for file in path.parent.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("begun", [True, False])
def test_after_an_error_the_earlier_file_stands_and_nothing_else(tmp_path, error, begun):
    path = tmp_path / "a.txt"
    path.write_text("earlier")

    def fail() -> None:
        with written_whole(path) as partial:
            if begun:
                partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("writer", [written_whole, folder_written_whole])
@pytest.mark.parametrize(
    ("error", "number", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC, "No space left on device"),
        (OSError("100 requested and 5\n written"), errno.EIO, "100 requested and 5 written"),
    ],
)
def test_an_error_in_writing_names_the_file(tmp_path, writer, error, number, reason):
    """The error of a full disk names no file, and numpy's has no error number either."""
    with pytest.raises(OSError, match=r"a\.x") as raised, writer(tmp_path / "a.x"):
        raise error
    assert (raised.value.errno, raised.value.strerror) == (number, reason)
    assert raised.value.filename == str(tmp_path / "a.x")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_taken_away_and_made_again_is_not_whole(tmp_path):
    """What was written first would be missing without a word."""
    with pytest.raises(OSError, match="removed"), folder_written_whole(tmp_path / "a") as partial:
        partial.rename(tmp_path / "away").with_name(partial.name).mkdir()
    assert [file.name for file in tmp_path.iterdir()] == ["away"]


def test_what_a_killed_process_left_of_a_folder_is_removed_and_what_another_fills_is_not(tmp_path):
    """Every killed run would take disk space for good; or two runs would destroy each other's files."""
    for name in ("a.partial-killed00", "a.partial", "b.partial-killed00"):
        (tmp_path / name).mkdir()
    with folder_written_whole(tmp_path / "a") as first, folder_written_whole(tmp_path / "a"):
        assert first.exists()
    assert {file.name for file in tmp_path.iterdir()} == {"a", "a.partial", "b.partial-killed00"}


def test_a_file_gets_the_permissions_of_a_new_file(tmp_path):
    """Weights that only their owner can read cannot be shared in a group's folder; safetensors alone writes them so."""
    before = os.umask(0o027)
    try:
        with written_whole(tmp_path / "a.safetensors") as partial:
            partial.touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_text_is_written_in_utf_8_whatever_the_locale(tmp_path):
    write_text(tmp_path / "a.txt", "Ödem\n")
    assert (tmp_path / "a.txt").read_bytes() == "Ödem\n".encode()


def test_nan_and_infinities_become_null_at_every_depth():
    """Python writes NaN as it is, which browsers and other languages refuse as JSON."""
    data = {"a": [1.5, math.nan, (math.inf, {"b": -math.inf})], "c": None, "d": "NaN", "e": True}
    assert json.loads(to_json(data)) == {"a": [1.5, None, [None, {"b": None}]], "c": None, "d": "NaN", "e": True}


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_everything_else_comes_back_as_it_was(data):
    assert json.loads(to_json(data)) == data
