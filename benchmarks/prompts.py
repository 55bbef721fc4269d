"""How much do zero-shot scores depend on the wording of a query, and does it help to average several?

    python benchmarks/prompts.py CHECKPOINT ... [--corpus data_file/phantom] [--half]

CHECKPOINT is a best.safetensors that was trained on phantoms; --half reads those that benchmarks/ablation.py leaves in WORK.
The held-out phantoms of the corpus are classified by the prompt of each pathology that the model was trained with, by the same
prompt as a free-text query, by each of five paraphrases, and by averages over these wordings: of their probabilities, or of
their text embeddings, as with zeroshot_cls.py --ensemble true. Prints the macro AUROC of each, its difference to the trained
prompt's with a 95 % interval over patients, and how far a class's AUROC differs between its paraphrases.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import half_backbones

from medslip.data.datasets.csv_table import CsvTable
from medslip.evaluation.bootstrap import Resampled, patient_index
from medslip.evaluation.classification import SCORES, resample_scores
from medslip.predictor import Predictor, present_probability
from medslip.vocabulary import class_pathologies, load_paraphrases, pathology_index

WORDINGS = 6


def by_wording(checkpoint: Path, corpus: Path, resamples: int = 1000) -> dict[str, Resampled]:
    """Way of querying -> AUROC of each class."""
    predictor = Predictor.from_pretrained(checkpoint, device="cpu")
    table = CsvTable(corpus / "findings.csv", split="test").read()
    pathologies, paraphrases = class_pathologies(table.classes, {}, str(corpus)), load_paraphrases()
    columns = [pathology_index(name) for name in pathologies]
    prompts = predictor.checkpoint.card.prompts
    assert prompts is not None, "a checkpoint of ours has its prompts"
    texts = [[prompts.pathology[column], *paraphrases[name]] for column, name in zip(columns, pathologies, strict=True)]
    encoder = predictor.checkpoint.text_encoder(None)
    embedded = encoder.encode([text for wordings in texts for text in wordings])
    of_class = embedded.reshape(len(texts), WORDINGS, -1)
    means = torch.cat([of_class.mean(dim=1), of_class[:, 1:].mean(dim=1)])
    trained: list[Any] = []
    worded: list[Any] = []
    averaged: list[Any] = []
    for _, output in predictor.outputs(table.paths):
        trained.append(present_probability(output.pathology_logits)[:, columns])
        for queries, found in ((embedded, worded), (means, averaged)):
            logits, _ = predictor.model.predict_text(output.patches.pathology, queries)
            found.append(present_probability(logits.detach()))
    of_text = np.concatenate(worded).reshape(len(table), -1, WORDINGS)
    probabilities = {"trained prompt": np.concatenate(trained), "the same as free text": of_text[..., 0]}
    probabilities |= {f"paraphrase {k}": of_text[..., k] for k in range(1, WORDINGS)}
    all_six = np.concatenate([probabilities["trained prompt"][..., None], of_text[..., 1:]], axis=-1)
    by_embedding = np.split(np.concatenate(averaged), 2, axis=1)
    for k, which in enumerate(("all six", "the five paraphrases")):
        probabilities[f"mean probability of {which}"] = all_six[..., k:].mean(axis=-1)
        probabilities[f"mean embedding of {which}"] = by_embedding[k]
    owner = patient_index(table.patients)
    return {
        name: resample_scores(table.label_array, found, owner, resamples, 0)[:, SCORES.index("auroc")]
        for name, found in probabilities.items()
    }


def main() -> None:
    """Print one table per checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--corpus", type=Path, default=Path("data_file/phantom"))
    parser.add_argument("--half", action="store_true", help="checkpoints of benchmarks/ablation.py")
    options = parser.parse_args()
    for checkpoint in options.checkpoints:
        with half_backbones() if options.half else nullcontext():
            found = by_wording(checkpoint, options.corpus)
        print(f"\n{checkpoint}\n\n| queried by | macro AUROC | difference to the trained prompt |\n| --- | --- | --- |")
        trained = found["trained prompt"].mean()
        for name, scores in found.items():
            macro = scores.mean()
            value, difference = (each.estimates()[()] for each in (macro, macro - trained))
            print(f"| {name} | {value} | {'' if name == 'trained prompt' else f'{difference:+.3f}'} |")
        classes = np.stack([found[f"paraphrase {k}"].values for k in range(1, WORDINGS)])
        print(
            f"\nAUROC of a class between its paraphrases: standard deviation {classes.std(0, ddof=1).mean():.3f} on average, "
            f"largest range {np.ptp(classes, axis=0).max():.3f}"
        )


if __name__ == "__main__":
    main()
