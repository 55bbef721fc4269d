"""The order of names is the order of every label matrix on disk: a change here would silently relabel all data."""

import json

import pytest

from medslip.errors import InputError
from medslip.vocabulary import (
    ANATOMIES,
    CLASS_ANATOMIES,
    CLASS_PATHOLOGIES,
    CLASS_PROMPTS,
    CXR14_CLASSES,
    FINDING_GROUPS,
    FINDINGS,
    MIRRORED_ANATOMY,
    NO_PARTNER,
    NORMALITY,
    PATHOLOGIES,
    anatomy_index,
    anatomy_of,
    class_pathologies,
    class_queries,
    load_paraphrases,
    load_prompts,
    pathology_index,
    pathology_of,
)


def test_each_finding_is_in_one_group():
    """A finding without a group would be missing where findings are shown by group."""
    assert sorted(name for group in FINDING_GROUPS.values() for name in group) == sorted(FINDINGS)


def test_names_are_those_of_the_published_matrices():
    """Another number, order or a name twice would shift rows or columns of the published label matrices."""
    assert (len(ANATOMIES), len(set(ANATOMIES))) == (51, 51)
    assert (len(PATHOLOGIES), len(set(PATHOLOGIES))) == (75, 75)
    assert [ANATOMIES[i] for i in (0, 4, 17, 34, 49, 50)] == [
        "trachea", "left_pleural", "upper_right_lobe", "mediastinal", "unspecified", "other",
    ]  # fmt: skip
    assert [PATHOLOGIES[i] for i in (0, 7, 8, 10, 20, 24, 54, 73, 74)] == [
        "normal", "free", "effusion", "pneumothorax", "pneumonia", "cardiomegaly", "mass", "tail_abnorm_obs",
        "excluded_obs",
    ]  # fmt: skip
    assert "effusion" not in NORMALITY
    assert {"normal", "clear", "free"} <= NORMALITY


def test_indices_are_positions_and_unknown_names_are_bad_input():
    assert [anatomy_index(name) for name in ANATOMIES] == list(range(51))
    assert [pathology_index(name) for name in PATHOLOGIES] == list(range(75))
    with pytest.raises(InputError, match="unknown anatomy 'knee'"):
        anatomy_index("knee")
    with pytest.raises(InputError, match="unknown pathology 'Effusion'"):
        pathology_index("Effusion")


def test_mirroring_twice_is_no_mirroring():
    """Otherwise a flipped image would carry the label of a third place."""
    for index, mirrored in enumerate(MIRRORED_ANATOMY):
        assert mirrored == -1 or MIRRORED_ANATOMY[mirrored] == index


def test_mirroring_exchanges_sides_and_nothing_else():
    for name, mirrored in zip(ANATOMIES, MIRRORED_ANATOMY, strict=True):
        if name in NO_PARTNER:
            assert mirrored == -1, name
        elif "left" in name or "right" in name:
            exchanged = {"left": "right", "right": "left"}
            assert ANATOMIES[mirrored] == "_".join(exchanged.get(part, part) for part in name.split("_"))
        else:
            assert ANATOMIES[mirrored] == name
    assert sum(mirrored == -1 for mirrored in MIRRORED_ANATOMY) == 3


def test_every_chestxray14_class_can_be_asked():
    assert len(CXR14_CLASSES) == 14
    assert set(CLASS_PATHOLOGIES.values()) <= set(PATHOLOGIES)
    assert all(text.startswith(f"{name}:") for name, text in CLASS_PROMPTS.items())
    assert "Fibrosis" in CLASS_PROMPTS


def _write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_own_prompt_files_replace_the_packaged_ones(tmp_path):
    anatomy = _write(tmp_path / "anatomy.json", [f"It is at {name}." for name in ANATOMIES])
    prompts = load_prompts(anatomy_file=anatomy)
    assert prompts.anatomy[4] == "It is at left_pleural."
    assert prompts.pathology == load_prompts().pathology


def test_published_file_with_its_misspelt_key_is_accepted(tmp_path):
    """Users have the authors' file as it is; its 'eumonia' stands where pneumonia belongs."""
    explained = {"eumonia" if name == "pneumonia" else name: f"What {name} is." for name in PATHOLOGIES}
    prompts = load_prompts(_write(tmp_path / "observation explanation.json", explained))
    assert prompts.pathology[PATHOLOGIES.index("pneumonia")] == "What pneumonia is."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (dict.fromkeys(PATHOLOGIES[:74], "text"), "has 74 prompts, but the vocabulary has 75"),
        (["text"] * 76, "has 76 prompts"),
        (dict.fromkeys(sorted(PATHOLOGIES), "text"), "key 1 is 'abnormality' where the vocabulary has 'normal'"),
        ({name: name if name != "edema" else " " for name in PATHOLOGIES}, "non-empty"),
        (dict.fromkeys(PATHOLOGIES, 3), "must be a non-empty text"),
        ('"a text"', "must be a non-empty text"),
        ('{"normal": ', "not a complete JSON file"),
    ],
)
def test_unusable_prompt_file_is_one_line_that_names_it(tmp_path, content, words):
    """Prompts in another order would teach every query the meaning of its neighbour."""
    path = _write(tmp_path / "prompts.json", content)
    with pytest.raises(InputError, match=words) as refused:
        load_prompts(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["none.json", "."])
def test_prompt_file_that_is_none_is_bad_input(tmp_path, name):
    with pytest.raises(InputError, match="prompt"):
        load_prompts(tmp_path / name)


def test_class_names_that_stand_for_pathologies() -> None:
    assert [pathology_of(name) for name in ("Pleural_Thickening", "Pleural Effusion", "EDEMA", "COVID-19")] == [
        "thicken", "effusion", "edema", None,
    ]  # fmt: skip
    for name, pathology in CLASS_PATHOLOGIES.items():
        assert pathology_of(name) == pathology


def test_every_named_object_has_an_anatomy_and_no_name_means_two_things() -> None:
    """A box of a lung would be looked for among the pathologies, or not at all."""
    assert set(CLASS_ANATOMIES.values()) <= set(ANATOMIES)
    assert anatomy_of("Left Costophrenic Angle") == "left_costophrenic"
    assert not {name for name in (*ANATOMIES, *CLASS_ANATOMIES) if pathology_of(name)}
    names = ["Pleural Effusion", "cardiac silhouette", "trachea", "Glow"]
    assert class_queries(names, {"Glow": "spine"}, "") == ["effusion", "heart_size", "trachea", "spine"]
    with pytest.raises(InputError, match="'spine', which is not a pathology"):
        class_pathologies(["Glow"], {"Glow": "spine"}, "")


def test_unknown_classes_and_pathologies_are_refused() -> None:
    assert class_pathologies(["x", "mass"], {"x": "opacity"}, "t") == ["opacity", "mass"]
    with pytest.raises(InputError, match="t: unknown class 'x'; map it"):
        class_pathologies(["x"], {}, "t")
    with pytest.raises(InputError, match="'shadow', which is not a pathology"):
        class_pathologies(["x"], {"x": "shadow"}, "t")


def test_paraphrases_cover_the_classes_of_the_data_sets_in_distinct_words() -> None:
    """An ensemble would count a wording twice, or leave a class of a public data set with one."""
    paraphrases = load_paraphrases()
    assert set(CLASS_PATHOLOGIES.values()) <= set(paraphrases) <= set(PATHOLOGIES)
    texts = [text for of_name in paraphrases.values() for text in of_name] + list(load_prompts().pathology)
    assert all(len(of_name) == 5 for of_name in paraphrases.values())
    assert len(set(texts)) == len(texts)
