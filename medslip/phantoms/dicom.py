"""Writes phantoms as DICOM files."""

from __future__ import annotations

import io
import math
from pathlib import Path

from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, JPEGBaseline8Bit, generate_uid

from medslip.data.images import Grey, Header

QUALITY = 92  # of JPEG


def write_dicom(path: Path, pixels: Grey, header: Header, uid: str) -> None:
    """Write a radiograph, bones bright, as RSNA and SIIM-ACR publish theirs; equal inputs give equal bytes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.Modality = uid, "DX"
    dataset.PatientID, dataset.PatientSex, dataset.ViewPosition = header.patient, header.sex, header.view
    dataset.PatientAge = "" if math.isnan(header.age) else f"{round(header.age):03d}Y"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    dataset.PixelData = encapsulate([file.getvalue()])
    dataset.LossyImageCompression = "01"
    dataset["PixelData"].VR = "OB"
    dcmwrite(path, dataset, enforce_file_format=True)


def uid_of(name: str) -> str:
    """A DICOM UID derived from a name."""
    return str(generate_uid(entropy_srcs=[name]))
