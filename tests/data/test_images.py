"""Reading PNG, JPEG and DICOM files."""

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medslip.data.images import read_header, read_image, years
from medslip.errors import InputError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_every_colour_mode_of_png_gives_the_same_grey(tmp_path, mode):
    grey = np.where(RAMP > 127, np.uint8(255), 0) if mode == "1" else RAMP
    path = save(tmp_path / "a.png", Image.fromarray(grey).convert(mode))
    assert (read_image(path) == grey).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_in_grey_and_colour(tmp_path, mode):
    path = save(tmp_path / "a.jpg", Image.fromarray(RAMP).convert(mode), quality=100)
    assert np.abs(read_image(path).astype(int) - RAMP).max() <= 4


def test_content_decides_not_the_suffix(tmp_path):
    """A JPEG that is called .png, common in public sets, must be read."""
    save(tmp_path / "a.jpg", Image.fromarray(RAMP)).rename(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (16, 16)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_exif_orientation_is_applied_to_the_image_and_its_header(tmp_path, name):
    """A mask of a turned photograph would be rejected, or laid on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / name, Image.fromarray(RAMP[:8]), exif=exif, quality=100)
    assert np.abs(read_image(path).astype(int) - np.rot90(RAMP[:8], -1)).max() <= 4
    assert (read_header(path).height, read_header(path).width) == (16, 8)


def test_at_least_shrinks_a_jpeg_but_not_below(tmp_path):
    smooth = np.add.outer(np.linspace(0, 150, 800), np.linspace(0, 100, 640)).astype(np.uint8)
    path = save(tmp_path / "a.jpg", Image.fromarray(smooth), quality=95)
    small = read_image(path, at_least=100)
    assert small.shape == (200, 160)
    blocks = smooth.reshape(200, 4, 160, 4).mean((1, 3))
    assert np.abs(small - blocks).max() < 4
    assert read_image(path, at_least=641).shape == (800, 640)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm", "a"])
@pytest.mark.parametrize("content", [None, b"", b"this is no image", b"\0" * 500])
def test_what_is_no_image_is_refused_in_one_line(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=str(tmp_path / name)) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def noise_file(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48), dtype=np.uint8)
    if kind == "DICOM":
        return dicom_bytes(noise)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "DICOM"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.97))
def test_a_file_cut_anywhere_is_refused(tmp_path, kind, share):
    """A half-downloaded image must never be padded with grey in silence."""
    whole = noise_file(kind)
    path = tmp_path / "cut.img"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError):
        read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "DICOM"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_byte_gives_an_image_or_an_input_error(tmp_path, kind, place, value):
    damaged = bytearray(noise_file(kind))
    damaged[int(len(damaged) * place)] = value
    path = tmp_path / "damaged.img"
    path.write_bytes(damaged)
    try:
        grey = read_image(path)
    except InputError:
        return
    assert grey.dtype == np.uint8
    assert grey.ndim == 2


# DICOM


def dicom_bytes(pixels: np.ndarray, photometric: str = "MONOCHROME2", **elements: object) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["one"])
    dataset.PhotometricInterpretation = photometric
    dataset.SamplesPerPixel = 3 if photometric == "RGB" else 1
    if photometric == "RGB":
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[-2:] if photometric != "RGB" else pixels.shape[:2]
    if pixels.ndim == 3 and photometric != "RGB":
        dataset.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture
def read_dicom(tmp_path):
    def read(pixels: np.ndarray, photometric: str = "MONOCHROME2", **elements: object) -> np.ndarray:
        path = tmp_path / "a.dcm"
        path.write_bytes(dicom_bytes(pixels, photometric, **elements))
        return read_image(path)

    return read


def lut(entries: list[int], first: int, depth: int):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.LUTDescriptor = [len(entries), first, depth]
    item.LUTData = np.array(entries, "<u2").tobytes()
    return Sequence([item])


RAMP_12_BIT = np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(16, 16)


TWELVE = {"BitsStored": 12, "HighBit": 11}
SIGNED = RAMP_12_BIT.astype(np.int16) - 2048


@pytest.mark.parametrize(
    ("pixels", "elements"),
    [
        pytest.param(RAMP, {}, id="8 bits"),
        pytest.param(RAMP_12_BIT, TWELVE, id="12 bits"),
        pytest.param(SIGNED, {}, id="signed"),
        pytest.param(SIGNED & 0xFFF, TWELVE, id="signed in 12 bits"),
        pytest.param(RAMP_12_BIT << 4, {"BitsStored": 12, "HighBit": 15}, id="upper 12 bits"),
        pytest.param(SIGNED << 4, {"BitsStored": 12, "HighBit": 15}, id="signed in the upper 12 bits"),
        pytest.param(255 - RAMP, {"photometric": "MONOCHROME1"}, id="inverted"),
        pytest.param(np.stack([RAMP, RAMP[::-1]]), {}, id="the first of two frames"),
        pytest.param(np.stack([RAMP] * 3, -1), {"photometric": "RGB"}, id="colour"),
    ],
)
def test_dicom_without_window_spans_its_data_however_they_are_stored(read_dicom, pixels, elements):
    """Bones must come out bright, whatever way the maker stores them."""
    assert (read_dicom(pixels, **elements) == RAMP).all()


def test_window_clips(read_dicom):
    grey = read_dicom(RAMP_12_BIT, **TWELVE, WindowCenter=1000, WindowWidth=500)
    assert (grey[RAMP_12_BIT <= 750] == 0).all()
    assert (grey[RAMP_12_BIT >= 1250] == 255).all()
    middle = grey[np.abs(RAMP_12_BIT.astype(int) - 1000) < 9]
    assert np.abs(middle.astype(int) - 128).max() < 6


def test_window_wider_than_the_data_leaves_them_in_the_middle(read_dicom):
    """The window is what the maker meant to show: it is not stretched to the data."""
    grey = read_dicom(RAMP_12_BIT // 2 + 1024, **TWELVE, WindowCenter=2048, WindowWidth=4096)
    assert (grey.min(), grey.max()) == (64, 191)


def test_window_acts_on_rescaled_values_and_the_first_of_several_counts(read_dicom):
    grey = read_dicom(
        RAMP_12_BIT, **TWELVE, RescaleSlope=2, RescaleIntercept=-100,
        WindowCenter=[1900, 5], WindowWidth=[1000, 9],
    )  # fmt: skip
    rescaled = RAMP_12_BIT.astype(int) * 2 - 100
    assert (grey[rescaled <= 1400] == 0).all()
    assert (grey[rescaled >= 2400] == 255).all()


@pytest.mark.parametrize("window", [(0, 0), (-9000, 10), (9000, 10)])
def test_window_that_shows_nothing_is_ignored(read_dicom, window):
    """A careless window must not turn a radiograph into a black square in silence."""
    centre, width = window
    grey = read_dicom(RAMP_12_BIT, **TWELVE, WindowCenter=centre, WindowWidth=width)
    assert (grey == RAMP).all()


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        ("SIGMOID", lambda position: 1 / (1 + np.exp(-4 * position))),
        ("LINEAR_EXACT", lambda position: np.clip(position + 0.5, 0, 1)),
    ],
)
def test_windows_of_other_shapes(read_dicom, function, shape):
    grey = read_dicom(RAMP_12_BIT, **TWELVE, WindowCenter=2048, WindowWidth=1000, VOILUTFunction=function)
    assert np.abs(grey - 255 * shape((RAMP_12_BIT - 2048.0) / 1000)).max() < 0.52


@pytest.mark.parametrize("depth", [8, 12, 16])
def test_voi_lut_comes_before_the_window(read_dicom, depth):
    """Also with more entries than its own depth can count, where pydicom's look-up wraps around."""
    top = 2**depth - 1
    entries = (np.linspace(0, 1, 3000) ** 2 * top).round().astype(int).tolist()
    grey = read_dicom(
        RAMP_12_BIT, **TWELVE, WindowCenter=5, WindowWidth=3,
        VOILUTSequence=lut(entries, 500, depth),
    )  # fmt: skip
    expected = np.clip((RAMP_12_BIT - 500.0) / 2999, 0, 1) ** 2 * 255
    assert np.abs(grey - expected).max() < 1.01


@pytest.mark.parametrize("entries", [[*range(4095), 2047], [*range(4095), 0]])
def test_voi_lut_whose_last_entry_is_not_its_greatest(read_dicom, entries):
    """Values above the last entry would wrap round to black."""
    grey = read_dicom(RAMP_12_BIT, **TWELVE, VOILUTSequence=lut(entries, 0, 12))
    assert np.abs(grey.ravel()[:-1].astype(int) - RAMP.ravel()[:-1]).max() <= 1
    assert abs(int(grey.ravel()[-1]) - round(entries[-1] / 4094 * 255)) <= 1


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_negative_rescale_slope_turns_the_grey_scale_with_a_window_as_without(read_dicom, function):
    """The library turns the window's output round once more: dark bones."""
    rescale = {**TWELVE, "RescaleSlope": -1, "RescaleIntercept": 4095}
    plain = read_dicom(RAMP_12_BIT, **rescale)
    assert (plain == 255 - RAMP).all()
    shown = read_dicom(RAMP_12_BIT, **rescale, WindowCenter=2048, WindowWidth=4096, VOILUTFunction=function)
    assert (np.diff(shown.ravel().astype(int)) <= 0).all()
    assert shown[0, 0] > 200
    assert shown[-1, -1] < 55


def test_constant_dicom_is_an_image(read_dicom):
    assert read_dicom(np.full((4, 4), 7, np.uint16)).shape == (4, 4)


def test_missing_decoder_names_what_to_install():
    from pydicom.data import get_testdata_file
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGLSLossless

    if get_decoder(JPEGLSLossless).is_available:
        pytest.skip("a JPEG-LS decoder is installed")
    path = get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    with pytest.raises(InputError, match="pip install pylibjpeg"):
        read_image(Path(path))


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "bigendian", "implicit", "padded"])
def test_every_encoding_of_one_image_gives_the_same_grey(name):
    from pydicom.data import get_testdata_file

    plain = read_image(Path(get_testdata_file("MR_small.dcm", download=False)))
    assert (read_image(Path(get_testdata_file(f"MR_small_{name}.dcm", download=False))) == plain).all()


def test_real_dicom_radiographs_have_bright_bones_on_a_dark_ground(shared):
    """A wrong inversion or window shows in the lungs, which are darker than the mediastinum between them."""
    files = sorted((shared / "real/dicom").glob("*.dcm"))
    assert len(files) == 4
    for file in files:
        grey = read_image(file).astype(float)
        height, width = grey.shape
        middle = slice(height // 4, height // 2)
        spine = grey[middle, int(0.46 * width) : int(0.54 * width)].mean()
        right_lung = grey[middle, int(0.22 * width) : int(0.34 * width)].mean()
        assert spine > right_lung + 20, file.name


# Properties of real files, from public bug reports of this field


@pytest.mark.parametrize("syntax", ["native", "JPEG 2000"])
def test_bits_above_the_stored_ones_are_not_part_of_the_image(tmp_path, syntax):
    """Overlay planes in the four bits above twelve stored ones."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    pixels = RAMP_12_BIT | (np.arange(16, dtype=np.uint16) << 12)
    dataset = dcmread(io.BytesIO(dicom_bytes(pixels, **TWELVE)))
    if syntax == "JPEG 2000":
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG2000", irreversible=False, no_jp2=True)
        dataset.PixelData = encapsulate([file.getvalue()])
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert (read_image(tmp_path / "a.dcm") == RAMP).all()


WINDOW = {**TWELVE, "WindowCenter": 2048, "WindowWidth": 1000}


@pytest.mark.parametrize(
    "elements",
    [{"VOILUTFunction": ""}, {"VOILUTFunction": "MAKERS_OWN"}, {"RescaleSlope": "", "RescaleIntercept": ""},
     {"RescaleSlope": None}, {"VOILUTSequence": "empty item"}, {"VOILUTSequence": "no item"}, {"WindowCenter": ["2048", "1"]}],
)  # fmt: skip
def test_an_empty_element_means_the_default_and_keeps_the_window(read_dicom, elements):
    """The window would be lost, and with it the radiograph's contrast."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    if "VOILUTSequence" in elements:
        elements = {"VOILUTSequence": Sequence([Dataset()] if elements["VOILUTSequence"] == "empty item" else [])}
    plain = read_dicom(RAMP_12_BIT, **WINDOW)
    assert len(np.unique(plain)) < 70  # a window of a quarter of the range
    assert (read_dicom(RAMP_12_BIT, **{**WINDOW, **elements}) == plain).all()


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.int16, 63536), (np.int16, -2000), (np.uint16, -1), (np.uint16, 65535)]
)
def test_padding_is_recognised_in_either_sign(tmp_path, dtype, value):
    pixels = RAMP_12_BIT.astype(dtype)
    pixels[0] = np.array(value).astype(dtype)
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom_bytes(pixels))
    from pydicom import dcmread

    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    dataset.save_as(path)
    grey = read_image(path)
    assert (grey[0] == 0).all()
    assert (grey[1].min(), grey.max()) == (0, 255)


def test_look_up_tables_of_any_declared_depth_and_length(read_dicom):
    entries = (4095 - np.arange(4096)).tolist()
    for depth in (12, 16):
        grey = read_dicom(RAMP_12_BIT, **TWELVE, ModalityLUTSequence=lut(entries, 0, depth))
        assert (grey == 255 - RAMP).all()
    short = lut(list(range(3000)), 0, 12)
    short[0].LUTDescriptor = [4096, 0, 12]
    grey = read_dicom(RAMP_12_BIT, **TWELVE, VOILUTSequence=short)
    assert np.abs(grey - np.minimum(RAMP_12_BIT, 2999) / 2999 * 255.0).max() < 0.51


def test_a_deflated_file_that_inflates_beyond_measure_is_rejected(tmp_path, monkeypatch):
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset = dcmread(io.BytesIO(dicom_bytes(np.zeros((600, 600), np.uint16))))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert read_image(tmp_path / "a.dcm").shape == (600, 600)
    monkeypatch.setattr("medslip.data.dicom._MAX_INFLATED", 1 << 16)
    for read in (read_header, read_image):
        with pytest.raises(InputError, match=r"a\.dcm: decompresses to more data than a radiograph can have"):
            read(tmp_path / "a.dcm")


def write_png16(path: Path, samples: np.ndarray) -> Path:
    """H x W x C unsigned 16-bit samples; Pillow writes none with several channels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = samples.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bit_samples_are_scaled_alike_whatever_the_colour_type(tmp_path, channels, bits):
    """A 12-bit radiograph saved as RGB would come out almost black."""
    values = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)
    samples = np.stack([values] * channels, axis=-1)
    if channels in (2, 4):
        samples[..., -1] = 65535
    assert (read_image(write_png16(tmp_path / "a.png", samples)) == RAMP).all()


def test_a_damaged_png_of_sixteen_bit_colours_is_one_line(tmp_path):
    """libpng, as torchvision calls it, ends the process at a wrong checksum."""
    path = write_png16(tmp_path / "a.png", np.full((16, 16, 3), 70, np.uint16))
    content = path.read_bytes()
    for place in range(33, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with suppress(InputError):
            read_image(path)


def test_a_long_text_in_a_png_does_not_hide_its_image(tmp_path):
    info = PngInfo()
    info.add_text("Comment", "x" * (2 << 20), zip=True)
    assert (read_image(save(tmp_path / "a.png", Image.fromarray(RAMP), pnginfo=info)) == RAMP).all()


def test_an_orientation_that_is_text_is_ignored(tmp_path):
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 2, 4, b"top\0", 0)
    path = save(tmp_path / "a.jpg", Image.fromarray(RAMP[:8]), exif=exif, quality=100)
    assert read_image(path).shape == (8, 16)
    assert (read_header(path).height, read_header(path).width) == (8, 16)


@pytest.mark.parametrize(
    ("case", "reference"),
    [("overlay_bits/j2k.dcm", "overlay_bits/reference.dcm"), ("high_bit/12_of_16_high15.dcm", "high_bit/reference.dcm"),
     ("voi_function_empty/in.dcm", "voi_function_empty/linear.dcm"), ("png_kinds/rgb16_12bit.png", "png_kinds/u16_12bit.png"),
     ("padding_signed/wrong_vr.dcm", "padding_signed/explicit.dcm"), ("rescale_empty/in.dcm", "rescale_empty/reference.dcm"),
     ("voi_lut_empty/in.dcm", "voi_lut_empty/no_item.dcm"), ("modality_lut_12/in.dcm", "modality_lut_12/reference16.dcm"),
     ("png_text/ztxt_2MB.png", "png_text/reference.png")],
)  # fmt: skip
def test_shared_cases_equal_their_references(shared, case, reference):
    assert (read_image(shared / "cases" / case) == read_image(shared / "cases" / reference)).all()


# Headers


@pytest.mark.parametrize(
    ("text", "age"),
    [("043Y", 43), ("006M", 0.5), ("52w", 1), ("43", 43), ("43.5", 43.5), ("148Y", None), ("411", None), ("-3", None),
     ("Y", None), ("old", None), ("", None), ("nan", None)],
)  # fmt: skip
def test_ages(text, age):
    """148 years, in published headers, would be a group of its own."""
    assert years(text) == age if age is not None else np.isnan(years(text))


def test_a_picture_that_is_called_dcm_is_a_picture(tmp_path):
    save(tmp_path / "a.png", Image.fromarray(RAMP)).rename(tmp_path / "a.dcm")
    assert (read_image(tmp_path / "a.dcm") == RAMP).all()
    assert read_header(tmp_path / "a.dcm").height == 16


def test_a_picture_larger_than_a_radiograph_is_rejected_before_decoding(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(RAMP))
    monkeypatch.setattr("medslip.data.images.MAX_PIXELS", 100)
    for read in (read_header, read_image):
        with pytest.raises(InputError, match=r"a\.png: too many pixels for a radiograph"):
            read(path)


@pytest.mark.parametrize(
    ("missing", "words", "read"),
    [
        ("PixelData", "pixel data", read_header),
        ("Rows", "rows and columns", read_header),
        ("PixelData", "", read_image),
    ],
)
def test_a_dicom_file_without_an_image_is_refused(tmp_path, missing, words, read):
    """A report or a stripped file would be found only when its pixels are wanted, hours later."""
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(dicom_bytes(RAMP, PatientID="p1")))
    del dataset[missing]
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match=rf"a\.dcm: contains no image.*{words}"):
        read(tmp_path / "a.dcm")
    (tmp_path / "whole.dcm").write_bytes(dicom_bytes(RAMP[:8], PatientID="p1"))
    header = read_header(tmp_path / "whole.dcm")
    assert (header.patient, header.height, header.width) == ("p1", 8, 16)
