"""Reading SIIM-ACR Pneumothorax: run lengths, DICOM and PNG forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from medslip.data.datasets.siim_acr import SiimAcr, parse_runs
from medslip.data.images import Header
from medslip.data.masks import paint_runs, runs_of
from medslip.errors import InputError
from medslip.phantoms.dicom import uid_of, write_dicom

HEADER = Header("", "F", 43.0, "PA", 0, 0)


def write_layout(root: Path, rows: list[str], size: tuple[int, int] = (8, 6)) -> Path:
    """Images a and b and c in the publisher's folders."""
    for name in "abc":
        folder = root / "dicom-images-train" / f"study_{name}" / "series"
        folder.mkdir(parents=True)
        write_dicom(folder / f"{name}.dcm", np.full(size, 9, np.uint8), HEADER, uid_of(name))
    (root / "train-rle.csv").write_text("ImageId, EncodedPixels\n" + "".join(row + "\n" for row in rows))
    return root


def test_run_lengths_go_down_the_columns_and_start_where_the_run_before_ended() -> None:
    """Masks would be transposed, shifted, or stretched over the image."""
    mask = paint_runs(parse_runs("1 2 3 1", height=4, width=3), height=4, width=3)
    assert np.argwhere(mask).tolist() == [[1, 0], [2, 0], [2, 1]]


@settings(deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_decoding_undoes_encoding(mask: np.ndarray) -> None:
    """A written mask would come back as another."""
    text = " ".join(map(str, runs_of(mask))) or "-1"
    np.testing.assert_array_equal(paint_runs(parse_runs(text, *mask.shape), *mask.shape), mask)


@given(st.data())
def test_encoding_undoes_decoding(data: st.DataObject) -> None:
    """Run lengths would be rewritten as other ones."""
    runs = data.draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8))
    first = data.draw(st.integers(0, 4))
    numbers = [first, *(number for run in runs for number in run)][:-1]
    numbers = numbers if len(numbers) % 2 == 0 else numbers[:-1]
    runs = parse_runs(" ".join(map(str, numbers)) or "-1", 10, 9)
    assert runs_of(paint_runs(runs, 10, 9)).tolist() == numbers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "1 2 3",
        "a b",
        "1 -2",
        "1.5 2",
        "-1 3",
        "3 0",
        "10 3",
        "11 1 1 1",
        "99999999999999999999 1",
        "9" * 5000 + " 1",
    ],
)
def test_what_is_no_run_lengths_or_leaves_the_image_is_refused(text: str) -> None:
    """A damaged table would give a wrong mask in silence."""
    with pytest.raises(InputError, match=r"^here: "):
        parse_runs(text, 3, 4, "here")


@pytest.mark.parametrize("stage", [1, 2])
def test_several_rows_of_an_image_are_one_mask_and_images_come_in_table_order(tmp_path: Path, stage: int) -> None:
    """All but one mask of an image would be lost, or masks belong to other images; scores by sex and view be empty."""
    root = write_layout(tmp_path, ["b,0 2", "c, -1", "b,1 3", "a,-1"])
    if stage == 2:
        (root / "train-rle.csv").rename(root / "stage_2_train.csv")
        (root / "dicom-images-train").rename(root / "stage_2_images")
    masked = SiimAcr(root).read()
    assert [path.stem for path in masked.paths] == masked.patients == ["b", "c", "a"]
    assert masked.classes == ("Pneumothorax",)
    assert masked.label_array.tolist() == [[1], [0], [0]]
    assert masked.found("Pneumothorax").tolist() == [True, False, False]
    assert np.flatnonzero(masked.mask(0, "Pneumothorax").T).tolist() == [0, 1, 2, 3]
    assert masked.mask(1, "Pneumothorax").shape == (8, 6)
    assert not masked.mask(1, "Pneumothorax").any()
    assert masked.metadata.to_numpy().tolist() == [["PA", "F", 43]] * 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,-1", "b,40 9"], r"train-rle.csv: line 3: the run lengths end at pixel 49, outside the image of 8 x 6"),
        (["a,-1", "d,-1"], r"train-rle.csv: line 3: image d is not in"),
        (["a,-1", "a,-1"], r"train-rle.csv: line 3: a is already in line 2"),
        (["a,1 2", "a,-1"], r"train-rle.csv: line 3: a is already in line 2"),
        (["a,1 2 3"], r"train-rle.csv: line 2: '1 2 3'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SiimAcr(write_layout(tmp_path, rows)).read()


DRAWN = np.zeros((8, 6), np.uint8)
DRAWN[2:4, 5] = 255


def write_pictures(root: Path, mask: np.ndarray = DRAWN) -> Path:
    """The PNG form: image a with a mask, b with an empty one."""
    for name, drawn in (("a", mask), ("b", np.zeros((8, 6), np.uint8))):
        for folder, pixels in (("images", np.full((8, 6), 9, np.uint8)), ("masks", drawn)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
    (root / "list.csv").write_text(",image_path,patient\n0,images/a.png,p7\n1,images/b.png,\n")
    return root / "list.csv"


@pytest.mark.parametrize("name", ["a.png", "a.dcm"])
def test_images_in_either_form_have_masks_that_are_pictures(tmp_path: Path, name: str) -> None:
    """A DICOM mask would be looked for, which nobody has; a patient's images be learnt from and tested on."""
    table = write_pictures(tmp_path)
    write_dicom(tmp_path / "images" / "a.dcm", np.full((8, 6), 9, np.uint8), HEADER, uid_of("a"))
    table.write_text(table.read_text().replace("a.png", name))
    masked = SiimAcr(table).read()
    assert [path.name for path in masked.paths] == [name, "b.png"]
    assert masked.found("Pneumothorax").tolist() == [True, False]
    assert masked.label_array.tolist() == [[1], [0]]
    assert masked.patients == ["p7", "images/b.png"]
    np.testing.assert_array_equal(masked.mask(0, "Pneumothorax"), DRAWN > 0)


def test_png_form_names_what_is_missing_listed_twice_or_of_another_size(tmp_path: Path) -> None:
    table = write_pictures(tmp_path, np.zeros((6, 8), np.uint8))
    with pytest.raises(InputError, match=r"masks/a.png: the mask has 8 x 6 pixels, its image .*a.png 6 x 8.*same size"):
        SiimAcr(table).read()
    table.write_text("image_path\nimages/a.png\nimages/a.png\n")
    with pytest.raises(InputError, match=r"list.csv: line 3: image images/a.png is listed twice, also in line 2"):
        SiimAcr(table).read()
    table.write_text("image_path\nimages/b.png\n")
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(InputError, match=r"list.csv: line 2: mask .*masks/b.png not found"):
        SiimAcr(table).read()


def test_real_image_without_pneumothorax(shared: Path, tmp_path: Path) -> None:
    """The publisher's own file, of 1024 x 1024 pixels in compressed DICOM."""
    name = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819"
    folder = tmp_path / "dicom-images-train" / "study" / "series"
    folder.mkdir(parents=True)
    (folder / f"{name}.dcm").symlink_to(shared / "real" / "dicom" / "siim_ptx_6904.dcm")
    (tmp_path / "train-rle.csv").write_text(f"ImageId, EncodedPixels\n{name},-1\n")
    images = SiimAcr(tmp_path).read()
    assert images.label_array.tolist() == [[0]]
    assert images.metadata.to_numpy().tolist() == [["PA", "M", 62]]
    assert images.mask(0, "Pneumothorax").shape == (1024, 1024)
