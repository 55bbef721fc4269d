"""The predictor: each image once, in order, with the transform that is stored with the weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from medslip import MeDSLIP, Predictor
from medslip.checkpoints import load_checkpoint
from medslip.data.images import read_image
from medslip.errors import InputError
from medslip.predictor import Predictions, present_probability
from medslip.vocabulary import PATHOLOGIES


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five images of other sizes than the model's."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    paths = []
    for index in range(5):
        paths.append(folder / f"{index}.png")
        Image.fromarray(random.integers(0, 60 * index + 10, (30 + index, 40), dtype=np.uint8)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint):
    return Predictor(load_checkpoint(tiny_checkpoint), "cpu", batch=2)


def test_predictions_are_the_models_in_the_order_of_the_images(predictor, files):
    """A prediction for the wrong image is worse than none."""
    predictions = predictor.classify(files)
    assert predictions.pathologies.shape == (5, 75)
    assert predictions.pathologies.dtype == np.float32
    assert predictions.free.shape == (5, 0)
    transform = predictor.checkpoint.card.transform
    for index, path in enumerate(files):
        image = transform.normalise(transform(read_image(path))[None])
        with torch.inference_mode():
            expected = predictor.model(image).pathology_logits.softmax(-1)[0, :, 1]
        np.testing.assert_allclose(predictions.pathologies[index], expected.numpy(), rtol=1e-4, atol=1e-6)


def test_free_text_is_predicted_with_the_vocabulary(predictor, files):
    """A free-text query with a prompt's own text is the same query once more."""
    plain = predictor.classify(files)
    text = predictor.checkpoint.card.prompts.pathology[8]
    found = predictor.classify(files, [text, "fibrosis"])
    assert found.free.shape == (5, 2)
    np.testing.assert_allclose(found.pathologies, plain.pathologies, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.free[:, 0], found.pathologies[:, 8], rtol=0.05)


def test_columns_pick_pathologies_by_name_and_free_queries_by_index():
    predictions = Predictions(
        np.arange(150, dtype=np.float32).reshape(2, 75), np.array([[-1, -2], [-3, -4]], np.float32)
    )
    effusion = PATHOLOGIES.index("effusion")
    np.testing.assert_array_equal(
        predictions.columns(["effusion", 1, 0]), [[effusion, -2, -1], [75 + effusion, -4, -3]]
    )
    with pytest.raises(InputError, match="unknown pathology 'Effusion'"):
        predictions.columns(["Effusion"])


def test_attention_comes_with_the_images_that_the_model_saw(predictor, files):
    """Heat maps are drawn over them."""
    seen = list(predictor.outputs(files, with_attention=True))
    assert [tuple(images.shape) for images, _ in seen] == [(2, 1, 32, 32), (2, 1, 32, 32), (1, 1, 32, 32)]
    transform = predictor.checkpoint.card.transform
    assert torch.equal(seen[1][0][1], transform(read_image(files[3])))
    assert seen[0][1].pathology_attention.shape == (2, 75, 4)
    assert next(iter(predictor.outputs(files)))[1].pathology_attention is None


def test_present_is_the_second_logit():
    """Exchanged, every prediction would be its opposite."""
    logits = torch.tensor([[[0.0, np.log(3.0)]]])
    assert present_probability(logits).tolist() == [[pytest.approx(0.75)]]


def test_unreadable_image_is_named(predictor, files, tmp_path):
    (tmp_path / "cut.png").write_bytes(files[0].read_bytes()[:60])
    for bad in (tmp_path / "cut.png", tmp_path / "none.png"):
        with pytest.raises(InputError, match=bad.name):
            predictor.classify([*files[:2], bad])


def test_public_names(tiny_checkpoint):
    """What the README imports: the names at the top of the package."""
    assert isinstance(Predictor.load(str(tiny_checkpoint), "cpu").model, MeDSLIP)
    with pytest.raises(InputError, match="no such checkpoint"):
        Predictor.load("none.safetensors")
    with pytest.raises(ImportError):
        from medslip import Segmenter  # noqa: F401


def test_no_images_give_no_predictions(predictor):
    """An empty directory would end in numpy's error."""
    predictions = predictor.classify([], ["a fish"])
    assert predictions.pathologies.shape == (0, 75)
    assert predictions.free.shape == (0, 1)


def test_shifted_copies_begin_a_quarter_of_a_patch_before_and_after_the_image(predictor, files, monkeypatch):
    """A copy that is shifted the other way would misplace every fine map."""
    seen = []
    plain = predictor.model.forward

    def forward(images, *arguments, **named):
        seen.append(images[:, :1])
        return plain(images, *arguments, **named)

    monkeypatch.setattr(predictor.model, "forward", forward)
    single, copies = next(iter(predictor.shifted_outputs(files, 1)))
    assert copies == [single]
    again, outputs = next(iter(predictor.shifted_outputs(files, 2)))
    (image, _, first, _, _, last), s = seen, seen[0].shape[-1]
    torch.testing.assert_close(first[..., 4:, 4:], image[..., : s - 4, : s - 4])  # begins 4 pixels before
    torch.testing.assert_close(last[..., : s - 4, : s - 4], image[..., 4:, 4:])
    torch.testing.assert_close(last[..., -1, :-4], image[..., -1, 4:])  # and goes on as the image ends
    assert len(outputs) == 4
    assert single.maps.pathology is not None
    torch.testing.assert_close(again.maps.pathology, single.maps.pathology)
