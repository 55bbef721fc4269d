"""The reader of JSON objects larger than memory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medslip.errors import InputError
from medslip.labels.json_stream import iter_members

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.sampled_from(['"', "\\", "é", "}", "\U0001f600"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=4)


@given(OBJECTS, st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_chunk_size_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    """An entry that spans two chunks would be lost, or taken for the end of the file."""
    path = tmp_path_factory.mktemp("stream") / "graphs.json"
    path.write_text(json.dumps(whole, indent=indent, ensure_ascii=ascii_only) + "\n", "utf-8")
    assert list(iter_members(path, chunk)) == list(whole.items())


@given(st.data(), st.integers(1, 40))
def test_a_file_truncated_anywhere_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject, chunk: int
) -> None:
    """After an interrupted download, half of the reports would be prepared without a warning."""
    text = json.dumps({f"s{number}": {"a": [True, None, -1.5e3, 'é"\\'], "b": {}} for number in range(3)})
    path = tmp_path_factory.mktemp("stream") / "graphs.json"
    path.write_text(text[: draw.draw(st.integers(0, len(text) - 1))], "utf-8")
    with pytest.raises(InputError, match=r"graphs\.json: is truncated at character \d+ \("):
        list(iter_members(path, chunk))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[1]", "does not start with a JSON object"),
        ('{"a" 1}', 'no ":"'),
        ('{"a": {"x" 1}}', "not valid JSON"),
        ('{"a": {}; "b": {}}', 'neither "," nor "}"'),
        ('{"a": {}, 3}', "no key"),
        ('{"a": {}} {"b"', "continues after"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1000])
def test_text_that_is_not_a_json_object_is_an_error(tmp_path: Path, text: str, fault: str, chunk: int) -> None:
    """A damaged file would be read in part, or end in a traceback."""
    path = tmp_path / "graphs.json"
    path.write_text(text)
    with pytest.raises(InputError, match=fault) as caught:
        list(iter_members(path, chunk))
    assert str(path) in str(caught.value)


def test_missing_files_folders_and_binary_files_are_errors(tmp_path: Path) -> None:
    """A wrong path would end in a traceback."""
    with pytest.raises(InputError, match="not found"):
        list(iter_members(tmp_path / "none.json"))
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); give the JSON file"):
        list(iter_members(tmp_path))
    (tmp_path / "bytes.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(InputError, match="is not text in UTF-8"):
        list(iter_members(tmp_path / "bytes.json"))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        (f"[{'9' * 5000}]", "has too many digits"),
        ("[NaN]", "not finite"),
    ],
)
def test_values_that_cannot_be_decoded_are_errors(tmp_path: Path, value: str, fault: str) -> None:
    """A damaged file would end in a traceback."""
    path = tmp_path / "graphs.json"
    path.write_text(f'{{"a": {value}}}')
    with pytest.raises(InputError, match=fault):
        list(iter_members(path))


def test_blanks_are_passed_over_at_once(tmp_path: Path) -> None:
    """A file that was filled with blanks would be read for minutes."""
    path = tmp_path / "graphs.json"
    path.write_text(" " * 50_000_000 + '{"a": 1' + "\n" * 50_000_000 + "}")
    began = time.process_time()
    assert list(iter_members(path)) == [("a", 1)]
    assert time.process_time() - began < 5
