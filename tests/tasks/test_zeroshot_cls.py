"""Zero-shot classification from files to a run folder, with a checkpoint of random weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medslip.checkpoints import load_checkpoint
from medslip.cli import main
from medslip.config import parse
from medslip.data.datasets.csv_table import CsvTable
from medslip.data.datasets.folder import Folder
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.predictor import Predictor, present_probability
from medslip.tasks import zeroshot_cls
from medslip.tasks.zeroshot_cls import ZeroshotConfig, build_queries, run
from medslip.vocabulary import CLASS_PROMPTS, NORMALITY, PATHOLOGIES, load_paraphrases


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve noise images of six patients."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(random.integers(0, 256, (40, 40), dtype=np.uint8)).save(folder / f"i{index:02}.png")
    return folder


def write_table(folder, path, classes=("Effusion", "Mass")):
    table = pd.DataFrame({"image": [f"i{index:02}.png" for index in range(12)]})
    table["patient"] = [f"MRN-{index // 2}" for index in range(12)]
    table["split"] = ["test"] * 10 + ["train"] * 2
    for column, name in enumerate(classes):
        table[name] = [(index + column) % 2 for index in range(12)]
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def config(folder, tmp_path, tiny_checkpoint):
    path = write_table(folder, tmp_path / "table.csv")
    data = CsvTable(path, images=folder, split="test")
    return ZeroshotConfig(
        checkpoint=tiny_checkpoint,
        data=data,
        resamples=20,
        batch_size=4,
        workers=0,
        device="cpu",
        output=tmp_path / "run",
    )


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes longer than everything else here; test_table_gives_predictions_scores_and_figures draws."""
    monkeypatch.setattr(zeroshot_cls, "draw", lambda *arguments: None)


def with_data(config, **change):
    return replace(config, data=replace(config.data, **change))


def results(config):
    predictions = pd.read_csv(config.output / "predictions.csv", keep_default_na=False)
    return predictions, json.loads((config.output / "metrics.json").read_text())


def expected(config, pathology):
    """The probabilities that the model itself gives."""
    paths = config.data.read().paths
    return Predictor(load_checkpoint(config.checkpoint), "cpu").classify(paths, [pathology]).to_numpy()[:, 0]


def test_table_gives_predictions_scores_and_figures(config, capsys, estimates_of):
    """The run folder must let a reader check every number: which image, which label, which query."""
    scores = run(config)["scores"].set_index("class")
    predictions, metrics = results(config)
    assert list(predictions.columns) == ["image", "patient", "Effusion", "Mass", "label_Effusion", "label_Mass"]
    assert [name.rsplit("/")[-1] for name in predictions["image"]] == [f"i{index:02}.png" for index in range(10)]
    assert pd.factorize(predictions["patient"])[0].tolist() == [index // 2 for index in range(10)]
    assert predictions["label_Mass"].tolist() == [1, 0] * 5
    np.testing.assert_allclose(predictions["Effusion"], expected(config, "effusion"), rtol=1e-4)
    np.testing.assert_allclose(predictions["Mass"], expected(config, "mass"), rtol=1e-4)
    assert [row["class"] for row in metrics["scores"]] == ["Effusion", "Mass", "mean"]
    places = estimates_of(config.output)
    assert places["/scores/Effusion/auroc"]["value"] == scores["auroc"]["Effusion"].value
    assert (metrics["data"]["images"], metrics["data"]["patients"], metrics["data"]["kind"]) == (10, 5, "csv")
    assert metrics["queries"] == {"Effusion": "effusion", "Mass": "mass"}
    assert metrics["provenance"] == {"made": "for tests"}
    assert metrics["checkpoint"] == str(config.checkpoint)
    names = {path.name for path in config.output.iterdir()}
    assert names == {
        ".lock",
        "config.yaml",
        "run.html",
        "predictions.csv",
        "metrics.json",
        "roc.png",
        "precision_recall.png",
        "calibration.png",
    }
    assert parse(ZeroshotConfig, ["--config", str(config.output / "config.yaml")]) == config
    assert places["/calibration/Effusion predicted/ece"]["value"] is not None
    assert "operating_points" not in metrics
    shown = capsys.readouterr().out
    assert "no validation images, so no operating points" in shown
    assert "Effusion" in shown
    assert str(config.output) in shown
    assert not any(b"MRN-" in path.read_bytes() for path in config.output.iterdir())
    assert "MRN-" not in shown
    run(replace(config, patients="keep", output=config.output / "keep"))
    predictions, _ = results(replace(config, output=config.output / "keep"))
    assert predictions["patient"].tolist() == [f"MRN-{index // 2}" for index in range(10)]


def test_folder_gives_predictions_of_every_finding_without_scores(config, folder, capsys):
    config = replace(config, data=Folder(folder))
    assert run(config) is None
    predictions, metrics = results(config)
    findings = [name for name in PATHOLOGIES if name not in (*NORMALITY, "excluded_obs")]
    assert list(predictions.columns) == ["image", "patient", *findings]
    assert len(predictions) == 12
    np.testing.assert_allclose(predictions["edema"], expected(config, "edema"), rtol=1e-4)
    assert metrics["data"]["kind"] == "folder"
    assert metrics["data"]["images"] == 12
    assert "scores" not in metrics
    shown = capsys.readouterr().out
    assert "no labels to score against" in shown
    best = predictions.sort_values("effusion", ascending=False).iloc[0]
    assert f"highest effusion: {Path(best['image']).name} {best['effusion']:.3f}, " in shown
    assert not (config.output / "roc.png").exists()


@pytest.mark.parametrize(
    ("classes", "mapping", "options", "queries"),
    [
        (("Wasser", "Infiltration"), {"Wasser": "effusion"}, {}, {"Wasser": "effusion", "Infiltration": "infiltrate"}),
        (("Edema", "Fibrosis"), {}, {"fibrosis": "authors"}, {"Edema": "edema", "Fibrosis": "tail_abnorm_obs"}),
        (("Edema", "Fibrosis"), {}, {"fibrosis": "prompt"}, {"Edema": "edema", "Fibrosis": CLASS_PROMPTS["Fibrosis"]}),
        (
            ("Effusion", "Mass"),
            {},
            {"prompt": {"Mass": "a round shadow"}},
            {"Effusion": "effusion", "Mass": "Mass: a round shadow"},
        ),
    ],
    ids=["mapped", "catch-all", "packaged prompt", "prompt instead of a pathology"],
)
@pytest.mark.usefixtures("no_figures")
def test_each_class_is_queried_as_the_metrics_say(config, folder, tmp_path, classes, mapping, options, queries):
    """Two conventions give two numbers."""
    path = write_table(folder, tmp_path / "other.csv", classes)
    config = replace(with_data(config, path=path, classes=mapping), **options)
    scores = run(config)["scores"]
    predictions, metrics = results(config)
    assert metrics["queries"] == queries
    means = [name for name in scores["class"] if name.startswith("mean")]
    assert scores["class"].tolist() == [*classes, *means]
    for name, query in queries.items():
        if query in PATHOLOGIES:
            np.testing.assert_allclose(predictions[name], expected(config, query), rtol=1e-4, atol=1e-6)
        else:
            assert predictions[name].between(0, 1).all()
            known = {"Fibrosis": "tail_abnorm_obs", "Mass": "mass"}.get(name)
            assert known is None or np.abs(predictions[name] - expected(config, known)).max() > 1e-5


@pytest.mark.parametrize(
    ("classes", "mapping", "words"),
    [
        (("Effusion", "Grippe"), {}, "unknown class"),
        (("Grippe",), {"Grippe": "influenza"}, "class 'Grippe' is mapped to 'influenza', which is not a pathology"),
        (("Effusion",), {"Grippe": "effusion"}, "has no column 'Grippe'"),
    ],
)
def test_unknown_class_is_bad_input_and_nothing_is_written(config, folder, tmp_path, classes, mapping, words):
    path = write_table(folder, tmp_path / "other.csv", classes)
    with pytest.raises(InputError, match=words) as refused:
        run(with_data(config, path=path, classes=mapping))
    assert "other.csv" in str(refused.value)
    assert not config.output.exists()


def test_prompt_of_the_command_line_is_class_and_text(config, folder, tmp_path, capsys):
    """The form that the documentation shows."""
    arguments = ["--checkpoint", str(config.checkpoint), "--data.kind", "folder", "--data.path", str(folder)]
    arguments += ["--prompt", "covid-19: ground-glass opacities", "--device", "cpu", "--workers", "0"]
    assert main(["zeroshot_cls", *arguments, "--output", str(config.output)]) == 0
    assert results(config)[1]["queries"]["covid-19"] == "covid-19: ground-glass opacities"


@pytest.mark.usefixtures("no_figures")
def test_an_ensemble_queries_by_the_mean_embedding_of_prompt_and_paraphrases(config, folder, tmp_path):
    """Paraphrases would be averaged into another class, or into a free-text query."""
    path = write_table(folder, tmp_path / "other.csv", ("Effusion", "Edema", "Mass"))
    config = replace(with_data(config, path=path), ensemble=True, prompt="edema: wet lungs")
    run(config, show=False)
    predictions, metrics = results(config)
    assert metrics["ensemble"] is True
    predictor, images = Predictor(load_checkpoint(config.checkpoint), "cpu"), config.data.read()
    encoder, patches = predictor.checkpoint.text_encoder(), next(predictor.outputs(images.paths))[1].patches.pathology
    for name in ("effusion", "mass"):
        texts = [predictor.checkpoint.card.prompts.pathology[PATHOLOGIES.index(name)], *load_paraphrases()[name]]
        assert len(texts) == 6
        logits, _ = predictor.model.predict_text(patches, encoder.encode(texts).mean(dim=0, keepdim=True))
        assert predictions[name.capitalize()].to_numpy() == pytest.approx(
            present_probability(logits.detach())[:, 0], abs=1e-6
        )
    text = predictor.classify(images.paths, [], ["edema: wet lungs"]).to_numpy()[:, 0]
    assert predictions["Edema"].to_numpy() == pytest.approx(text, abs=1e-6)


def test_a_prompt_for_an_option_or_an_unknown_class_is_one_line(config, folder, capsys):
    """--prompt.ensemble true would be a class "ensemble" with the query "true", and a misspelt class would not be scored."""
    arguments = ["zeroshot_cls", "--checkpoint", str(config.checkpoint), "--output", str(config.output)]
    arguments += ["--data.kind", "folder", "--data.path", str(folder), "--prompt.ensemble", "true"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.endswith("prompt.ensemble: ensemble is an option of its own and not a class; write --ensemble\n")
    assert error.count("\n") == 1
    images = config.data.read()
    with pytest.raises(InputError, match=rf"table\.csv has no class 'Efusion', only {', '.join(images.classes)}$"):
        build_queries(images, replace(config, prompt={"Efusion": "water"}))


def test_free_text_of_another_encoder_is_one_line_and_status_2(config, folder, capsys):
    arguments = ["--checkpoint", str(config.checkpoint), "--data.kind", "folder", "--data.path", str(folder)]
    arguments += ["--prompt", "a: b", "--text_encoder", "no/such-bert", "--output", str(config.output)]
    assert main(["zeroshot_cls", *arguments]) == 2
    error = capsys.readouterr().err
    assert "no/such-bert" in error
    assert error.count("\n") == 1


def test_used_output_folder_is_refused_before_anything_is_computed(config, tmp_path):
    """Twenty-five thousand images later would be too late."""
    config.output.mkdir()
    (config.output / "thesis.txt").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        run(replace(config, checkpoint=tmp_path / "not even looked for.safetensors"))


def test_unreadable_image_leaves_no_run_folder(config, folder, tmp_path):
    """The same command must work once the image is mended."""
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "cut.png").write_bytes((folder / "i00.png").read_bytes()[:100])
    with pytest.raises(InputError, match=r"cut\.png"):
        run(replace(config, data=Folder(tmp_path / "films")))
    assert not config.output.exists()


def test_all_classes_of_a_folder_and_a_prompt_are_asked_once(config, folder):
    images = Folder(folder).read()
    queries = build_queries(images, replace(config, prompt={"edema": "wet lungs", "covid-19": "text"}))
    assert len(set(queries.classes)) == len(queries.classes) == 66 + 1
    assert queries.classes[0] == "covid-19", "what the user asks comes before the vocabulary"
    assert queries.described()["edema"] == "edema: wet lungs"
    assert queries.described()["effusion"] == "effusion"


def test_without_arguments_and_phantoms_the_demo_is_named(tmp_path, monkeypatch, capsys):
    """Someone who tries the script first must learn what to run."""
    monkeypatch.chdir(tmp_path)
    assert main(["zeroshot_cls"]) == 2
    error = capsys.readouterr().err
    assert "python scripts/demo.py" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_figures")
def test_without_arguments_the_newest_phantom_run_answers_the_held_out_phantoms(
    folder, tmp_path, monkeypatch, tiny_checkpoint, capsys
):
    monkeypatch.chdir(tmp_path)
    run_folder, corpus = tmp_path / "runs" / "phantom" / "pretrain", tmp_path / "data_file" / "phantom"
    for made in (run_folder, corpus):
        made.mkdir(parents=True)
    (run_folder / "best.safetensors").symlink_to(tiny_checkpoint)
    assert main(["zeroshot_cls"]) == 2
    assert "python scripts/demo.py" in capsys.readouterr().err
    for image in folder.iterdir():
        (corpus / image.name).symlink_to(image)
    table = pd.read_csv(write_table(corpus, corpus / "findings.csv"))
    table["split"] = table["split"].replace("train", "valid")
    table.to_csv(corpus / "findings.csv", index=False)
    assert main(["zeroshot_cls"]) == 0
    (made,) = (tmp_path / "runs" / "zeroshot_cls").iterdir()
    assert len(pd.read_csv(made / "predictions.csv")) == 10
    metrics = json.loads((made / "metrics.json").read_text())
    assert metrics["validation_data"] == {"name": "findings (valid)", "images": 2, "patients": 1}


@pytest.fixture
def validated(config, folder, tmp_path):
    """Four validation images, six to score; two of either label in both, with sexes."""
    table = pd.read_csv(config.data.path)
    table["split"], table["sex"] = ["test"] * 6 + ["valid"] * 4 + ["train"] * 2, ["M", "F"] * 6
    table.to_csv(tmp_path / "parts.csv", index=False)
    config = with_data(config, path=tmp_path / "parts.csv")
    return replace(config, validation=replace(config.data, split="valid"))


@pytest.mark.usefixtures("no_figures")
def test_operating_points_come_from_the_validation_images(validated, capsys):
    """Thresholds of the scored images themselves would flatter the model."""
    run(validated)
    predictions, metrics = results(validated)
    point = next(row for row in metrics["operating_points"] if (row["class"], row["rule"]) == ("Effusion", "max_f1"))
    others = validated.validation.read()
    scores = (
        Predictor(load_checkpoint(validated.checkpoint), "cpu").classify(others.paths, ["effusion"]).to_numpy()[:, 0]
    )
    threshold = point["threshold"]
    assert np.isclose(scores[others.label_array[:, 0] == 1], threshold, rtol=1e-4).any()
    reached = predictions["Effusion"][predictions["label_Effusion"] == 1] >= threshold
    assert point["sensitivity"]["value"] == pytest.approx(reached.mean())
    assert len(predictions) == 6
    assert predictions["sex"].tolist() == ["M", "F"] * 3
    assert {row["attribute"] for row in metrics["subgroups"]} == {"sex"}
    assert (metrics["specificity"], metrics["validation_data"]["name"]) == (0.9, "parts (valid)")
    shown = capsys.readouterr().out
    assert "operating points" in shown
    assert "no validation images" not in shown


def test_a_patient_in_validation_and_in_the_scored_images_is_refused(validated):
    """Thresholds would be chosen on patients that they are then judged by."""
    table = pd.read_csv(validated.data.path)
    table.loc[0, "patient"] = table["patient"][6]
    table.to_csv(validated.data.path, index=False)
    with pytest.raises(InputError, match=r"one patient is in validation and in data \(i06\.png and i00\.png\)"):
        run(validated)
    assert not validated.output.exists()


def test_validation_that_does_not_fit_is_refused(validated, folder, tmp_path):
    """Thresholds of other classes, of nothing, or of images treated otherwise."""
    with pytest.raises(InputError, match="validation images have no labels"):
        run(replace(validated, validation=Folder(folder)))
    with pytest.raises(InputError, match="leave validation out"):
        run(replace(validated, data=Folder(folder)))
    other = write_table(folder, tmp_path / "other.csv", ("Edema", "Mass"))
    with pytest.raises(InputError, match="have the classes Edema, Mass instead of Effusion, Mass"):
        run(replace(validated, validation=CsvTable(other, images=folder)))
    with pytest.raises(InputError, match=r"validation\.equalise"):
        replace(validated, validation=replace(validated.validation, equalise=True))
    assert not validated.output.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("specificity", value) for value in (1.5, -0.1, float("nan"))),
        *((name, -1) for name in ("resamples", "seed", "batch_size", "workers")),
    ],
)
def test_impossible_numbers_are_refused(name, value):
    """A percentage typed for a share would find no threshold, after hours; a mistyped option would end in a traceback."""
    with pytest.raises(InputError, match=f"{name}: {value}"):
        ZeroshotConfig(checkpoint=Path("x"), data=Folder(Path("x")), **{name: value})


@pytest.mark.parametrize("prompt", [{"fish": ""}, {"fish": " "}, {"": "fish"}])
def test_empty_free_text_is_refused(prompt):
    """The class would be asked by its name alone, or by nothing."""
    with pytest.raises(InputError, match="prompt: class"):
        zeroshot_cls.free_text_queries(prompt)


def test_a_class_that_a_prompt_answers_for_can_be_validated(validated):
    """The scored images may have a class outside the vocabulary; so may those that choose its threshold."""
    table = pd.read_csv(validated.data.path).assign(Novel=[0, 1] * 6)
    table.to_csv(validated.data.path, index=False)
    asked = replace(validated, prompt={"Novel": "a new kind of haze"})
    others = zeroshot_cls._read_validation(asked.data.read(), asked)
    assert others is not None
    assert "Novel" in others.classes


def test_a_class_outside_the_vocabulary_has_a_packaged_text_and_a_prompt_replaces_it_whatever_its_case():
    """COVID-19 would need a prompt of the user's; or the user's text for covid-19 would be another class, unscored."""
    images = ImageTable("x", pd.DataFrame({"path": ["a"]}), pd.DataFrame({"COVID-19": [1]}))
    config = ZeroshotConfig(checkpoint=Path("x"), data=Folder(Path("x")))
    assert build_queries(images, config).described() == {"COVID-19": CLASS_PROMPTS["COVID-19"]}
    asked = replace(config, prompt={"covid-19": "hazy"})
    assert build_queries(images, asked).described() == {"COVID-19": "covid-19: hazy"}
    mapped = replace(config, data=replace(config.data, classes={"COVID-19": "pneumonia"}))
    assert build_queries(images, mapped).described() == {"COVID-19": "pneumonia"}
