"""Lists of prepared data sets: what is written is read, and a line that cannot be used is named."""

import numpy as np
import pandas as pd
import pytest

from medslip.data.manifest import read_list, write_list
from medslip.data.reading import check_files
from medslip.errors import InputError


def table(**columns):
    return pd.DataFrame(
        {"image": ["a.png", "b/ü.png"], "study": ["s1", "01"], "patient": ["p1", "007"], "row": [3, 0]} | columns
    )


def test_list_comes_back_as_it_was_written(tmp_path):
    """Names of digits must stay text: patient 007 is not patient 7."""
    write_list(tmp_path / "deep" / "train.csv", table(view=["PA", ""], age=[61.5, np.nan]))
    studies = read_list(tmp_path / "deep" / "train.csv")
    assert len(studies) == 2
    assert studies.images["patient"].tolist() == ["p1", "007"]
    assert studies.images["study"].tolist() == ["s1", "01"]
    assert studies.images["view"].tolist() == ["PA", ""]
    assert studies.images["sex"].tolist() == ["", ""]
    assert studies.images["row"].dtype == np.int64
    assert studies.images["row"].tolist() == [3, 0]
    assert studies.images["age"].iloc[0] == 61.5
    assert np.isnan(studies.images["age"].iloc[1])
    assert studies.paths[1] == tmp_path / "deep" / "b" / "ü.png"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["train.csv"]
    write_list(tmp_path / "test.csv", table(image=["/data/a.png", "/data/b.png"]).drop(columns="row"))
    without_store = read_list(tmp_path / "test.csv")
    assert str(without_store.paths[0]) == "/data/a.png"
    assert without_store.images["row"].tolist() == [-1, -1]


def test_missing_images_are_counted_and_the_first_named(tmp_path):
    """Hours would be spent on those that exist."""
    write_list(tmp_path / "train.csv", table())
    (tmp_path / "a.png").touch()
    studies = read_list(tmp_path / "train.csv")
    with pytest.raises(InputError, match=r"train\.csv: line 3: image .*b/ü\.png not found; get the image"):
        check_files(studies.images.set_index("line")["path"], studies.source, advice="get the image")


HEADER = "image,study,patient,view,sex,age,row\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a table in CSV form"),
        (HEADER, "the table has no rows"),
        ("image,study,row\na.png,s,0\n", "has no column 'patient'"),
        (HEADER + "a.png,s,p,,,,0\nb.png,s,p,,,,x\n", "line 3: row 'x' is not a whole number"),
        (HEADER + "a.png,s,p,,,,1.5\n", "line 2: row '1.5' is not a whole number"),
        (HEADER + "a.png,s,p,,,,inf\n", "line 2: row 'inf' is not a whole number"),
        (HEADER + "a.png,s,p,,,,0\na.png,t,p,,,,1\n", "line 3: image a.png is listed twice"),
        (HEADER + ",s,p,,,,0\n", "line 2: has no image path"),
        (HEADER + '"a.png,s\n', "not a table in CSV form"),
        (HEADER + "a.png,s,p,,,,0,9\nb.png,s\n", "line|CSV"),
    ],
)
def test_unusable_list_is_one_line_with_file_and_line(tmp_path, text, words):
    """Row 1.5 read as row 1 would be another patient's report."""
    path = tmp_path / "train.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as refused:
        read_list(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_missing_or_unreadable_list_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="list not found; make it with prepare_data"):
        read_list(tmp_path / "none.csv")
    with pytest.raises(InputError, match="list not found"):
        read_list(tmp_path)
    (tmp_path / "bytes.csv").write_bytes(b"image,study\n\xff\xfe,\x00")
    with pytest.raises(InputError, match="not a table in CSV form"):
        read_list(tmp_path / "bytes.csv")
