"""Writes phantoms as DICOM files."""

from __future__ import annotations

import io
import math
from pathlib import Path

from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from medslip.data.images import Grey, Header


def write_dicom(path: Path, pixels: Grey, header: Header, uid: str, quality: int = 0) -> None:
    """Write a radiograph as a MONOCHROME2 DICOM file; equal inputs give equal bytes.

    Args:
        path: The file. Its directory must exist.
        pixels: H x W, bones bright.
        header: Patient, sex, age and view; the size is that of the pixels.
        uid: Of the file; see ``uid_of``.
        quality: 1 to 100 compresses the pixels as baseline JPEG, as RSNA and SIIM-ACR publish theirs; 0 does not compress.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if quality else ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.Modality = uid, "DX"
    dataset.PatientID, dataset.PatientSex, dataset.ViewPosition = header.patient, header.sex, header.view
    dataset.PatientAge = "" if math.isnan(header.age) else f"{round(header.age):03d}Y"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    if quality:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        dataset.PixelData = encapsulate([file.getvalue()])
        dataset.LossyImageCompression = "01"
    else:
        raw = pixels.tobytes()
        dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB"
    dcmwrite(path, dataset, enforce_file_format=True)


def uid_of(name: str) -> str:
    """A DICOM UID derived from a name."""
    return str(generate_uid(entropy_srcs=[name]))
