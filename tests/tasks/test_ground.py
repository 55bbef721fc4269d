"""Grounding end to end: from images with boxes to a run folder, and what is refused on the way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

from medslip import predictor as predictor_module
from medslip.cli import run_task
from medslip.config import phantom_config
from medslip.data.datasets.coco import Coco
from medslip.data.images import read_image
from medslip.data.loading import evaluation_loader
from medslip.data.registry import data_set
from medslip.data.table import FINDING_COLUMNS, ImageTable
from medslip.errors import InputError
from medslip.evaluation import paired, subgroups
from medslip.evaluation.grounding import mean_box_grid
from medslip.evaluation.grounding_scores import ALL, SCORES
from medslip.model.image_encoder import Streams
from medslip.predictor import Predictor
from medslip.tasks import ground
from medslip.tasks.ground import GroundConfig
from medslip.vocabulary import CLASS_ANATOMIES


def drawn(corpus: Path, split: str) -> pd.DataFrame:
    """The findings of a split: pathology, patient, image and more."""
    studies = pd.read_csv(corpus / "findings.csv")[["study", "patient"]]
    findings = pd.read_json(corpus / "findings.jsonl", lines=True).merge(studies, on="study")
    return findings[findings["split"] == split].assign(image=lambda rows: [corpus / image for image in rows["image"]])


@pytest.fixture
def config(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> GroundConfig:
    made = phantom_config(GroundConfig, "ground", corpus, checkpoint=tiny_checkpoint, output=tmp_path / "run")
    return replace(made, resamples=20, workers=0, device="cpu")


def test_run_folder_holds_scores_of_every_finding(config, corpus, capsys, estimates_of):
    """A finding, a chance level, or a file would be missing."""
    scores = ground.run(config)["scores"]
    findings = drawn(corpus, "test")
    assert scores[(scores["class"] == ALL) & (scores["map"] == "model")]["cases"].sum() == len(findings)
    table = pd.read_csv(config.output / "predictions.csv")
    assert sorted(table["class"]) == sorted(findings["pathology"])
    patients = findings.set_index("image")["patient"].groupby(level=0).first()
    named = table.assign(truth=[patients[Path(image)] for image in table["image"]]).groupby("truth")["patient"]
    assert (named.nunique() == 1).all()  # a name per patient
    assert table["patient"].nunique() == len(named)
    metrics = json.loads((config.output / "metrics.json").read_text())
    assert set(metrics["thresholds"]) == {"model", "uniform", "prior"}
    large = table[table["larger_than_a_patch"] == 1]
    places = estimates_of(config.output)
    assert {f"/scores/larger all findings prior/{score}" for score in SCORES} <= set(places)
    iou = places["/scores/larger all findings prior/iou"]
    assert iou["value"] == pytest.approx(large["prior_iou"].mean(), abs=1e-5)
    assert (table["uniform_pixel_auroc"] == 0.5).all()
    confidences, found = (table[f"uniform_box_{name}"].astype(str).str.split() for name in ("confidences", "found"))
    assert confidences.map(len).tolist() == found.map(len).tolist() == [1] * len(table)
    sides = pd.DataFrame(metrics["sides"]).set_index("class")
    sided = table.dropna(subset="side")
    assert sides["cases"][ALL] == len(sided)
    right = (sided["left_icl"] > 0) == (sided["side"] == "left")
    assert sides["icl"][ALL]["value"] == pytest.approx(right.mean())
    groups = pd.DataFrame(metrics["subgroups"])
    assert list(groups["attribute"].unique()) == ["sex", "age", "view"]
    assert (groups.groupby("attribute")["images"].sum() == large["image"].nunique()).all()
    for figure in ("overlays.png", "box_precision_recall.png"):
        assert read_image(config.output / figure).size
    assert "all findings" in capsys.readouterr().out
    with pytest.raises(InputError, match="not empty"):
        ground.run(config)


def test_an_images_map_does_not_depend_on_its_batch(config, corpus, tiny_checkpoint):
    """A map scaled by its batch would change with the images beside it, and boxes with it."""
    images = ground.read_splits(config).scored
    predictor = Predictor.from_pretrained(tiny_checkpoint, device="cpu")
    together = ground.look(predictor, images, config)
    alone = ground.look(predictor, images.at([2]), config)
    start = sum(len(images.findings_of(index)) for index in (0, 1))
    for case, other in zip(alone, together[start:], strict=False):
        assert (case.path, case.finding) == (other.path, other.finding)
        assert np.allclose(case.seen.map.grid, other.seen.map.grid, atol=1e-6)


def test_the_product_with_the_anatomy_stream_is_another_map(config, tiny_checkpoint):
    """The option would do nothing."""
    images = ground.read_splits(config).scored.at([0])
    predictor = Predictor.from_pretrained(tiny_checkpoint, device="cpu")
    plain, product = (
        ground.look(predictor, images, replace(config, anatomy=anatomy))[0].seen.map.grid for anatomy in (False, True)
    )
    ratio = product / plain
    assert (ratio > 0).all()
    assert ratio.std() > 0
    one = ground.look(predictor, images, replace(config, heads=[1]))[0].seen.map.grid
    assert not np.allclose(one, plain)


def test_the_published_rule_and_the_probability_are_of_the_image_as_it_is(config, tiny_checkpoint):
    """With shifted copies the published rule would be of another map, and a probability not that of classification."""
    images = ground.read_splits(config).scored.at([0, 1])
    predictor = Predictor.from_pretrained(tiny_checkpoint, device="cpu")
    shifted, plain = (ground.look(predictor, images, replace(config, shifts=shifts)) for shifts in (2, 1))
    for fine, coarse in zip(shifted, plain, strict=True):
        assert np.allclose(fine.seen.map.patches, coarse.seen.map.patches, atol=1e-6)
        assert np.allclose(coarse.seen.map.patches, coarse.seen.map.grid, atol=1e-6)
        assert fine.seen.map.grid.shape[0] == 2 * coarse.seen.map.grid.shape[0]
        assert fine.seen.probability == pytest.approx(coarse.seen.probability, abs=1e-6)


@pytest.mark.parametrize(
    ("layout", "classes"),
    [
        ("cxr14", {"Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax"}),
        ("rsna", {"Pneumonia"}),
    ],
)
def test_boxes_of_publishers_layouts_are_grounded(config, corpus, layout, classes):
    """Boxes could not be scored, or their frame would be taken for the image's pixels."""
    data = data_set(layout)(corpus / layout, equalise=True)
    config = replace(config, data=data, validation=None, prior=None, aside=0.5, threshold=0.25)
    scores = ground.run(config, show=False)["class_scores"]
    metrics = json.loads((config.output / "metrics.json").read_text())
    assert metrics["thresholds"]["model"] == 0.25
    assert metrics["data"]["frame"] == [1024, 1024]
    assert set(scores["class"]) <= classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "[1]"], "layers: the checkpoint has 0 to 0, not 1"),
        (["--heads", "[-1]"], "not -1"),
        (["--threshold", "1.5"], "threshold: 1.5 is outside 0..1"),
        (["--box_iou", "0"], "box_iou"),
        (["--aside", "1"], "aside: 1.0 is not between 0 and 1"),
        (["--validation.kind=rsna", "--validation.equalise=true"], "validation.equalise: differs from data.equalise"),
        (["--data.path", "nowhere"], "nowhere: not found"),
    ],
)
def test_bad_input_is_one_line_and_status_2(config, tiny_checkpoint, corpus, arguments, message, capsys):
    """A traceback, or a run folder that is half-written."""
    given = ["--checkpoint", str(tiny_checkpoint), "--data.kind=coco", f"--data.path={corpus}/coco/test.json"]
    given += ["--output", str(config.output)]
    assert run_task("ground", [*given, "--workers", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not config.output.exists()


def test_a_class_that_no_pathology_answers_for_is_refused(config, corpus):
    images = ground.read_splits(config).scored.at([0])
    wrong = replace(images, findings=images.findings.assign(**{"class": "glow"}))
    with pytest.raises(InputError, match="unknown class 'glow'"):
        ground.look(Predictor.from_pretrained(config.checkpoint, device="cpu"), wrong, config)


def test_classes_are_mapped_and_left_out_of_the_validation_images_too(config):
    """A threshold would be chosen on findings that are not scored, or a mapping for the validation images would be ignored."""
    left_out = ground.read_splits(config).tuning.finding_classes[0]
    both = ground.read_splits(replace(config, data=replace(config.data, classes={left_out: ""})))
    assert left_out not in {*both.scored.finding_classes, *both.tuning.finding_classes}
    mapped = replace(config, validation=replace(config.validation, classes={"glow": "mass"}))
    tuning = ground.read_splits(mapped).tuning.at([0])
    glowing = replace(tuning, findings=tuning.findings.assign(**{"class": "glow"}))
    assert (
        ground.look(Predictor.from_pretrained(config.checkpoint, device="cpu"), glowing, mapped)[0].finding.label
        == "glow"
    )


def _on(config, corpus, kind, folder, **options):
    """The config with the phantoms in the layout of a data set that has MIMIC-CXR's images."""
    made = [
        data_set(kind)(corpus / folder, images=corpus / "mimic_cxr", split=each, **options)
        for each in ("test", "valid")
    ]
    return replace(config, data=made[0], validation=made[1], prior=None, batch_size=3)


def test_anatomies_are_grounded_by_their_own_stream(config, corpus):
    """Boxes of anatomies would be scored against the maps of pathologies."""
    wanted = _on(config, corpus, "chest_imagenome", "chest_imagenome", boxes="silver")
    others = dict.fromkeys({*CLASS_ANATOMIES, "trachea"} - {"left lower lung zone", "cardiac silhouette"}, "")
    tables = ground.run(replace(wanted, data=replace(wanted.data, classes=others)), show=False)
    assert {"left_lower_lung", "heart_size", ALL} == set(tables["class_scores"]["class"]) | {ALL}
    predictions = pd.read_csv(config.output / "predictions.csv")
    row = predictions[predictions["class"] == "left_lower_lung"].iloc[0]
    found = Predictor.from_pretrained(config.checkpoint, device="cpu").ground(row["image"], "left lower lung zone")
    assert row["probability"] == pytest.approx(found.probability, abs=1e-5)
    assert "text" not in predictions
    with pytest.raises(InputError, match="anatomy: the model pairs anatomies with pathologies"):
        ground.look(Predictor.from_pretrained(config.checkpoint), wanted.data.read(), replace(wanted, anatomy=True))


def test_sentences_are_grounded_by_free_text(config, corpus, monkeypatch):
    """A sentence would be answered by its class, or by the sentence of another image; two runs could not be compared.

    Processes that decode images would be started again for every batch.
    """
    wanted = replace(_on(config, corpus, "ms_cxr", "ms_cxr"), batch_size=2)
    loaded = []
    monkeypatch.setattr(
        predictor_module, "evaluation_loader", lambda *given: loaded.append(1) or evaluation_loader(*given)
    )
    ground.run(wanted, show=False)
    assert len(loaded) == 2, "one for the scored images, one for the thresholds"
    predictions = pd.read_csv(config.output / "predictions.csv")
    written = pd.read_csv(corpus / "ms_cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv")
    assert sorted(predictions["text"]) == sorted(written.loc[written["split"] == "test", "label_text"])
    predictor = Predictor.from_pretrained(config.checkpoint, device="cpu")
    for row in predictions.iloc[[0, -1]].itertuples():
        assert row.probability == pytest.approx(predictor.ground(row.image, row.text).probability, abs=1e-5)
    metrics = json.loads((config.output / "metrics.json").read_text())
    run = paired.open_run(config.output, metrics)
    assert len(paired.match_runs(run, run).pairs[0][0]) == len(predictions)


def test_the_prior_shares_no_patient_with_the_scored_images(config):
    with pytest.raises(InputError, match="is in prior and in data"):
        ground.read_splits(replace(config, prior=config.data))


def test_thresholds_are_chosen_on_images_that_are_not_scored(config, corpus, monkeypatch):
    """IoU, Dice and boxes would be at the threshold that suits the very findings that they are scored on."""
    chosen_on = []
    thresholds = ground.choose_thresholds

    def spy(cases, baselines):
        chosen_on.extend(case.path for case in cases)
        return thresholds(cases, baselines)

    monkeypatch.setattr(ground, "choose_thresholds", spy)
    ground.run(config, show=False)
    assert sorted(chosen_on) == sorted(drawn(corpus, "valid")["image"])


def test_phantoms_are_divided_by_what_they_are_for(config, corpus):
    """The prior, or a threshold, would know the boxes that it is scored on."""
    splits = ground.read_splits(config)
    for images, split in ((splits.prior, "train"), (splits.tuning, "valid"), (splits.scored, "test")):
        assert set(images.paths) == set(drawn(corpus, split)["image"])


@pytest.mark.parametrize("layout", ["cxr14", "rsna"])
def test_patients_with_boxes_are_set_aside_for_prior_and_thresholds(corpus, layout):
    """The prior, or a threshold, would know the boxes of a patient who is scored."""
    data = data_set(layout)(corpus / layout)
    splits = ground.read_splits(GroundConfig(checkpoint=Path(), data=data, aside=0.5))
    everything = data.read()
    everything = everything.at(np.flatnonzero(everything.found()))
    scored = set(splits.scored.patients)
    for aside in (splits.prior, splits.tuning):
        assert len(aside)
        assert not set(aside.patients) & scored
        assert sorted([*aside.paths, *splits.scored.paths]) == sorted(everything.paths)


def test_the_prior_is_of_the_boxes_set_aside_for_it():
    """The chance level would be made from the boxes that it is scored on, and be out of reach."""

    def at(box):
        images = pd.DataFrame({"path": ["x.png"], "height": 32, "width": 32})
        found = pd.DataFrame([(0, "mass", *box, None)], columns=FINDING_COLUMNS)
        return ImageTable("x", images, findings=found)

    boxes = [(0, 0, 8, 8), (8, 8, 8, 8), (16, 16, 8, 8)]
    prior = ground.make_baselines(ground.Splits(*map(at, boxes)), 4)["prior"]["mass"]
    assert np.array_equal(prior.grid, mean_box_grid([(0, 0, 1 / 4, 1 / 4)], ground.PRIOR_SIDE))
    assert np.array_equal(prior.patches, mean_box_grid([(0, 0, 1 / 4, 1 / 4)], 4))


@pytest.mark.parametrize("shifts", [1, 2])
def test_the_map_is_highest_where_the_patch_is_centred(config, corpus, shifts):
    """Every map, scored and drawn, would lie half a patch too far down and to the right."""
    images = ground.read_splits(config).scored.at([0])
    attention = torch.full((1, 1, 1, 75, 16), 0.01)
    attention[..., 1 * 4 + 2] = 1.0  # in each copy the same patch: their mean is highest around its place in the image
    output = SimpleNamespace(
        maps=Streams(attention, attention[..., :51, :]),
        pathology_logits=torch.zeros(1, 75, 2),
        anatomy_logits=torch.zeros(1, 51, 2),
        icl_logits=torch.zeros(1, 51, 75),
    )
    predictor = Predictor.from_pretrained(config.checkpoint, device="cpu")
    predictor.patch_centre = 0.5 / 16
    predictor._shifted = lambda *given: (output, [output] * shifts**2)
    case = ground.look(predictor, images, replace(config, shifts=shifts))[0]
    scored = case.maps({})["model"].heat_map(*case.frame)
    for heat in (scored, ground._tile("best", case, 1.0).heat_map):
        top, left = (places.mean() for places in np.nonzero(heat > 1 - 1e-9))
        expected = ((1 + 0.5 / 16) * 16, (2 + 0.5 / 16) * 16)  # patches of 16 pixels in a frame of 64
        assert (top + 0.5, left + 0.5) == pytest.approx(expected, abs=0.51)


def test_findings_of_one_patient_are_resampled_together(config, corpus, tmp_path):
    """Two films of a patient would count as two patients, and intervals be too narrow."""
    shared = shutil.copytree(corpus, tmp_path / "corpus")
    data = json.loads((shared / "coco" / "test.json").read_text())
    for index, image in enumerate(data["images"]):
        image["patient"] = f"q{index // 2}"
    (shared / "coco" / "test.json").write_text(json.dumps(data))
    table = pd.DataFrame(data["images"]).rename(columns={"file_name": "image"})
    found = ground.run(replace(config, data=Coco(shared / "coco", split="test")), show=False)["scores"]
    patient = table.set_index("image")["patient"]
    scores = pd.read_csv(config.output / "predictions.csv")
    scores["patient"] = [patient[str(Path(image).relative_to(shared))] for image in scores["image"]]
    smaller = scores[scores["larger_than_a_patch"] == 0]
    patients = found[(found["findings"] == "smaller") & (found["class"] == ALL)]["patients"]
    assert set(patients) == {smaller["patient"].nunique()}
    assert smaller["patient"].nunique() < smaller["image"].nunique()
    metrics = json.loads((config.output / "metrics.json").read_text())
    assert metrics["data"]["patients"] == scores["patient"].nunique()


def test_no_patient_of_a_dicom_header_reaches_the_run_directory(config, corpus, tmp_path, capsys):
    """A hospital's numbers would be published with a run page."""
    rsna = Path(shutil.copytree(corpus / "rsna", tmp_path / "rsna"))
    for number, path in enumerate(sorted(rsna.rglob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = f"MRN-{number // 2}"
        dataset.save_as(path)
    data = data_set("rsna")(rsna)
    assert {patient[:4] for patient in data.read().patients} == {"MRN-"}
    ground.run(replace(config, data=data, validation=None, prior=None, aside=0.5))
    written = [path.read_bytes() for path in config.output.rglob("*") if path.is_file()]
    assert not any(b"MRN-" in content for content in written)
    assert "MRN-" not in "".join(capsys.readouterr())


def test_an_unknown_patient_stays_unknown(config, corpus, tmp_path):
    """An image's path would be written as its patient, and intervals over images be called intervals over patients."""
    shared = shutil.copytree(corpus, tmp_path / "corpus")
    data = json.loads((shared / "coco" / "test.json").read_text())
    for image in data["images"]:
        del image["patient"]
    (shared / "coco" / "test.json").write_text(json.dumps(data))
    ground.run(replace(config, data=Coco(shared / "coco", split="test", patients="unknown")), show=False)
    table = pd.read_csv(config.output / "predictions.csv")
    assert table["patient"].isna().all()
    metrics = json.loads((config.output / "metrics.json").read_text())
    assert metrics["bootstrap"]["unit"] == "image"
    assert metrics["data"]["patients"] == table["image"].nunique()


def test_larger_findings_are_grouped_by_the_metadata_of_their_own_images(config, corpus, monkeypatch):
    """The pointing game of one group would be that of other images."""
    monkeypatch.setattr(subgroups, "LEAST", 1)
    images = ground.read_splits(config).scored
    predictor = Predictor.from_pretrained(config.checkpoint, device="cpu")
    cases = ground.look(predictor, images, config)
    baselines = ground.make_baselines(ground.Splits(images, images, images), 2)
    table = ground.score_cases(cases, images, baselines, dict.fromkeys(("model", "uniform", "prior"), 0.5), 0.3)
    known = pd.read_csv(corpus / "findings.csv").set_index("image")
    of_case = known.loc[[str(Path(path).relative_to(corpus)) for path in table["path"]]].reset_index()
    assert table["sex"].tolist() == of_case["sex"].tolist()
    table["larger_than_a_patch"] = np.arange(len(table)) % 3 > 0
    table["model_pointing"] = (table["sex"] == "F").astype(float)
    groups = ground.pointing_by_group(table, 0, 0)["subgroups"]
    by_sex = groups[groups["attribute"] == "sex"].set_index("group")
    assert by_sex["pointing"].map(float).to_dict() == {"F": 1, "M": 0}
    larger = table[table["larger_than_a_patch"]]
    for what, column in (("images", "path"), ("patients", "patient")):
        assert by_sex[what].to_dict() == larger.groupby("sex")[column].nunique().to_dict()
