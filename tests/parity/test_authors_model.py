"""Our model with the authors' weights must compute what the authors' model computes: outputs and all six losses.

The figures (numbers only) and the recipe of weights and inputs: tests/parity/README.md.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from medslip.checkpoints import load_authors
from medslip.errors import InputError
from medslip.losses import existence_loss, existence_of, icl_loss, protocl_loss
from medslip.training import criterion

HERE = Path(__file__).parent


def _authors_state(keys: dict[str, list[int]], seed: int) -> dict[str, torch.Tensor]:
    state = {}
    for name, shape in keys.items():
        rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
        a = rng.standard_normal(shape)
        if name.endswith("running_var"):
            a = 1 + 0.1 * np.abs(a)
        elif name.endswith("num_batches_tracked"):
            a = np.zeros(shape)
        elif len(shape) >= 2:
            a = a * np.sqrt(2 / np.prod(shape[1:])) * (1e-4 if name.startswith("res_l2_") else 1)
        elif name.endswith("weight"):
            a = 1 + 0.1 * a
        else:
            a = 0.1 * a
        state[name] = torch.as_tensor(np.asarray(a), dtype=torch.float32)
    return state


@pytest.fixture(scope="module")
def figures():
    return dict(np.load(HERE / "official_a.npz"))


@pytest.fixture(scope="module")
def inputs(figures):
    """Images and prompt embeddings, drawn in the order that the recipe gives."""
    seed = int(figures["seed"])
    rng = np.random.RandomState(seed)
    images = rng.standard_normal((len(figures["labels"]), 3, 224, 224)).astype(np.float32)
    pathology = rng.standard_normal((75, 768)).astype(np.float32) * np.float32(0.5)
    anatomy = rng.standard_normal((51, 768)).astype(np.float32) * np.float32(0.5)
    return tuple(map(torch.from_numpy, (images, pathology, anatomy)))


@pytest.fixture(scope="module")
def state(figures):
    return _authors_state(json.loads((HERE / "official_keys.json").read_text()), int(figures["seed"]))


@pytest.fixture(scope="module")
def loaded(state, inputs):
    images, pathology, anatomy = inputs
    model = load_authors({"model": state}, pathology, anatomy).model
    with torch.inference_mode():
        return model, model(images, with_attention=True)


@pytest.mark.parametrize(
    ("figure", "ours"),
    [
        ("logits_pathology", lambda o: o.pathology_logits),
        ("logits_anatomy", lambda o: o.anatomy_logits),
        ("icl_logits", lambda o: o.icl_logits),
        ("attention_pathology", lambda o: o.pathology_attention),
        ("attention_anatomy", lambda o: o.anatomy_attention),
        ("patches_pathology_mean", lambda o: o.patches.pathology.mean(dim=1)),
        ("patches_anatomy_mean", lambda o: o.patches.anatomy.mean(dim=1)),
    ],
)
def test_output_equals_the_authors_models(figures, loaded, figure, ours):
    expected = figures[figure]
    worst = np.abs(ours(loaded[1]).numpy() - expected).max() / np.abs(expected).max()
    print(f"{figure}: {worst:.1e} of the largest magnitude")
    assert worst < 1e-4


def test_losses_equal_the_authors_models(figures, loaded, monkeypatch):
    model, output = loaded
    labels = torch.from_numpy(figures["labels"])
    pathology, anatomy = existence_of(labels)
    assert (pathology.numpy() == figures["label_pathology"]).all()
    assert (anatomy.numpy() == figures["label_anatomy"]).all()
    present = labels == 1

    def drawn(name):
        # Slot 0 is the prototype; queries without a present counterpart have arbitrary candidates.
        return torch.from_numpy(figures[name])[..., 1:]

    ours = {
        "existence_pathology": existence_loss(output.pathology_logits, pathology),
        "proto_pathology": protocl_loss(
            output.pathology_prototypes, model.anatomy_prompts, present.transpose(1, 2), drawn("candidates_pathology")
        ),
        "existence_anatomy": existence_loss(output.anatomy_logits, anatomy),
        "proto_anatomy": protocl_loss(
            output.anatomy_prototypes, model.pathology_prompts, present, drawn("candidates_anatomy")
        ),
        "icl": icl_loss(output.icl_logits, labels),
    }
    ours["loss"] = torch.stack(list(ours.values())).sum()
    # The criterion itself, with the authors' draw in place of ours.
    draws = iter([drawn("candidates_pathology"), drawn("candidates_anatomy")])
    monkeypatch.setattr(criterion, "draw_negatives", lambda *_: next(draws))
    terms = criterion.loss_terms(criterion.LossConfig(negatives=7))
    total = criterion.Criterion(terms)(output, labels)[0]
    assert abs(total.item() / figures["losses"][0] - 1) < 1e-4
    for name, expected in zip(figures["loss_names"], figures["losses"], strict=True):
        relative = abs(ours[str(name)].item() / expected - 1)
        print(f"{name}: relative {relative:.1e}")
        assert relative < 1e-4, name


def test_other_spelling_and_parallel_prefix_are_read(state, inputs, loaded):
    """A file saved from DataParallel, or with the older name of the query projection, must load to the same model."""
    renamed = {f"module.{name.replace('pathology_embedding', 'disease_embedding')}": t for name, t in state.items()}
    ours = load_authors(renamed, *inputs[1:]).model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in loaded[0].state_dict().items())


def test_missing_and_left_over_weights_are_named(state, inputs):
    wrong = dict(state)
    wrong["mask_maker.weight"] = wrong.pop("mask_generator.weight")
    with pytest.raises(InputError, match=r"1 missing \(image_encoder.gate.weight\); 1 left over \(mask_maker.weight\)"):
        load_authors(wrong, *inputs[1:])
    with pytest.raises(InputError, match="pathology_prompts: embeddings of shape"):
        load_authors(state, inputs[1][:, :384], inputs[2])


def test_authors_file_is_read_with_weights_only(tmp_path, state, inputs, loaded):
    torch.save({"model": state}, tmp_path / "authors.pth")
    ours = load_authors(tmp_path / "authors.pth", *inputs[1:]).model
    assert torch.equal(ours.query_norm.weight, state["decoder_pathology.norm.weight"])
    (tmp_path / "cut.pth").write_bytes((tmp_path / "authors.pth").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut\.pth"):
        load_authors(tmp_path / "cut.pth", *inputs[1:])
