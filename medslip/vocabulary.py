"""The model's vocabulary: 51 anatomies, 75 pathologies, their prompts, and the classes of public data sets.

The order of both lists is the order of rows and columns in every label matrix, the published ones included
(source: Fan et al., arXiv 2403.10635, and the authors' prepared data).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from medslip.errors import InputError
from medslip.files import read_json

ANATOMIES: tuple[str, ...] = (
    "trachea", "left_hilar", "right_hilar", "hilar_unspec", "left_pleural", "right_pleural", "pleural_unspec",
    "heart_size", "heart_border", "left_diaphragm", "right_diaphragm", "diaphragm_unspec", "retrocardiac",
    "lower_left_lobe", "upper_left_lobe", "lower_right_lobe", "middle_right_lobe", "upper_right_lobe",
    "left_lower_lung", "left_mid_lung", "left_upper_lung", "left_apical_lung", "left_lung_unspec",
    "right_lower_lung", "right_mid_lung", "right_upper_lung", "right_apical_lung", "right_lung_unspec",
    "lung_apices", "lung_bases", "left_costophrenic", "right_costophrenic", "costophrenic_unspec",
    "cardiophrenic_sulcus", "mediastinal", "spine", "clavicle", "rib", "stomach", "right_atrium",
    "right_ventricle", "aorta", "svc", "interstitium", "parenchymal", "cavoatrial_junction", "cardiopulmonary",
    "pulmonary", "lung_volumes", "unspecified", "other",
)  # fmt: skip

PATHOLOGIES: tuple[str, ...] = (
    "normal", "clear", "sharp", "sharply", "unremarkable", "intact", "stable", "free", "effusion", "opacity",
    "pneumothorax", "edema", "atelectasis", "tube", "consolidation", "process", "abnormality", "enlarge", "tip",
    "low", "pneumonia", "line", "congestion", "catheter", "cardiomegaly", "fracture", "air", "tortuous", "lead",
    "disease", "calcification", "prominence", "device", "engorgement", "picc", "clip", "elevation", "expand",
    "nodule", "wire", "fluid", "degenerative", "pacemaker", "thicken", "marking", "scar", "hyperinflate", "blunt",
    "loss", "widen", "collapse", "density", "emphysema", "aerate", "mass", "crowd", "infiltrate", "obscure",
    "deformity", "hernia", "drainage", "distention", "shift", "stent", "pressure", "lesion", "finding",
    "borderline", "hardware", "dilation", "chf", "redistribution", "aspiration", "tail_abnorm_obs",
    "excluded_obs",
)  # fmt: skip

NORMALITY: frozenset[str] = frozenset(PATHOLOGIES[:8])
"""The findings of normality: "present" means that nothing is wrong."""

FINDINGS: tuple[str, ...] = tuple(name for name in PATHOLOGIES if name not in {*NORMALITY, "excluded_obs"})
"""The pathologies that can be queried: neither normality nor the words of change and degree."""

FINDING_GROUPS: dict[str, tuple[str, ...]] = {
    "Lungs": (
        "opacity", "consolidation", "infiltrate", "pneumonia", "aspiration", "atelectasis", "collapse", "edema", "nodule",
        "mass", "lesion", "density", "emphysema", "hyperinflate", "scar", "marking", "crowd", "loss", "low", "expand", "aerate",
    ),
    "Pleura and diaphragm": (
        "effusion", "fluid", "pneumothorax", "air", "thicken", "blunt", "obscure", "elevation", "hernia", "distention",
    ),
    "Heart and vessels": (
        "cardiomegaly", "enlarge", "borderline", "chf", "congestion", "engorgement", "redistribution", "pressure", "widen",
        "tortuous", "dilation", "prominence", "shift",
    ),
    "Bones and calcium": ("fracture", "deformity", "degenerative", "calcification"),
    "Lines, tubes and devices": (
        "tube", "line", "catheter", "picc", "tip", "drainage", "pacemaker", "lead", "device", "wire", "clip", "stent",
        "hardware",
    ),
    "General words": ("abnormality", "finding", "disease", "process", "tail_abnorm_obs"),
}  # fmt: skip
"""The findings, as a reader looks them up."""

NO_PARTNER: frozenset[str] = frozenset({"middle_right_lobe", "right_atrium", "right_ventricle"})
"""One-sided anatomies without a partner on the other side: after a horizontal flip they are unknown."""

CLASS_PATHOLOGIES: dict[str, str] = {
    # NIH ChestX-ray14, in the publisher's order; Fibrosis by the authors' catch-all.
    "Atelectasis": "atelectasis", "Cardiomegaly": "cardiomegaly", "Effusion": "effusion",
    "Infiltration": "infiltrate", "Mass": "mass", "Nodule": "nodule", "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax", "Consolidation": "consolidation", "Edema": "edema",
    "Emphysema": "emphysema", "Fibrosis": "tail_abnorm_obs", "Pleural_Thickening": "thicken",
    "Hernia": "hernia",
    # CheXpert and CheXlocalize.
    "Enlarged Cardiomediastinum": "enlarge", "Lung Opacity": "opacity", "Airspace Opacity": "opacity",
    "Lung Lesion": "lesion", "Pleural Effusion": "effusion", "Pleural Other": "thicken", "Support Devices": "device",
    # VinDr-CXR.
    "Aortic enlargement": "enlarge", "Nodule/Mass": "nodule", "Other lesion": "lesion", "Rib fracture": "fracture",
    "Clavicle fracture": "fracture", "Mediastinal shift": "shift", "Pulmonary fibrosis": "tail_abnorm_obs",
    # CXR-LT and NIH-LT.
    "Calcification of the Aorta": "calcification", "Tortuous Aorta": "tortuous", "Lobar Atelectasis": "collapse",
    "Round(ed) Atelectasis": "atelectasis",
    # PadChest, OpenI and Google's labels of ChestX-ray14, as torchxrayvision names them.
    "Air Trapping": "hyperinflate", "Aortic Atheromatosis": "calcification", "Aortic Elongation": "tortuous",
    "Calcified Granuloma": "calcification", "Costophrenic Angle Blunting": "blunt", "Hemidiaphragm Elevation": "elevation",
    "Nodule or mass": "nodule",
    # Other spellings.
    "Pleural Thicken": "thicken", "Hiatal Hernia": "hernia",
}  # fmt: skip
"""Class of a public data set -> pathology that it is queried by; a class may also be named after a pathology."""

CLASS_ANATOMIES: dict[str, str] = {
    # Chest ImaGenome. Where the vocabulary has one anatomy for several objects, such as both clavicles, it stands for all.
    "left lung": "left_lung_unspec", "right lung": "right_lung_unspec",
    "left upper lung zone": "left_upper_lung", "right upper lung zone": "right_upper_lung",
    "left mid lung zone": "left_mid_lung", "right mid lung zone": "right_mid_lung",
    "left lower lung zone": "left_lower_lung", "right lower lung zone": "right_lower_lung",
    "left apical zone": "left_apical_lung", "right apical zone": "right_apical_lung",
    "left hilar structures": "left_hilar", "right hilar structures": "right_hilar",
    "left costophrenic angle": "left_costophrenic", "right costophrenic angle": "right_costophrenic",
    "left cardiophrenic angle": "cardiophrenic_sulcus", "right cardiophrenic angle": "cardiophrenic_sulcus",
    "left hemidiaphragm": "left_diaphragm", "right hemidiaphragm": "right_diaphragm",
    "left clavicle": "clavicle", "right clavicle": "clavicle", "mediastinum": "mediastinal",
    "cardiac silhouette": "heart_size", "aortic arch": "aorta", "descending aorta": "aorta",
}  # fmt: skip
"""Class of a public data set -> anatomy that it is queried by; a class may also be named after an anatomy."""

CXR14_CLASSES: tuple[str, ...] = tuple(CLASS_PATHOLOGIES)[:14]
"""The classes of NIH ChestX-ray14, in the publisher's order."""

CLASS_PROMPTS: dict[str, str] = {
    "Fibrosis": "Fibrosis: scarring of the lung, seen as coarse reticular lines, honeycombing and loss of volume.",
    "COVID-19": "COVID-19: viral pneumonia, seen as hazy ground-glass opacities in both lungs, mostly at the edges and bases.",
    # CXR-LT and NIH-LT.
    "Adenopathy": "Adenopathy: enlarged lymph nodes, seen as lobulated widening of the hila or the mediastinum.",
    "Azygos Lobe": "Azygos Lobe: a fine curved line through the right upper lung that ends in a small round shadow.",
    "Bulla": "Bulla: a round air space in the lung with a thin wall and no vessels inside.",
    "Cardiomyopathy": "Cardiomyopathy: a globally enlarged heart, often with congested lung vessels.",
    "Fissure": "Fissure: a thickened or displaced line between two lobes of a lung.",
    "Granuloma": "Granuloma: a small, round, dense and often calcified nodule in the lung.",
    "Hilum": "Hilum: an enlarged or dense hilum.",
    "Hydropneumothorax": "Hydropneumothorax: air and fluid in the pleural space, seen as a straight level between them.",
    "Infarction": "Infarction: a wedge-shaped opacity that touches the pleura, from a blocked pulmonary artery.",
    "Kyphosis": "Kyphosis: a thoracic spine that is bent forward.",
    "Osteopenia": "Osteopenia: bones that are less dense than normal.",
    "Pneumomediastinum": "Pneumomediastinum: air in the mediastinum, seen as dark lines along the heart and the great vessels.",
    "Pneumoperitoneum": "Pneumoperitoneum: free air in the abdomen, seen as a dark crescent below the diaphragm.",
    "Pulmonary Embolism": "Pulmonary Embolism: a blocked pulmonary artery, seen as a region of the lung with few vessels.",
    "Pulmonary Hypertension": "Pulmonary Hypertension: wide central pulmonary arteries that narrow abruptly.",
    "Scoliosis": "Scoliosis: a spine that is curved to one side.",
    "Subcutaneous Emphysema": "Subcutaneous Emphysema: air in the soft tissue of chest wall and neck, seen as dark streaks.",
    # torchxrayvision.
    "Bronchiectasis": "Bronchiectasis: wide bronchi with thick walls, seen as parallel lines and rings in the lungs.",
    "Flattened Diaphragm": "Flattened Diaphragm: a diaphragm without its dome, from overinflated lungs.",
    "Hilar Enlargement": "Hilar Enlargement: a large and dense hilum, from lymph nodes or wide arteries.",
    "ILD": "ILD: interstitial lung disease, seen as fine lines, nets and small nodules in both lungs.",
    "Tuberculosis": "Tuberculosis: opacities, cavities or scars, mostly in the upper lungs.",
}
"""Free-text queries for classes of public data sets that the vocabulary has no pathology for."""


def class_key(name: str) -> str:
    """A class name without case, blanks and punctuation: "Pleural Effusion" and "pleural_effusion" are one class."""
    return "".join(character for character in name.lower() if character.isalnum())


_PATHOLOGY_OF = {
    **{class_key(name): name for name in PATHOLOGIES},
    **{class_key(name): pathology for name, pathology in CLASS_PATHOLOGIES.items()},
}
_ANATOMY_OF = {
    **{class_key(name): name for name in ANATOMIES},
    **{class_key(name): anatomy for name, anatomy in CLASS_ANATOMIES.items()},
}


def pathology_of(name: str) -> str | None:
    """The pathology that a class name stands for, as effusion for "Pleural Effusion"; None if there is none."""
    return _PATHOLOGY_OF.get(class_key(name))


def anatomy_of(name: str) -> str | None:
    """The anatomy that a class name stands for, as left_costophrenic for "left costophrenic angle"; None if there is none."""
    return _ANATOMY_OF.get(class_key(name))


def class_queries(
    classes: Sequence[str],
    mapping: Mapping[str, str],
    source: str,
    known: Collection[str] = (*PATHOLOGIES, *ANATOMIES),
    what: str = "pathology or an anatomy",
) -> list[str]:
    """The pathology or anatomy that each class is queried by: from the mapping, else by its name.

    Raises:
        InputError: A class is neither mapped nor known by name, or is mapped to something else.
    """
    queries = []
    for name in classes:
        query = mapping.get(name) or next(
            (query for query in (pathology_of(name), anatomy_of(name)) if query in known), None
        )
        if query is None:
            raise InputError(
                f"{source}: unknown class {name!r}; map it to a {what} (key data.classes), as in {{{name}: opacity}}, or "
                "leave it out with an empty text"
            )
        if query not in known:
            raise InputError(f"{source}: class {name!r} is mapped to {query!r}, which is not a {what}")
        queries.append(query)
    return queries


def class_pathologies(classes: Sequence[str], mapping: Mapping[str, str], source: str) -> list[str]:
    """As ``class_queries``, pathologies only."""
    return class_queries(classes, mapping, source, PATHOLOGIES, "pathology")


def anatomy_index(name: str) -> int:
    """Row of an anatomy in the label matrix, 0..50.

    Raises:
        InputError: The name is not one of the 51.
    """
    return _index(name, ANATOMIES, "anatomy")


def pathology_index(name: str) -> int:
    """Column of a pathology in the label matrix, 0..74.

    Raises:
        InputError: The name is not one of the 75.
    """
    return _index(name, PATHOLOGIES, "pathology")


def _index(name: str, names: Sequence[str], what: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise InputError(f"unknown {what} {name!r}: not one of the {len(names)} in medslip/vocabulary.py") from None


def _mirror(name: str) -> int:
    if name in NO_PARTNER:
        return -1
    for side, other in (("left", "right"), ("right", "left")):
        parts = [other if part == side else part for part in name.split("_")]
        if "_".join(parts) != name:
            return ANATOMIES.index("_".join(parts))
    return ANATOMIES.index(name)


MIRRORED_ANATOMY: tuple[int, ...] = tuple(_mirror(name) for name in ANATOMIES)
"""For each anatomy, the row that it becomes in a mirrored image; -1 where it becomes unknown."""


@dataclass(frozen=True)
class Prompts:
    """The texts that the frozen BERT embeds, one per query, in vocabulary order.

    Attributes:
        pathology: P explanations of a sentence or two.
        anatomy: A location sentences.
    """

    pathology: tuple[str, ...]
    anatomy: tuple[str, ...]


def load_prompts(pathology_file: Path | None = None, anatomy_file: Path | None = None) -> Prompts:
    """The packaged prompts, or those of a user.

    A prompt file is a JSON object {name: text} or a JSON list of texts, in vocabulary order. The authors'
    "observation explanation.json" can be used unchanged: one of its keys is misspelt, so the order decides.

    Args:
        pathology_file: 75 explanations; None takes the packaged ones.
        anatomy_file: 51 location texts; None takes the packaged ones.

    Raises:
        InputError: A file is missing, is not JSON, or has another number or order of texts.
    """
    return Prompts(
        pathology=_read_prompts(pathology_file, "pathology_prompts.json", PATHOLOGIES),
        anatomy=_read_prompts(anatomy_file, "anatomy_prompts.json", ANATOMIES),
    )


def load_paraphrases() -> dict[str, list[str]]:
    """Pathology -> five further wordings of its prompt, for the findings of the public data sets and of the phantoms."""
    texts: dict[str, list[str]] = read_json(_packaged("pathology_paraphrases.json"), "install the package again")
    return texts


def _packaged(name: str) -> Path:
    return Path(str(resources.files("medslip.resources").joinpath(name)))


def _read_prompts(path: Path | None, packaged: str, names: Sequence[str]) -> tuple[str, ...]:
    source = _packaged(packaged) if path is None else path
    data = read_json(source, "give a JSON file of prompts")
    keys, texts = (list(data), list(data.values())) if isinstance(data, dict) else ([], data)
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{source}: every prompt must be a non-empty text")
    if len(texts) != len(names):
        raise InputError(f"{source}: has {len(texts)} prompts, but the vocabulary has {len(names)} entries")
    for position, (key, name) in enumerate(zip(keys, names, strict=False), 1):
        if key in names and key != name:
            raise InputError(
                f"{source}: key {position} is {key!r} where the vocabulary has {name!r}; put the prompts in vocabulary order"
            )
    return tuple(texts)
