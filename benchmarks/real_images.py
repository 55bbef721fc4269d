"""Which form of the method learns more from a few hundred real radiographs: the published one or the defaults?

    python benchmarks/real_images.py FOLDER [--seeds 0 1 2] [--epochs 10] [--work runs/real_images]

FOLDER holds images of NIH ChestX-ray14 as two folders:

- cxr14_small: images/ and labels.csv (file, patient, view, sex, age, findings), to train on.
- cxr14: the publisher's layout, whose test_list.txt is scored; and the labels that RSNA's radiologists gave to these images,
  rsna_stage_2_train_labels_subset.csv, with rsna_to_nih.csv (rsna_id, png).

All patients of cxr14 are left out of training. Labels take the place of reports, so that anatomies are unknown and only part of
the method is put to use; labels and images are few. Prints the zero-shot AUROC of each form by seed, and the mean with a 95 %
interval over seeds and patients: the macro AUROC over the classes of ChestX-ray14 with at least five images, and that of
pneumonia against RSNA's labels. Finished runs in WORK are not repeated.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ablation import OURS, ROWS, interval

from medslip.config import phantom_config
from medslip.data.datasets.csv_table import Columns, CsvTable
from medslip.data.datasets.cxr14 import Cxr14
from medslip.data.table import ImageTable
from medslip.evaluation.bootstrap import Resampled, patient_index
from medslip.evaluation.classification import SCORES, resample_scores
from medslip.predictor import Predictor
from medslip.tasks import prepare_data, pretrain

FORMS = (OURS, "published form")
SIDE, BATCH, RESAMPLES, LEAST = 96, 8, 500, 5


def tables(folder: Path, work: Path) -> dict[str, ImageTable]:
    """The images to score: of ChestX-ray14's test list, and of RSNA."""
    published = folder / "cxr14"
    names = pd.read_csv(published / "rsna_to_nih.csv").set_index("rsna_id")["png"]
    target = pd.read_csv(published / "rsna_stage_2_train_labels_subset.csv").groupby("patientId")["Target"].max()
    entries = pd.read_csv(published / "Data_Entry_2017_v2020.csv").set_index("Image Index")
    rsna = pd.DataFrame({"image": names, "Pneumonia": target.reindex(names.index).to_numpy()}).dropna()
    rsna["patient"] = entries["Patient ID"].reindex(rsna["image"]).to_numpy()
    images = {path.name: str(path.resolve()) for path in published.rglob("*.png")}
    rsna["image"] = rsna["image"].map(images)
    rsna.astype({"Pneumonia": int}).to_csv(work / "rsna.csv", index=False)
    return {"ChestX-ray14": Cxr14(path=published).read(), "RSNA": CsvTable(work / "rsna.csv").read()}


def prepare(folder: Path, work: Path) -> Path:
    """Training and validation lists without the patients that are scored."""
    output = work / "prepared"
    if not (output / "summary.json").is_file():
        small = folder / "cxr14_small"
        data = CsvTable(
            small / "labels.csv", images=small / "images", columns=Columns(image="file", findings="findings")
        )
        scored = [path.name for path in (folder / "cxr14").rglob("*.png")]
        (work / "scored.txt").write_text("\n".join(scored) + "\n")
        config = prepare_data.PrepareConfig(
            data=data, output=output, exclude_images=work / "scored.txt", cache_size=128
        )
        prepare_data.run(replace(config, valid_fraction=0.15, test_fraction=0.0, workers=1))
    return output


def train(form: str, seed: int, epochs: int, prepared: Path, work: Path) -> Path:
    """Pre-train, unless that was done; returns the checkpoint."""
    row, folder = ROWS[form], work / f"{FORMS.index(form)}_{seed}_{epochs}"
    config = phantom_config(pretrain.PretrainConfig, "pretrain", prepared=prepared, output=folder)
    config = replace(
        config,
        data=replace(config.data, side=SIDE),
        train=replace(config.train, epochs=epochs, batch_size=BATCH, seed=seed),
        augmentation=replace(config.augmentation, scale_min=0.8),
        model=replace(config.model, **row.model),
        loss=replace(config.loss, **row.loss),
        resume="auto",
        device="cpu",
    )
    done = (folder / "run.html").is_file()
    return folder / "best.safetensors" if done else pretrain.run(config)


def auroc(predictor: Predictor, table: ImageTable) -> Resampled:
    """The macro AUROC over classes with at least LEAST images present and absent."""
    labels = table.label_array
    enough = np.flatnonzero(((labels == 1).sum(0) >= LEAST) & ((labels == 0).sum(0) >= LEAST))
    found = predictor.classify(table.paths, [table.classes[k] for k in enough]).to_numpy()
    owner = patient_index(table.patients)
    return resample_scores(labels[:, enough], found, owner, RESAMPLES, 0)[:, SCORES.index("auroc")].mean()


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("runs/real_images"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    scored, prepared = tables(options.folder, options.work), prepare(options.folder, options.work)
    found: dict[tuple[str, str], list[Any]] = {}
    for seed in options.seeds:
        for form in FORMS:
            checkpoint = train(form, seed, options.epochs, prepared, options.work)
            predictor = Predictor.from_pretrained(checkpoint, device="cpu")
            for name, table in scored.items():
                score = auroc(predictor, table)
                found.setdefault((name, form), []).append(np.append(score.values, score.drawn))
    print(
        f"| AUROC | {' | '.join(f'seed {seed}' for seed in options.seeds)} | mean |\n|"
        + " --- |" * (len(options.seeds) + 2)
    )
    for name in scored:
        ours, theirs = (np.array(found[name, form]) for form in FORMS)
        for form, values in (*zip(FORMS, (ours, theirs), strict=True), ("difference", ours - theirs)):
            mean, half = interval(values)
            cells = " | ".join(f"{value:.3f}" for value in values[:, 0])
            print(f"| {name}: {form} | {cells} | {mean:.3f} ± {half:.3f} |")
    for name, table in scored.items():
        print(f"{name}: {len(table)} images, {len(set(table.patients))} patients")


if __name__ == "__main__":
    main()
