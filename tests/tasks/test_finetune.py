"""Both fine-tuning tasks, from files to the run folder."""

from __future__ import annotations

import csv
import json
import os
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
from medslip.cli import parse, run_task
from medslip.data.images import read_image
from medslip.data.joint_transforms import JointAugmentationConfig
from medslip.data.transforms import AugmentationConfig
from medslip.errors import InputError
from medslip.model.segmenter import Segmenter
from medslip.model.weights import read_tensors
from medslip.tasks import finetune_cls, finetune_seg
from medslip.tasks.finetune import StartConfig, open_start, show_start, split_patients
from medslip.tasks.finetune_cls import ClassificationDataConfig, FinetuneClsConfig
from medslip.tasks.finetune_seg import FinetuneSegConfig, SegmentationDataConfig
from medslip.tasks.zeroshot_cls import ImagesConfig
from medslip.training.engine import TrainConfig, Trainer, read_log
from medslip.training.optim import OptimConfig

PLAIN = OptimConfig(learning_rate=3e-3, final_learning_rate=1e-3, warmup_steps=0)


def _split(index: int) -> str:
    return ("valid", "test")[index % 4 > 1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of 32 px, two a patient, in a phantom corpus's form: a bright square is an effusion, marked by a mask."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    rows, lines = [], []
    for index in range(60):
        image = random.integers(0, 60, (32, 32), dtype=np.uint8)
        present = index % 2
        if present:
            mask = np.zeros((32, 32), bool)
            top, left = random.integers(0, 16, 2)
            mask[top : top + 16, left : left + 16] = True
            image[mask] += 180
            Image.fromarray(mask).save(folder / f"mask{index}.png")
            lines.append(
                {"image": f"{index}.png", "study": f"s{index}", "split": _split(index), "pathology": "effusion",
                 "anatomy": "left_pleural", "box": [int(left), int(top), 16, 16], "mask": f"mask{index}.png"}
            )  # fmt: skip
        Image.fromarray(image).save(folder / f"{index}.png")
        rows.append((f"{index}.png", f"s{index}", f"p{index // 2}", _split(index), "FM"[index // 4 % 2], present))
    with (folder / "findings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "study", "patient", "split", "sex", "effusion"), *rows])
    (folder / "findings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def seg(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> FinetuneSegConfig:
    return FinetuneSegConfig(
        checkpoint=tiny_checkpoint,
        data=SegmentationDataConfig(
            kind="phantom", path=corpus, pathology="effusion", valid_fraction=0.2, test_fraction=0.2, side=32,
            preload=True, workers=0,
        ),
        bridge=128,
        augmentation=JointAugmentationConfig(scale_min=0.9, rotation=0),
        train=TrainConfig(epochs=8, batch_size=8, log_every=1, precision="float32"),
        optim=PLAIN,
        resamples=20,
        device="cpu",
        output=tmp_path / "seg",
    )  # fmt: skip


@pytest.fixture
def cls(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> FinetuneClsConfig:
    table = corpus / "findings.csv"
    return FinetuneClsConfig(
        checkpoint=tiny_checkpoint,
        data=ClassificationDataConfig(
            train=ImagesConfig("table", table, split="valid"),
            test=ImagesConfig("table", table, split="test"),
            valid_fraction=0.3,
            side=32,
            workers=0,
        ),
        augmentation=AugmentationConfig(scale_min=0.9, operations=0),
        train=TrainConfig(epochs=2, batch_size=8, log_every=1, precision="float32"),
        optim=PLAIN,
        resamples=20,
        device="cpu",
        output=tmp_path / "cls",
    )


def lines_of(path: Path) -> set[str]:
    return set(path.read_text().splitlines())


def test_segmentation_learns_and_leaves_a_whole_run_folder(seg, estimates_of):
    """Bright squares on noise: a segmenter that does not find them does not learn, or learns the wrong masks."""
    output = finetune_seg.run(replace(seg, seeds=(0, 1)), show=False)
    assert {path.name for path in output.iterdir()} == {
        "config.yaml", "metrics.json", "report.html", "valid_list.txt", "test_list.txt", "seed_0", "seed_1",
    }  # fmt: skip
    assert not list(output.rglob("*.partial"))
    summary = json.loads((output / "metrics.json").read_text())
    assert summary["seeds"] == [0, 1]
    mean, dice = estimates_of(output)["/scores/dice"], summary["spread"]["dice"]
    assert mean == {"value": pytest.approx(np.mean(dice["by_seed"])), "interval": None}
    assert dice["deviation"] == pytest.approx(np.std(dice["by_seed"], ddof=1))
    assert mean["value"] > summary["scores"]["dice_of_predicting_nothing"]["value"] + 0.15
    for seed in (0, 1):
        folder = output / f"seed_{seed}"
        assert {path.name for path in folder.iterdir()} == {
            "train_list.txt", "best.safetensors", "log.jsonl", "tensorboard", "losses.png", "metrics.json",
            "predictions.csv", "overlays.png",
        }  # fmt: skip
        parts = [
            lines_of(path) for path in (folder / "train_list.txt", output / "valid_list.txt", output / "test_list.txt")
        ]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 60
        table = pd.read_csv(folder / "predictions.csv")
        assert set(table["image"]) == parts[2]
        assert table["dice"].mean() == pytest.approx(dice["by_seed"][seed])
        scored = estimates_of(folder)["/scores/dice"]
        assert scored["value"] == dice["by_seed"][seed]
        assert scored["interval"]["resamples"] == 20
        about = json.loads((folder / "metrics.json").read_text())["data"]
        assert (about["images"], about["patients"]) == (len(table), len(table) / 2)  # what the intervals resample
    read = parse(FinetuneSegConfig, ["--config", str(output / "config.yaml")])
    assert read == replace(seg, seeds=(0, 1))


def test_segmentation_tells_the_sexes_apart(seg, corpus, monkeypatch, capsys):
    """A model that finds less in women would hide behind the mean over all."""
    score = finetune_seg.score_segmentation

    def unequal(counts, *rest, **options):
        """One epoch finds nothing, which is alike in all groups."""
        return replace(score(counts, *rest, **options), dice=np.linspace(0, 1, len(counts.marked)) ** 2)

    monkeypatch.setattr(finetune_seg, "score_segmentation", unequal)
    data = replace(seg.data, test_fraction=0.6)
    output = finetune_seg.run(replace(seg, data=data, train=replace(seg.train, epochs=1)))
    metrics = json.loads((output / "seed_0" / "metrics.json").read_text())
    assert list(metrics["subgroups"]) == ["sex"]
    sex = pd.read_csv(corpus / "findings.csv").set_index("image")["sex"]
    table = pd.read_csv(output / "seed_0" / "predictions.csv")
    assert table["sex"].tolist() == [sex[Path(image).name] for image in table["image"]]
    by_sex = table.groupby("sex")["dice"].mean()
    means = {name: mean["value"] for name, mean in metrics["subgroups"]["sex"]["comparisons"]["dice"]["means"].items()}
    assert means == pytest.approx(by_sex.to_dict())
    assert means["F"] != means["M"]
    for group in metrics["subgroups"]["sex"]["groups"]:
        assert group["images"] == 2 * group["patients"]  # what the intervals resample
    assert "seed 0: Dice by sex: F " in capsys.readouterr().out
    assert "mean Dice" in (output / "report.html").read_text()


def test_test_images_are_touched_once(seg, monkeypatch):
    """Weights and threshold must come from validation: the test images may be scored at the very end alone."""
    seg = replace(seg, train=replace(seg.train, epochs=3))
    seen = []
    examine = finetune_seg._Segmentation._examine

    def spy(self, loader):
        counts, losses = examine(self, loader)
        seen.append(len(counts.marked))
        return counts, losses

    monkeypatch.setattr(finetune_seg._Segmentation, "_examine", spy)
    output = finetune_seg.run(seg, show=False)
    valid, test = (len(lines_of(output / f"{name}_list.txt")) for name in ("valid", "test"))
    assert seen == [valid] * seg.train.epochs + [test]
    best = json.loads(read_tensors(output / "seed_0" / "best.safetensors")[1]["card"])
    metrics = json.loads((output / "seed_0" / "metrics.json").read_text())
    assert metrics["threshold"] == best["validation"]["validation_threshold"]
    log = [json.loads(line) for line in (output / "seed_0" / "log.jsonl").read_text().splitlines()]
    dices = [line["validation_dice"] for line in log if line["kind"] == "validation"]
    assert best["validation"]["validation_dice"] == max(dices)


def test_a_smaller_share_of_labels_lies_inside_a_larger_one(seg):
    one = replace(seg, train=replace(seg.train, epochs=1), resamples=0)
    lists = []
    for fraction in (0.2, 0.5):
        data = replace(seg.data, fraction=fraction, passes=2)
        output = finetune_seg.run(replace(one, data=data, output=seg.output / str(fraction)), show=False)
        lists.append(lines_of(output / "seed_0" / "train_list.txt"))
    assert 0 < len(lists[0]) < len(lists[1])
    assert lists[0] < lists[1]


@pytest.mark.parametrize("linear_probe", [False, True])
def test_classification_leaves_a_whole_run_folder(cls, linear_probe, estimates_of):
    output = finetune_cls.run(replace(cls, linear_probe=linear_probe), show=False)
    folder = output / "seed_0"
    assert {path.name for path in folder.iterdir()} == {
        "train_list.txt", "best.safetensors", "log.jsonl", "tensorboard", "losses.png", "metrics.json",
        "predictions.csv", "roc.png", "precision_recall.png", "calibration.png",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["format"] == "medslip-metrics"
    assert metrics["data"]["images"] == len(lines_of(output / "test_list.txt")) == 30
    assert metrics["data"]["patients"] == 15  # what the intervals resample
    assert metrics["operating_points"]["validation"]["images"] == len(lines_of(output / "valid_list.txt"))
    scored = estimates_of(folder)
    assert scored["/calibration/classes/0/scores/ece"]["value"] is not None
    summary = json.loads((output / "metrics.json").read_text())
    auroc = scored["/macro/scores/auroc"]["value"]
    assert estimates_of(output)["/scores/auroc"] == {"value": auroc, "interval": None}
    assert summary["spread"]["auroc"] == {"deviation": None, "by_seed": [auroc]}
    assert list(summary["start"]["random"]) == (["head"] if linear_probe else ["fourth_stage", "head"])
    assert parse(FinetuneClsConfig, ["--config", str(output / "config.yaml")]).data == cls.data


def test_the_same_seed_gives_the_same_weights(cls):
    one, other = (
        finetune_cls.run(replace(cls, train=replace(cls.train, epochs=1), output=cls.output / name), show=False)
        for name in "ab"
    )
    weights = [read_tensors(run / "seed_0" / "best.safetensors")[0] for run in (one, other)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("stopped", [3, 11, "test"])
def test_a_resumed_run_equals_an_unbroken_one(cls, tmp_path, monkeypatch, stopped):
    """Hours of training would be lost with one broken test image, or come out otherwise than unbroken."""
    config = replace(cls, seeds=(0, 1), train=replace(cls.train, epochs=3))
    whole = finetune_cls.run(replace(config, output=tmp_path / "whole"), show=False)
    config = replace(config, output=tmp_path / "broken")
    step, score = Trainer._step, finetune_cls.score

    def break_off(self, *args):
        break_off.steps += 1
        if break_off.steps == stopped:
            raise KeyboardInterrupt
        return step(self, *args)

    def fail(*args):
        raise InputError("test image damaged")

    break_off.steps = 0
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", break_off)
        if stopped == "test":
            # Seed 1's, and not a validation's, which has no resamples.
            patch.setattr(finetune_cls, "score", lambda *a, **k: score(*a, **k) if k or _scored(config) < 1 else fail())
        with pytest.raises((KeyboardInterrupt, InputError)):
            finetune_cls.run(config, show=False)
    with pytest.raises(InputError, match="exists and is not empty"):
        finetune_cls.run(config, show=False)
    with pytest.raises(InputError, match=r"began with another train\.epochs"):
        finetune_cls.run(replace(config, train=replace(config.train, epochs=9), resume=True), show=False)
    finetune_cls.run(replace(config, resume=True), show=False)
    for seed in (0, 1):
        names = (f"seed_{seed}/predictions.csv", f"seed_{seed}/train_list.txt")
        for name in names:
            assert (whole / name).read_text() == (config.output / name).read_text()
        assert not (config.output / f"seed_{seed}" / "last.safetensors").exists()
    scores = [json.loads((run / "metrics.json").read_text())["scores"] for run in (whole, config.output)]
    assert scores[0] == scores[1]


def _scored(config: FinetuneClsConfig) -> int:
    """How many seeds have come to their end."""
    return len(list(config.output.glob("seed_*/metrics.json")))


def test_there_must_be_something_to_resume(cls):
    with pytest.raises(InputError, match="holds no run to go on with"):
        finetune_cls.run(replace(cls, resume=True), show=False)
    with pytest.raises(InputError, match="no --output is named to go on with"):
        finetune_cls.run(replace(cls, output=None, resume=True), show=False)
    assert not cls.output.exists()


def test_processes_agree_on_one_run_folder(corpus, tiny_checkpoint, tmp_path):
    """Each process would name a folder after its own clock, or refuse the one that another has begun."""
    script = Path(__file__).parents[2] / "scripts" / "finetune_seg.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    command += ["--checkpoint", str(tiny_checkpoint), "--data.kind", "phantom", "--data.path", str(corpus)]
    command += ["--data.pathology", "effusion", "--data.side", "32", "--data.workers", "0", "--train.epochs", "1"]
    command += [
        "--bridge",
        "16",
        "--resamples",
        "0",
        "--device",
        "cpu",
        "--data.valid_fraction",
        "0.2",
        "--data.test_fraction",
        "0.2",
    ]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=quiet, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "runs" / "finetune_seg").iterdir()
    assert (folder / "metrics.json").is_file()


class Together:
    """Threads in the place of processes: what one gives, all get."""

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
        return torch.stack(self.gather(tensor)).sum(dim=0)


def validated(make, processes: int) -> list[dict[str, float]]:
    """What each process says of the validation images that they share."""
    everybody, barrier = [None] * processes, threading.Barrier(processes)
    tasks = [make(Together(rank, everybody, barrier)) for rank in range(processes)]
    for task in tasks:
        task._objective.eval()
    with ThreadPoolExecutor(processes) as threads:
        return [found.values for found in threads.map(lambda task: task._validate(), tasks)]


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_more_processes_than_validation_images_validate_alike(seg, cls, task):
    """A process without an image would end in a traceback, or the others wait for it for ever."""
    start, _ = open_start(StartConfig(), seg.checkpoint, 32)
    two = np.array([0, 1])  # one without a finding, one with

    def make(world):
        if task == "segmentation":
            part = finetune_seg._part(finetune_seg._read(seg.data).take(two), "valid", seg)
            return finetune_seg._Segmentation(seg, 0, start, part, part, world)
        part = finetune_cls._part(finetune_cls._take(finetune_cls.read_images(cls.data.train), two), "valid", cls)
        return finetune_cls._Classification(cls, 0, start, part, part, world)

    (alone,) = validated(make, 1)
    assert all(np.isfinite(list(alone.values())))
    for found in validated(make, 3):
        assert found == pytest.approx(alone, abs=1e-5)


def test_a_share_without_a_class_says_so(cls, corpus, tmp_path, capsys):
    """A class that was never shown would look like one that cannot be learnt."""
    table = pd.read_csv(corpus / "findings.csv")
    table["image"] = [str(corpus / name) for name in table["image"]]
    table["mass"] = (table["split"] == "test").astype(int) * (np.arange(len(table)) % 4 == 2)
    table.to_csv(tmp_path / "table.csv", index=False)
    data = replace(
        cls.data,
        train=replace(cls.data.train, path=tmp_path / "table.csv"),
        test=replace(cls.data.test, path=tmp_path / "table.csv"),
    )
    output = finetune_cls.run(replace(cls, data=data, train=replace(cls.train, epochs=1)), show=False)
    assert "labelled images has mass" in capsys.readouterr().out
    assert json.loads((output / "seed_0" / "metrics.json").read_text())["data"]["never_labelled_present"] == ["mass"]


def test_the_checkpoint_trunk_is_what_is_loaded(tiny_checkpoint):
    start, path = open_start(StartConfig(), tiny_checkpoint, 32)
    trunk = load_checkpoint(tiny_checkpoint).model.image_encoder.trunk.state_dict()
    assert path == tiny_checkpoint
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in start.trunk().state_dict().items())
    report = start.report(Segmenter(start.trunk(), 16))
    assert report["loaded"] == {"trunk": len(trunk)}
    assert set(report["random"]) == {"bridge", "up", "head"}
    assert f"loaded {len(trunk)} tensors of the trunk; random 12 tensors of the bridge" in show_start(report)


def test_imagenet_weights_from_a_file_and_random_ones(tmp_path):
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18()
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    config = StartConfig("imagenet", "resnet18", str(tmp_path / "resnet18.pth"))
    start, path = open_start(config, None, 32)
    assert path is None
    assert torch.equal(start.trunk().state_dict()["conv1.weight"], resnet.conv1.weight)
    assert start.resnet == config.trunk_weights
    scratch, _ = open_start(StartConfig("random", "resnet18"), None, 32)
    one, other = scratch.trunk(), scratch.trunk()
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


def test_imagenet_weights_that_cannot_be_had_are_named(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(InputError, match=r"^start\.trunk_weights: IMAGENET1K_V1 of resnet18 could not be downloaded"):
        open_start(StartConfig("imagenet", "resnet18"), None, 32)


def test_a_published_checkpoint_needs_no_text_encoder(tmp_path):
    shapes = json.loads((Path(__file__).parents[1] / "parity" / "official_keys.json").read_text())
    state = {
        name: torch.zeros(shape, dtype=torch.int64 if name.endswith("tracked") else torch.float32)
        for name, shape in shapes.items()
    }
    state["res_features.0.weight"] += 3
    torch.save({"model": state}, tmp_path / "published.pth")
    start, _ = open_start(StartConfig(), tmp_path / "published.pth", 224)
    assert start.name == "resnet50"
    assert (start.trunk().conv1.weight == 3).all()


def test_patients_are_not_split():
    patients = [f"p{index // 3}" for index in range(60)] + ["", ""]
    paths = [Path(f"a/{index}.png") for index in range(62)]
    parts = split_patients(patients, paths, 0, 0.3, 0.3, "x")
    owners = [{patients[index] or str(index) for index in indices} for indices in parts.values()]
    assert sum(map(len, owners)) == len(set.union(*owners))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(62))


def test_the_split_does_not_depend_on_where_the_images_lie(tmp_path, monkeypatch):
    """Epoch and threshold would be chosen on other images on another machine, or with a path typed otherwise."""
    monkeypatch.chdir(tmp_path)
    patients, names = [""] * 40, [f"{index % 3}/{index}.png" for index in range(40)]
    folders = (Path("images"), tmp_path / "images", Path("/far/away"), Path("images/../images"))
    found = [split_patients(patients, [folder / name for name in names], 0, 0.3, 0.3, "x") for folder in folders]
    for other in found[1:]:
        assert {name: part.tolist() for name, part in other.items()} == {
            name: part.tolist() for name, part in found[0].items()
        }


def test_images_are_learnt_from_and_tested_on_in_the_same_greys(cls):
    with pytest.raises(InputError, match="equalise differs between train, valid and test"):
        replace(cls.data, test=replace(cls.data.test, equalise=True))


def test_validation_names_both_dices(seg):
    """The balanced one under the name of the other would be compared with the test's."""
    finetune_seg.run(replace(seg, choose_by="dice_balanced"), show=False)
    found = [line for line in read_log(seg.output / "seed_0" / "log.jsonl") if line["kind"] == "validation"]
    for line in found:
        counts = (line["validation_dice"], line["validation_dice_balanced"])
        assert all(0 <= value <= 1 for value in counts)
    best = json.loads((seg.output / "seed_0" / "metrics.json").read_text())["validation"]
    assert best["validation_dice_balanced"] == max(line["validation_dice_balanced"] for line in found)


def test_a_patient_in_two_splits_is_refused(cls, corpus):
    data = replace(cls.data, test=replace(cls.data.test, split="valid"))
    with pytest.raises(InputError, match="keep it in one of them"):
        finetune_cls.run(replace(cls, data=data), show=False)
    assert not cls.output.exists()


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("finetune_seg", ["--data.pathology", "hernia"], "phantom has a mask of 'hernia'"),
        ("finetune_seg", ["--data.fraction", "1.5"], "data.fraction: 1.5 is not above 0 and at most 1"),
        ("finetune_seg", ["--data.fraction", "0.001", "--seeds", "[0,1,2,3,4,5]"], "without any finding"),
        ("finetune_seg", ["--data.test_fraction", "0"], "test_fraction"),
        ("finetune_seg", ["--seeds", "[]"], "seeds"),
        ("finetune_seg", ["--train.seed", "3"], "--seeds"),
        ("finetune_seg", ["--bridge", "100"], "bridge"),
        ("finetune_seg", ["--start.weights", "random"], "is not used with start.weights random"),
        ("finetune_cls", ["--linear_probe", "true", "--fourth_stage", "IMAGENET1K_V1"], "fourth_stage"),
        ("finetune_cls", ["--data.train.kind", "folder"], "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(corpus, tiny_checkpoint, tmp_path, capsys, task, change, words):
    arguments = ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--output", str(tmp_path / "run")]
    if task == "finetune_seg":
        arguments += ["--data.kind", "phantom", "--data.path", str(corpus), "--data.pathology", "effusion"]
        arguments += ["--data.side", "32", "--data.workers", "0", "--train.epochs", "1", "--bridge", "16"]
    else:
        arguments += ["--data.train.path", str(corpus / "none")]
    status = run_task(task, [*arguments, *change])
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error")]
    assert status == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in error


def reopened(path: Path, table: pd.DataFrame):
    """A fine-tuned model from its file, and its probabilities of a table's images."""
    tuned = load_finetuned(path)
    images = torch.stack([tuned.transform(read_image(Path(name))) for name in table["image"]])
    return tuned, tuned.probabilities(images).numpy()


def test_a_reopened_segmenter_gives_the_numbers_of_its_run(seg):
    folder = finetune_seg.run(replace(seg, train=replace(seg.train, epochs=2)), show=False) / "seed_0"
    table = pd.read_csv(folder / "predictions.csv")
    tuned, probabilities = reopened(folder / "best.safetensors", table)
    assert tuned.classes == ("effusion",)
    assert tuned.threshold == json.loads((folder / "metrics.json").read_text())["threshold"]
    found = (probabilities >= tuned.threshold).sum(axis=(1, 2, 3))
    assert np.abs(found - table["predicted_pixels"]).max() <= 2


@pytest.mark.parametrize("linear_probe", [False, True])
def test_a_reopened_classifier_gives_the_numbers_of_its_run(cls, linear_probe):
    folder = finetune_cls.run(replace(cls, linear_probe=linear_probe), show=False) / "seed_0"
    table = pd.read_csv(folder / "predictions.csv")
    tuned, probabilities = reopened(folder / "best.safetensors", table)
    assert (tuned.classes, tuned.threshold) == (("effusion",), None)
    np.testing.assert_allclose(probabilities[:, 0], table["effusion"], atol=1e-5)


def test_another_checkpoint_is_no_fine_tuned_model(tiny_checkpoint):
    with pytest.raises(InputError, match="no fine-tuned model"):
        load_finetuned(tiny_checkpoint)
