"""Both fine-tuning tasks, from files to the run directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from medslip.checkpoints import load_checkpoint, load_finetuned
from medslip.cli import run_task
from medslip.config import parse
from medslip.data.augmentation import AugmentationConfig, JointAugmentationConfig
from medslip.data.datasets.coco import Coco
from medslip.data.datasets.covidx import Covidx
from medslip.data.datasets.csv_table import CsvTable
from medslip.data.images import read_image
from medslip.data.loading import evaluation_loader
from medslip.errors import InputError
from medslip.model.segmenter import Segmenter
from medslip.model.weights import read_tensors
from medslip.tasks import finetune
from medslip.tasks.finetune import (
    FinetuneClsConfig,
    FinetuneDataConfig,
    FinetuneSegConfig,
    InitConfig,
    describe_init,
    open_backbone,
    read_splits,
)
from medslip.training.engine import TrainConfig, Trainer, read_log
from medslip.training.objective import Objective
from medslip.training.optim import OptimConfig


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 COCO images of 32 px, two per patient, half in valid.json and half in test.json: a bright square is an effusion."""
    folder, random = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    categories = [{"id": 1, "name": "effusion"}]
    files = {split: {"images": [], "annotations": [], "categories": categories} for split in ("valid", "test")}
    for index in range(60):
        image = random.integers(0, 60, (32, 32), dtype=np.uint8)
        file = files["valid" if index % 4 < 2 else "test"]
        if index % 2:
            x, y = random.integers(0, 16, 2).tolist()
            image[y : y + 16, x : x + 16] += 180
            square = [x, y, x + 16, y, x + 16, y + 16, x, y + 16]
            file["annotations"].append({"id": index, "image_id": index, "category_id": 1, "segmentation": [square]})
        known = {"patient": f"p{index // 2}", "sex": "FM"[index // 4 % 2], "width": 32, "height": 32}
        file["images"].append({"id": index, "file_name": f"{index}.png", **known})
        Image.fromarray(image).save(folder / f"{index}.png")
    for split, content in files.items():
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


SMALL = {"train": TrainConfig(epochs=8, batch_size=8, log_every=1, precision="float32"), "resamples": 20, "device": "cpu",
         "optim": OptimConfig(learning_rate=3e-3, final_learning_rate=1e-3, warmup_steps=0)}  # fmt: skip


@pytest.fixture
def seg(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> FinetuneSegConfig:
    images = Coco(corpus, split="valid+test")
    return FinetuneSegConfig(
        FinetuneDataConfig(images, valid_fraction=0.2, test_fraction=0.2, side=32, preload=True, workers=0),
        tiny_checkpoint,
        bridge=128,
        augmentation=JointAugmentationConfig(scale_min=0.9, rotation=0),
        output=tmp_path / "seg",
        **SMALL,
    )


def cls_config(corpus: Path, checkpoint: Path, output: Path) -> FinetuneClsConfig:
    train, test = (Coco(corpus, split=split) for split in ("valid", "test"))
    config = FinetuneClsConfig(
        FinetuneDataConfig(train, test=test, valid_fraction=0.3, side=32, workers=0),
        checkpoint,
        augmentation=AugmentationConfig(scale_min=0.9, operations=0),
        output=output,
        **SMALL,
    )
    return replace(config, train=replace(config.train, epochs=2))


@pytest.fixture
def cls(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> FinetuneClsConfig:
    return cls_config(corpus, tiny_checkpoint, tmp_path / "cls")


@pytest.fixture(scope="module")
def whole(corpus: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two seeds that was not interrupted."""
    config = cls_config(corpus, tiny_checkpoint, tmp_path_factory.mktemp("uninterrupted") / "cls")
    return finetune.run(replace(config, seeds=(0, 1)), show=False)


def lines_of(path: Path) -> set[str]:
    return set(path.read_text().splitlines())


def read(path: Path):
    return json.loads(path.read_text())


def logged(folder: Path, key: str) -> list[float]:
    """A value of each validation in a seed's log."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line[key] for line in lines if line["kind"] == "validation"]


def reopened(path: Path, table: pd.DataFrame):
    """A fine-tuned model from its file, and its probabilities for a table's images."""
    tuned = load_finetuned(path)
    images = torch.stack([tuned.transform(read_image(Path(name))) for name in table["image"]])
    return tuned, tuned.probabilities(images).numpy()


def test_segmentation_learns_and_leaves_a_complete_run_directory(seg, estimates_of):
    """Bright squares on noise: a segmenter that does not find them does not learn, or learns the wrong masks."""
    output = finetune.run(seg, show=False)
    assert {path.name for path in output.iterdir()} == {
        ".lock", "config.yaml", "metrics.json", "run.html", "valid_list.txt", "test_list.txt", "seed_0",
    }  # fmt: skip
    assert not list(output.rglob("*.partial"))
    summary = read(output / "metrics.json")
    scores = pd.DataFrame(summary["scores"]).set_index("score")
    dice = scores.loc["dice"]
    assert dice["mean"] == dice["seed_0"] > scores["mean"]["dice_of_predicting_nothing"] + 0.15
    folder = output / "seed_0"
    assert {path.name for path in folder.iterdir()} == {
        "train_list.txt", "best.safetensors", "log.jsonl", "tensorboard", "losses.png", "metrics.json",
        "predictions.csv", "overlays.png",
    }  # fmt: skip
    lists = (folder / "train_list.txt", output / "valid_list.txt", output / "test_list.txt")
    parts = [lines_of(path) for path in lists]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 60
    table = pd.read_csv(folder / "predictions.csv")
    assert set(table["image"]) == parts[2]
    assert table["dice"].mean() == pytest.approx(dice["seed_0"])
    scored = estimates_of(folder)["/scores/dice/estimate"]
    assert (scored["value"], scored["resamples"]) == (dice["seed_0"], 20)
    about = read(folder / "metrics.json")["data"]
    assert (about["images"], about["patients"]) == (len(table), len(table) / 2)  # what the intervals resample
    assert parse(FinetuneSegConfig, ["--config", str(output / "config.yaml")]) == seg
    tuned, probabilities = reopened(folder / "best.safetensors", table)
    assert (tuned.classes, tuned.threshold) == (("effusion",), read(folder / "metrics.json")["threshold"])
    found = (probabilities >= tuned.threshold).sum(axis=(1, 2, 3))
    assert np.abs(found - table["predicted_pixels"]).max() <= 2


@pytest.mark.parametrize("linear_probe", [False, True])
def test_classification_leaves_a_complete_run_directory(cls, whole, linear_probe, estimates_of):
    output = finetune.run(replace(cls, linear_probe=True), show=False) if linear_probe else whole
    folder = output / "seed_0"
    assert {path.name for path in folder.iterdir()} == {
        "train_list.txt", "best.safetensors", "log.jsonl", "tensorboard", "losses.png", "metrics.json",
        "predictions.csv", "roc.png", "precision_recall.png", "calibration.png",
    }  # fmt: skip
    metrics = read(folder / "metrics.json")
    assert metrics["format"] == "medslip-metrics"
    assert metrics["data"]["images"] == len(lines_of(output / "test_list.txt")) == 30
    assert metrics["data"]["patients"] == 15  # what the intervals resample
    assert metrics["validation_data"]["images"] == len(lines_of(output / "valid_list.txt"))
    scored = estimates_of(folder)
    assert scored["/calibration/effusion predicted/ece"]["value"] is not None
    summary = read(output / "metrics.json")
    auroc = summary["scores"][0]
    by_seed = [auroc[f"seed_{seed}"] for seed in summary["seeds"]]
    assert len(by_seed) == (1 if linear_probe else 2)
    assert by_seed[0] == scored["/scores/mean/auroc"]["value"]
    assert auroc["mean"] == pytest.approx(np.mean(by_seed))
    assert auroc["deviation"] == (None if linear_probe else pytest.approx(np.std(by_seed, ddof=1)))
    assert list(summary["init"]["random"]) == (["head"] if linear_probe else ["fourth_stage", "head"])
    assert parse(FinetuneClsConfig, ["--config", str(output / "config.yaml")]).data == cls.data
    table = pd.read_csv(folder / "predictions.csv")
    tuned, probabilities = reopened(folder / "best.safetensors", table)
    assert (tuned.classes, tuned.threshold) == (("effusion",), None)
    np.testing.assert_allclose(probabilities[:, 0], table["effusion"], atol=1e-5)


def test_segmentation_scores_the_sexes_apart(seg, monkeypatch, capsys):
    """A model that finds less in women would hide behind the mean over all."""
    score = finetune.image_scores

    def unequal(counts, threshold):
        """One epoch finds nothing, which would be the same in all groups."""
        return score(counts, threshold).assign(dice=np.linspace(0, 1, len(counts.marked)) ** 2)

    monkeypatch.setattr(finetune, "image_scores", unequal)
    data = replace(seg.data, test_fraction=0.6)
    output = finetune.run(replace(seg, data=data, train=replace(seg.train, epochs=1)))
    groups = pd.DataFrame(read(output / "seed_0" / "metrics.json")["subgroups"])
    assert set(groups["attribute"]) == {"sex"}
    table = pd.read_csv(output / "seed_0" / "predictions.csv")
    assert table["sex"].tolist() == ["FM"[int(Path(image).stem) // 4 % 2] for image in table["image"]]
    means = {row["group"]: row["dice"]["value"] for _, row in groups.iterrows()}
    assert means == pytest.approx(table.groupby("sex")["dice"].mean().to_dict())
    assert means["F"] != means["M"]
    assert (groups["images"] == 2 * groups["patients"]).all()  # what the intervals resample
    assert "Subgroups" in (output / "run.html").read_text()
    said = capsys.readouterr().out
    assert said.index("seed 0, test images") < said.index("subgroups") < said.index("run page")


@pytest.mark.parametrize("choose_by", ["dice", "dice_balanced"])
def test_test_images_are_scored_once_with_what_validation_chose(seg, monkeypatch, choose_by):
    """Weights and threshold must come from validation, by the score that was asked for."""
    seg = replace(seg, train=replace(seg.train, epochs=3), choose_by=choose_by)
    seen, examine = [], finetune._examine

    def spy(*arguments):
        measured, losses = examine(*arguments)
        seen.append(len(measured[0]))
        return measured, losses

    monkeypatch.setattr(finetune, "_examine", spy)
    output = finetune.run(seg, show=False)
    valid, test = (len(lines_of(output / f"{name}_list.txt")) for name in ("valid", "test"))
    assert seen == [valid] * (seg.train.epochs + 1) + [test]
    best = json.loads(read_tensors(output / "seed_0" / "best.safetensors")[1]["card"])["validation"]
    metrics = read(output / "seed_0" / "metrics.json")
    assert metrics["validation"] == best
    assert metrics["threshold"] == best["validation_threshold"]
    for name in ("dice", "dice_balanced"):
        assert all(0 <= value <= 1 for value in logged(output / "seed_0", f"validation_{name}"))
    assert best[f"validation_{choose_by}"] == max(logged(output / "seed_0", f"validation_{choose_by}"))


def test_a_smaller_subsample_is_part_of_a_larger_one(seg):
    one = replace(seg, train=replace(seg.train, epochs=1), resamples=0)
    lists = []
    for fraction in (0.2, 0.5):
        data = replace(seg.data, fraction=fraction, passes=2)
        output = finetune.run(replace(one, data=data, output=seg.output / str(fraction)), show=False)
        lists.append(lines_of(output / "seed_0" / "train_list.txt"))
    assert 0 < len(lists[0]) < len(lists[1])
    assert lists[0] < lists[1]


def test_a_resumed_run_equals_an_uninterrupted_one(cls, whole, monkeypatch):
    """Hours of training would be lost with one broken test image, or end in other numbers."""
    config = replace(cls, seeds=(0, 1))

    def stop(owner, name, after):
        """Run until a function is called for that time."""
        original, calls = getattr(owner, name), []

        def stopping(*arguments):
            calls.append(1)
            if len(calls) == after:
                raise InputError("stopped")
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopping)
            with pytest.raises(InputError, match="stopped"):
                finetune.run(replace(config, resume="auto"), show=False)

    stop(Trainer, "_step", 3)  # in the second epoch of seed 0
    with pytest.raises(InputError, match="exists and is not empty"):
        finetune.run(config, show=False)
    with pytest.raises(InputError, match=r"was started with another train\.epochs"):
        finetune.run(replace(config, train=replace(config.train, epochs=9), resume=True), show=False)
    stop(Trainer, "_step", 5)  # in the second epoch of seed 1
    stop(finetune, "evaluate", 1)  # on the test images
    (config.output / "valid_list.txt").unlink()
    (config.output / "seed_0" / ".tmpEjlE8B").touch()
    finetune.run(replace(config, resume="auto"), show=False)
    assert (config.output / "valid_list.txt").is_file()
    assert not list(config.output.rglob(".tmp*"))
    for seed in (0, 1):
        for name in (f"seed_{seed}/predictions.csv", f"seed_{seed}/train_list.txt"):
            assert (whole / name).read_text() == (config.output / name).read_text()
        assert not (config.output / f"seed_{seed}" / "last.safetensors").exists()
        weights = [read_tensors(run / f"seed_{seed}" / "best.safetensors")[0] for run in (whole, config.output)]
        assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert read(whole / "metrics.json")["scores"] == read(config.output / "metrics.json")["scores"]


def test_there_must_be_something_to_resume(cls):
    with pytest.raises(InputError, match="contains no run to resume"):
        finetune.run(replace(cls, resume=True), show=False)
    with pytest.raises(InputError, match="no --output is given"):
        finetune.run(replace(cls, output=None, resume=True), show=False)
    assert not cls.output.exists()


def small(corpus: Path, tiny_checkpoint: Path) -> list[str]:
    """Arguments of a short segmentation."""
    return [
        "--checkpoint", str(tiny_checkpoint), "--data.train.kind", "coco", "--data.train.path", str(corpus),
        "--data.train.split", "valid+test", "--data.side", "32", "--data.workers", "0", "--train.epochs", "1", "--bridge", "16",
        "--device", "cpu",
    ]  # fmt: skip


def test_processes_agree_on_one_run_directory(corpus, tiny_checkpoint, tmp_path):
    """Each process would name a directory after its own clock, or reject the one that another has begun."""
    script = Path(__file__).parents[2] / "scripts" / "finetune_seg.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    command += [*small(corpus, tiny_checkpoint), "--resamples", "0"]
    command += ["--data.valid_fraction", "0.2", "--data.test_fraction", "0.2"]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=quiet, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "runs" / "finetune_seg").iterdir()
    assert (folder / "metrics.json").is_file()


class Together:
    """Threads in the place of processes: what one contributes, all receive."""

    def __init__(self, rank: int, everybody: list, barrier: threading.Barrier) -> None:
        self.rank, self.world_size, self.device, self.is_main = rank, len(everybody), torch.device("cpu"), rank == 0
        self._everybody, self._barrier = everybody, barrier

    def gather(self, value):
        self._everybody[self.rank] = value
        self._barrier.wait(30)
        values = list(self._everybody)
        self._barrier.wait(30)
        return values

    def sum(self, tensor):
        return torch.stack(self.gather(tensor.clone())).sum(dim=0)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_more_processes_than_validation_images_validate_alike(seg, cls, kind):
    """A process without an image would end in a traceback, or the others would wait for it for ever."""
    task = finetune._Segmentation(seg) if kind == "segmentation" else finetune._Classification(cls)
    backbone = open_backbone(InitConfig(), seg.checkpoint, 32)
    images = task.targets(read_splits(task.config.data))["valid"]
    labels = images.label_array[:, 0].tolist()
    images = images.at([labels.index(0), labels.index(1)])
    model, _ = task.model(backbone, 1)
    objective = Objective(model, task.loss, backbone.transform.normalise).eval()

    def validate(processes: int) -> list[dict[str, float]]:
        everybody, barrier = [None] * processes, threading.Barrier(processes)

        def one(rank: int) -> dict[str, float]:
            world = Together(rank, everybody, barrier)
            batches = evaluation_loader(task.source(images, "valid"), 2, finetune._shard(task.config, 2, world))
            return task.validate(images, *finetune._examine(task, objective, batches, world)).values

        with ThreadPoolExecutor(processes) as threads:
            return list(threads.map(one, range(processes)))

    (alone,) = validate(1)
    assert all(np.isfinite(list(alone.values())))
    for found in validate(3):
        assert found == pytest.approx(alone, abs=1e-5)


def test_a_class_missing_from_the_subsample_is_named(cls, corpus, tmp_path, capsys):
    """A class that was never shown would look like one that cannot be learnt."""
    for split in ("valid", "test"):
        content = read(corpus / f"{split}.json")
        content["categories"].append({"id": 2, "name": "mass"})
        some = content["images"][::4] if split == "test" else []
        content["annotations"] += [{"image_id": image["id"], "category_id": 2, "bbox": [1, 1, 9, 9]} for image in some]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    train, test = (replace(part, path=tmp_path, images=corpus) for part in (cls.data.train, cls.data.test))
    data = replace(cls.data, train=train, test=test)
    output = finetune.run(replace(cls, data=data, train=replace(cls.train, epochs=1)), show=False)
    assert "labelled images has mass" in capsys.readouterr().out
    assert read(output / "seed_0" / "metrics.json")["data"]["never_labelled_present"] == ["mass"]
    with pytest.raises(InputError, match="has a mask of mass; change the fractions"):
        finetune.run(FinetuneSegConfig(data, cls.checkpoint, finding="mass"), show=False)


def test_the_checkpoint_trunk_is_loaded(tiny_checkpoint):
    backbone = open_backbone(InitConfig(), tiny_checkpoint, 32)
    trunk = load_checkpoint(tiny_checkpoint).model.image_encoder.trunk.state_dict()
    assert backbone.checkpoint == tiny_checkpoint
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in backbone.trunk().state_dict().items())
    init = backbone.describe(Segmenter(backbone.trunk(), 16))
    assert init["loaded"] == {"trunk": len(trunk)}
    assert set(init["random"]) == {"bridge", "up", "head"}
    with pytest.raises(InputError, match="not a fine-tuned model"):
        load_finetuned(tiny_checkpoint)
    assert f"loaded {len(trunk)} tensors of the trunk; random 12 tensors of the bridge" in describe_init(init)


def test_imagenet_weights_from_a_file_and_random_ones(tmp_path):
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18()
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    config = InitConfig("imagenet", "resnet18", str(tmp_path / "resnet18.pth"))
    backbone = open_backbone(config, None, 32)
    assert backbone.checkpoint is None
    assert torch.equal(backbone.trunk().state_dict()["conv1.weight"], resnet.conv1.weight)
    assert backbone.fourth_stage == config.trunk_weights
    scratch = open_backbone(InitConfig("random", "resnet18"), None, 32)
    one, other = scratch.trunk(), scratch.trunk()
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


def test_imagenet_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(InputError, match=r"^init\.trunk_weights: IMAGENET1K_V1 of resnet18 could not be downloaded"):
        open_backbone(InitConfig("imagenet", "resnet18"), None, 32)


def test_a_published_checkpoint_needs_no_text_encoder(tmp_path):
    shapes = read(Path(__file__).parents[1] / "parity" / "official_keys.json")
    state = {
        name: torch.zeros(shape, dtype=torch.int64 if name.endswith("tracked") else torch.float32)
        for name, shape in shapes.items()
    }
    state["res_features.0.weight"] += 3
    torch.save({"model": state}, tmp_path / "published.pth")
    backbone = open_backbone(InitConfig(), tmp_path / "published.pth", 224)
    assert backbone.name == "resnet50"
    assert (backbone.trunk().conv1.weight == 3).all()


def test_a_publishers_test_images_are_not_trained_on(tmp_path):
    """COVIDx and ChestX-ray14 give their test images unless another split is named."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for index in range(20):
            Image.new("L", (4, 4)).save(tmp_path / split / f"{index}.png")
        lines = (f"{split}{index} {index}.png {'positive' if index % 2 else 'negative'} x" for index in range(20))
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"the publisher's test images.*data\.train\.split"):
        read_splits(FinetuneDataConfig(Covidx(tmp_path)))
    config = FinetuneDataConfig(Covidx(tmp_path, split="train"), valid_fraction=0.3, test_fraction=0.3)
    assert set(read_splits(config)) == {"train", "valid", "test"}


@pytest.mark.parametrize("kind", ["seg", "cls"])
def test_training_goes_on_without_a_broken_image_if_told_to(seg, cls, corpus, tmp_path, kind):
    """Preloaded (segmentation) or not; by default it ends the run before anything is trained, and a test image always does."""
    shutil.copytree(corpus, tmp_path / "corpus")
    config = {"seg": seg, "cls": cls}[kind]
    parts = {name: getattr(config.data, name) for name in ("train", "test")}
    moved = {name: part and replace(part, path=tmp_path / "corpus") for name, part in parts.items()}
    config = replace(config, data=replace(config.data, **moved), train=replace(config.train, epochs=1))
    skipping = replace(config, train=replace(config.train, on_bad_image="skip"), output=tmp_path / "skipping")
    splits = read_splits(config.data)

    def cut(path):
        path.write_bytes(path.read_bytes()[:300])

    cut(splits["train"].paths[0])
    with pytest.raises(InputError, match="damaged or truncated"):
        finetune.run(config, show=False)
    finetune.run(skipping, show=False)
    (line,) = [line for line in read_log(skipping.output / "seed_0" / "log.jsonl") if line["kind"] == "unreadable"]
    assert line["image"] == str(splits["train"].paths[0])
    metrics = read(skipping.output / "seed_0" / "metrics.json")
    assert (metrics["unreadable_images"], metrics["skipped_steps"]) == (1, 0)
    cut(splits["test"].paths[0])
    with pytest.raises(InputError, match="damaged or truncated"):
        finetune.run(replace(skipping, output=tmp_path / "no"), show=False)


def test_headers_of_training_images_are_checked_unless_they_are_skipped(tmp_path):
    for index in range(20):
        Image.new("L", (4, 4)).save(tmp_path / f"{index}.png")
    lines = ["image,patient,effusion", *(f"{index}.png,p{index},{index % 2}" for index in range(20))]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    config = FinetuneDataConfig(CsvTable(tmp_path / "table.csv"), valid_fraction=0.3, test_fraction=0.3)
    splits = read_splits(config)
    splits["train"].paths[0].write_text("no image")
    assert read_splits(config, "skip").keys() == splits.keys()
    splits["valid"].paths[0].write_text("no image")
    for path, choice in ((splits["train"].paths[0], "error"), (splits["valid"].paths[0], "skip")):
        with pytest.raises(InputError, match=f"{path}: neither PNG"):
            read_splits(config, choice)


def test_a_finding_with_a_box_alone_cannot_be_segmented(seg, corpus, tmp_path):
    """The image would count as one without the finding."""
    shutil.copytree(corpus, tmp_path / "corpus")
    file = tmp_path / "corpus" / "valid.json"
    content = json.loads(file.read_text())
    found = content["annotations"][0]
    content["annotations"][0] = {**found, "segmentation": None, "bbox": [0, 0, 8, 8]}
    file.write_text(json.dumps(content))
    data = replace(seg.data, train=Coco(tmp_path / "corpus", split="valid+test"))
    with pytest.raises(InputError, match=rf"{found['image_id']}\.png has a box of effusion without a mask"):
        finetune.run(replace(seg, data=data))


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("finetune_seg", ["--finding", "hernia"], "has a mask of hernia; change the fractions"),
        ("finetune_seg", ["--data.fraction", "1.5"], "data.fraction: 1.5 is not above 0 and at most 1"),
        ("finetune_seg", ["--data.fraction", "0.001", "--seeds", "[0,1,2,3,4,5]"], "without any finding"),
        ("finetune_seg", ["--data.test_fraction", "0"], "test_fraction"),
        ("finetune_seg", ["--seeds", "[]"], "seeds"),
        ("finetune_seg", ["--train.seed", "3"], "--seeds"),
        ("finetune_seg", ["--bridge", "100"], "bridge"),
        ("finetune_seg", ["--init.weights", "random"], "is not used with init.weights random"),
        ("finetune_cls", ["--linear_probe", "true", "--fourth_stage", "IMAGENET1K_V1"], "fourth_stage"),
        ("finetune_cls", ["--data.train.path", "nowhere", "--data.train.kind", "folder"], "no such folder"),
        ("finetune_cls", ["--data.test.kind", "covidx", "--data.test.equalise", "true"], "equalise differs between"),
    ],
)
def test_bad_input_is_one_line_and_status_2(corpus, tiny_checkpoint, tmp_path, capsys, task, change, words):
    if task == "finetune_seg":
        arguments = small(corpus, tiny_checkpoint)
    else:
        arguments = ["--checkpoint", str(tiny_checkpoint)]
        for part in ("train", "test"):
            arguments += [f"--data.{part}.kind", "cxr14", f"--data.{part}.path", str(corpus / "none")]
    status = run_task(task, [*arguments, "--output", str(tmp_path / "run"), *change])
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error")]
    assert status == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in error
