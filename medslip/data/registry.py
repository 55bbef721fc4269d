"""The data sets by name: what ``data.kind`` may be."""

from __future__ import annotations

import importlib

from medslip.data.dataset import DataSet
from medslip.errors import InputError

DATA_SETS = {
    "authors": "authors:AuthorsFiles",
    "chest_imagenome": "chest_imagenome:ChestImaGenome",
    "chexpert": "chexpert:CheXpert",
    "coco": "coco:Coco",
    "covidx": "covidx:Covidx",
    "csv": "csv_table:CsvTable",
    "cxr14": "cxr14:Cxr14",
    "folder": "folder:Folder",
    "mimic": "mimic_cxr:MimicCxr",
    "ms_cxr": "ms_cxr:MsCxr",
    "openi": "openi:OpenI",
    "prepared": "prepared:Prepared",
    "reports": "reports:Reports",
    "rsna": "rsna:Rsna",
    "siim_acr": "siim_acr:SiimAcr",
    "xrv": "xrv:TorchXRayVision",
}
"""Kind -> module in medslip.data.datasets and class; a module is imported when its data set is first used."""


def data_set(kind: str) -> type[DataSet]:
    """The data set of a kind.

    Raises:
        InputError: There is no such kind.
    """
    if kind not in DATA_SETS:
        raise InputError(f"unknown kind of data {kind!r}; choose one of {', '.join(DATA_SETS)}")
    module, _, name = DATA_SETS[kind].partition(":")
    found: type[DataSet] = getattr(importlib.import_module(f"medslip.data.datasets.{module}"), name)
    return found
