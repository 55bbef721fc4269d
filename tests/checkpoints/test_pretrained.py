"""Our checkpoints, and the authors' form: everything comes back exactly, or one line says why not. (Parity: tests/parity.)"""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from medslip.checkpoints import Card, load_authors, load_checkpoint, save_checkpoint
from medslip.data.preprocessing import Preprocessing
from medslip.errors import InputError
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.text_encoder import TextConfig, TextEncoder, TextIdentity
from medslip.model.weights import read_tensors, write_tensors
from medslip.vocabulary import load_prompts


@pytest.fixture
def card():
    """Every value differs from its default, so that one that is not stored shows."""
    return Card(
        ModelConfig(
            "resnet18", width=24, decoder_layers=1, decoder_heads=3, feed_forward=12, dropout=0.3, similarity="dot"
        ),
        Preprocessing(48, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        TextIdentity("some/bert", "ab" * 32, False, 64, "cd" * 32),
        load_prompts(),
        {"epoch": 3, "validation": {"auroc": 0.75}},
    )


@pytest.fixture
def saved(card, tmp_path):
    torch.manual_seed(0)
    model = MeDSLIP(card.model, torch.randn(75, 10), torch.randn(51, 10))
    model.image_encoder.trunk.bn1.running_mean += 1
    save_checkpoint(tmp_path / "best.safetensors", model, card)
    return tmp_path / "best.safetensors", model


def test_weights_card_and_prompts_come_back_exactly(saved, card):
    path, model = saved
    loaded = load_checkpoint(path)
    assert loaded.card == card
    assert not loaded.model.training
    expected = model.state_dict()
    assert expected.keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())
    images = torch.randn(1, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images).pathology_logits, loaded.model(images).pathology_logits)


def test_card_without_text_encoder_or_prompts_comes_back_too(saved, card, tmp_path):
    """Weights whose embeddings were given, as a converted checkpoint's may be."""
    bare = replace(card, text=None, prompts=None, provenance={})
    save_checkpoint(tmp_path / "bare.safetensors", saved[1], bare)
    assert load_checkpoint(tmp_path / "bare.safetensors").card == bare


def test_trunk_weights_are_not_asked_for_again(saved, card, tmp_path):
    """The file that a training started from need not be there to use its result."""
    started = replace(card, model=replace(card.model, trunk_weights="/nowhere/resnet18.pth"))
    save_checkpoint(tmp_path / "x.safetensors", saved[1], started)
    assert load_checkpoint(tmp_path / "x.safetensors").card.model.trunk_weights is None


def test_side_car_repeats_the_card_and_nothing_else_is_left(saved, card):
    path, _ = saved
    data = json.loads(path.with_suffix(".json").read_text())
    assert data["format"] == "medslip-checkpoint"
    assert data["model"]["width"] == 24
    assert data["transform"]["side"] == 48
    identity = {"encoder": "some/bert", "sha256": "ab" * 32, "sep": False, "max_tokens": 64, "tokenizer": "cd" * 32}
    assert data["text"] == identity
    assert len(data["prompts"]["pathology"]) == 75
    assert {entry.name for entry in path.parent.iterdir()} == {"best.safetensors", "best.json"}


def test_a_score_that_is_nan_is_null_in_the_side_car(saved, card, tmp_path):
    """A class without positives in validation has no AUROC; NaN would make the side-car no JSON."""
    path = tmp_path / "nan.safetensors"
    save_checkpoint(path, saved[1], replace(card, provenance={"validation": {"auroc": float("nan"), "total": 1.5}}))

    def fail(word):
        raise AssertionError(f"{word} is not JSON")

    side_car = json.loads(path.with_suffix(".json").read_text(), parse_constant=fail)
    assert side_car["provenance"]["validation"] == {"auroc": None, "total": 1.5}
    assert load_checkpoint(path).card.provenance["validation"]["auroc"] is None


def test_checkpoint_is_one_file_that_can_be_moved(saved, tmp_path, card):
    moved = tmp_path / "elsewhere" / "weights.safetensors"
    moved.parent.mkdir()
    saved[0].rename(moved)
    assert load_checkpoint(moved).card == card


def test_loading_needs_no_text_encoder(saved):
    """Inference on the built-in vocabulary must run where transformers takes seconds or is broken."""
    code = (
        "import sys; from medslip.predictor import Predictor; "
        f"Predictor.from_pretrained({str(saved[0])!r}, device='cpu'); assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kept", [0, 1000, -100])
def test_damaged_file_is_one_line(saved, kept):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"best\.safetensors: not a complete safetensors file") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def rewrite(path, card=None, **change):
    """The same file with another card, or other tensors (None drops one)."""
    tensors, metadata = read_tensors(path)
    tensors = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    write_tensors(path, tensors, metadata if card is None else {"card": card})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query_norm.weight": torch.ones(25)}, r"1 of another shape \(query_norm.weight \(25,\) instead of \(24,\)\)"),
        ({"query_norm.weight": None}, r"1 missing \(query_norm.weight\)"),
        ({"extra": torch.ones(1)}, r"1 left over \(extra\)"),
        ({"anatomy_prompts": None}, "anatomy_prompts"),
        (
            {"pathology_prompts": torch.ones(74, 10)},
            r"shapes \(74, 10\) and \(51, 10\); the vocabulary needs 75 and 51",
        ),
        ({"anatomy_prompts": torch.ones(51)}, r"shapes \(75, 10\) and \(51,\)"),
        ({"anatomy_prompts": torch.ones(51, 11)}, r"shapes \(75, 10\) and \(51, 11\); .* of one width"),
    ],
)
def test_weights_of_another_shape_are_named(saved, change, words):
    """Loading what fits and leaving the rest random is the worst outcome."""
    rewrite(saved[0], **change)
    with pytest.raises(InputError, match=words) as error:
        load_checkpoint(saved[0])
    assert str(saved[0]) in str(error.value)


def test_card_that_is_nested_too_deeply_is_one_line(saved):
    """Python's reader raises RecursionError for it, which is no ValueError."""
    path, _ = saved
    rewrite(path, card="[" * 100_000)
    with pytest.raises(InputError, match=r"best\.safetensors: the checkpoint's description cannot be read"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2; this reads medslip-checkpoint of version 1"),
        ({"format": "other"}, "other of version 1"),
        ({"model": {"trunk": "resnet18", "depth": 3}}, "depth"),
        ({"model": {"width": 30}}, "width"),
        ({"model": None}, "description cannot be read"),
        ({"transform": {"side": 48}}, "image transform"),
        ({"transform": {"side": 160_000_000, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "image side 160000000"),
        ({"transform": {"side": 48, "mean": [[], 0, 0], "std": [1, 1, 1]}}, "image transform"),
        ({"transform": {"side": 48, "mean": [0, 0, 0], "std": [1, 1, math.nan]}}, "those of std above 0"),
        *(
            ({"model": {key: 3 * 10**6}}, f"{key} is 3000000 there")
            for key in ("width", "decoder_layers", "feed_forward")
        ),
        ({"model": {"similarity": "euclid"}}, "model.similarity cannot be 'euclid'"),
        ({"model": {"decoder_heads": 4.0}}, "model.decoder_heads cannot be 4.0"),
        ({"prompts": {"pathology": []}}, "anatomy"),
    ],
)
def test_card_that_cannot_be_read_is_one_line_that_names_the_file(saved, card, change, words):
    """An impossible size would fill the memory before the weights are looked at."""
    written = json.loads(card.to_json())
    if change.get("model") and "depth" not in change["model"]:
        change = {"model": written["model"] | change["model"]}
    rewrite(saved[0], json.dumps(written | change))
    with pytest.raises(InputError, match=words) as error:
        load_checkpoint(saved[0])
    assert str(saved[0]) in str(error.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", "3"])
def test_card_that_is_something_else_is_bad_input(saved, text):
    rewrite(saved[0], text)
    with pytest.raises(InputError, match="description cannot be read"):
        load_checkpoint(saved[0])


def test_safetensors_file_of_another_program_is_bad_input(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {})
    with pytest.raises(InputError, match="without a MeDSLIP description"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_free_text_is_embedded_as_the_prompts_were(tiny_checkpoint):
    """A query with the text of a prompt must get that prompt's embedding."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    embedded = checkpoint.text_encoder().encode([checkpoint.card.prompts.pathology[8]])
    torch.testing.assert_close(embedded[0], checkpoint.model.pathology_prompts[8], rtol=1e-5, atol=1e-5)


def test_free_text_needs_the_same_encoder(tiny_checkpoint, tiny_bert, tmp_path):
    """Embeddings of another encoder mean nothing to the model, and nothing would show it."""
    other = TextEncoder(TextConfig(str(tiny_bert)))
    for parameter in other._bert.parameters():
        parameter.data += 0.01
    other._bert.save_pretrained(tmp_path)
    other._tokenizer.save_pretrained(tmp_path)
    checkpoint = load_checkpoint(tiny_checkpoint)
    with pytest.raises(InputError, match=r"free text: the checkpoint was trained with .* has other weights") as error:
        checkpoint.text_encoder(str(tmp_path)).encode(["covid-19"])
    assert "\n" not in str(error.value)


def test_free_text_is_accepted_from_another_place(tiny_checkpoint, tiny_bert, tmp_path):
    """The encoder's directory on another machine is another one."""
    (tmp_path / "bert").symlink_to(tiny_bert)
    assert load_checkpoint(tiny_checkpoint).text_encoder(str(tmp_path / "bert")).encode(["covid-19"]).shape == (1, 32)


def test_free_text_without_a_recorded_encoder_is_bad_input(saved, card, tmp_path):
    save_checkpoint(tmp_path / "bare.safetensors", saved[1], replace(card, text=None))
    with pytest.raises(InputError, match="does not record which text encoder"):
        load_checkpoint(tmp_path / "bare.safetensors").text_encoder()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"model": 3}, "not a state dict"),
        ({"a": 1}, "not a state dict"),
        ({3: torch.ones(1)}, "not a state dict"),
        ({"a": torch.ones(1)}, "not the authors' MeDSLIP"),
    ],
)
def test_something_else_than_the_authors_state_is_bad_input(state, words):
    with pytest.raises(InputError, match=words):
        load_authors(state, torch.ones(75, 8), torch.ones(51, 8))


def test_authors_prompts_are_both_texts_or_both_embeddings(saved):
    with pytest.raises(InputError, match="both as texts or both as embeddings"):
        load_authors(
            {
                "query_projection.weight": torch.ones(4, 4),
                "pathology_decoder.layers.0.linear1.weight": torch.ones(4, 4),
            },
            ["text"] * 75,
            np.ones((51, 4)),
        )


def test_authors_state_of_impossible_shape_is_named():
    """The message would name a key that the user never gave, and no file."""
    state = {"disease_embedding_layer.weight": torch.ones(30, 8)}
    state["decoder_disease.layers.0.linear1.weight"] = torch.ones(16, 30)
    with pytest.raises(InputError, match=r"the authors' state dict: .*model\.width: 30"):
        load_authors(state, torch.ones(75, 8), torch.ones(51, 8))
    state["disease_embedding_layer.weight"] = torch.ones(())
    with pytest.raises(InputError, match="is not a matrix"):
        load_authors(state, torch.ones(75, 8), torch.ones(51, 8))
