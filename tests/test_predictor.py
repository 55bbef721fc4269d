"""The public API: each image once, in order, in every form that an image has, and the hub's form of a model."""

import hashlib
import io
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image

from medslip import MeDSLIP, Predictor
from medslip.checkpoints import load_checkpoint
from medslip.data.images import read_image
from medslip.errors import InputError
from medslip.predictor import present_probability
from medslip.run_dir import write_metrics
from medslip.vocabulary import ANATOMIES, FINDINGS, PATHOLOGIES


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
    table = predictor.classify(files)
    assert table.index.tolist() == [str(path) for path in files]
    assert table.columns.tolist() == list(FINDINGS)
    assert set(table.dtypes) == {np.dtype(np.float32)}
    transform = predictor.checkpoint.card.transform
    for path in files:
        image = transform.normalise(transform(read_image(path))[None])
        with torch.inference_mode():
            expected = predictor.model(image).pathology_logits.softmax(-1)[0, :, 1]
        columns = [PATHOLOGIES.index(name) for name in FINDINGS]
        np.testing.assert_allclose(table.loc[str(path)], expected.numpy()[columns], rtol=1e-4, atol=1e-6)


def test_findings_choose_columns_by_any_name_of_a_pathology(predictor, files):
    """Classes of data sets have other names than the vocabulary; a typing error would silently query something else."""
    every = predictor.classify(files)
    chosen = predictor.classify(files, ["Pleural Effusion", "mass"])
    assert chosen.columns.tolist() == ["Pleural Effusion", "mass"]
    np.testing.assert_array_equal(chosen, every[["effusion", "mass"]])
    np.testing.assert_array_equal(predictor.classify(files, "mass"), every[["mass"]])
    with pytest.raises(InputError, match=r"'efusion' is not in the vocabulary; did you mean effusion\?"):
        predictor.classify(files, ["efusion"])


def test_free_text_is_predicted_with_the_vocabulary(predictor, files):
    """A free-text query with a prompt's own text is the same query once more, and changes nothing else."""
    text = predictor.checkpoint.card.prompts.pathology[8]
    found = predictor.classify(files, ["effusion"], [text, "fibrosis"])
    assert found.columns.tolist() == ["effusion", text, "fibrosis"]
    np.testing.assert_allclose(found["effusion"], predictor.classify(files)["effusion"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[text], found["effusion"], rtol=0.05)
    np.testing.assert_allclose(predictor.classify(files, [], "fibrosis")["fibrosis"], found["fibrosis"], rtol=1e-4)


def test_fast_predictor_differs_by_rounding_and_leaves_the_checkpoint_unchanged(tiny_checkpoint, files):
    """Folded weights could be written under a card that describes others, or folding could do nothing at all."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    torch.manual_seed(0)
    for module in checkpoint.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    plain, fast = Predictor(checkpoint, "cpu"), Predictor(checkpoint, "cpu", fast=True)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.model.modules())
    np.testing.assert_allclose(fast.classify(files), plain.classify(files), atol=1e-5)
    (seen,), (expected,) = (next(each.maps(files[:1], ["effusion"], shifts=2)) for each in (fast, plain))
    np.testing.assert_allclose(seen.map.grid, expected.map.grid, atol=1e-5)
    np.testing.assert_allclose(fast.embed(files).pooled, plain.embed(files).pooled, rtol=1e-3, atol=1e-4)
    after = checkpoint.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_several_wordings_are_one_query_that_depends_on_each(predictor, files):
    """A query of several wordings would be split into columns, or only its first wording would count."""
    found = predictor.classify(files, [], [["fluid", "an effusion"], "fibrosis", ["fluid", "fluid"]])
    assert found.columns.tolist() == ["fluid", "fibrosis", "fluid"]
    both, alone, twice = found.iloc[:, 0], predictor.classify(files, [], ["fluid"])["fluid"], found.iloc[:, 2]
    np.testing.assert_allclose(twice, alone, rtol=1e-4)
    assert not np.allclose(both, alone, rtol=1e-4)
    for wrong in ([[]], [["fluid", " "]], [5]):
        with pytest.raises(InputError, match="queries: "):
            predictor.classify(files, [], wrong)


def test_every_form_of_an_image_gives_the_same_probabilities(predictor, files):
    """Users have paths, uploads, Pillow's images and arrays, one or many."""
    path = files[3]
    forms = [path, str(path), path.open("rb"), io.BytesIO(path.read_bytes()), Image.open(path), read_image(path)]
    forms += [np.stack([read_image(path)] * 3, -1), read_image(path) / 255]
    table = predictor.classify(forms, ["effusion"])
    assert table.index.tolist() == [str(path)] * 3 + ["3", str(path), "5", "6", "7"]
    np.testing.assert_allclose(table["effusion"], table["effusion"].iloc[0], rtol=1e-5)
    assert predictor.classify(path).shape == (1, len(FINDINGS))
    assert predictor.classify(forms[5]).shape == (1, len(FINDINGS))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((2, 3, 4, 5)), r"array of shape \(2, 3, 4, 5\)"),
        (np.full((4, 4), 255.0), r"array of float64, 255.0 to 255.0: .* within 0..1"),
        (np.full((4, 4), -1), "array of int64, -1 to -1"),
        (io.BytesIO(b"no image"), "BytesIO: not a PNG, JPEG or DICOM"),
        (io.BytesIO(), "BytesIO: the image file is empty"),
        ([torch.zeros(4, 4)], "an image is a path, .* not a Tensor"),
        ([None], "not a NoneType"),
        (None, "images: None is neither an image nor a list of images"),
        (io.StringIO("text"), "StringIO: not a file that is open for reading bytes"),
        (Image.new("LAB", (4, 4)), "convert it to RGB or grey"),
    ],
)
def test_what_is_not_an_image_is_one_line(predictor, image, words):
    with pytest.raises(InputError, match=words):
        predictor.classify(image)


def test_grounding_is_in_the_coordinates_of_the_image(predictor, files):
    """Heat map and boxes are drawn over the user's image, not over the model's square."""
    found = predictor.ground(files[1], "Pleural Effusion", threshold=0.9)
    assert found.heat_map.shape == found.image.shape == (31, 40)
    assert found.heat_map.max() == 1
    assert found.probability == pytest.approx(predictor.classify(files[1])["effusion"].item(), abs=1e-6)
    (row,) = found.boxes.head(1).itertuples()
    assert (found.heat_map[int(row.y) : int(row.y + row.height), int(row.x) : int(row.x + row.width)] >= 0.9).any()
    assert found._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"effusion\.jpg: the picture is written as PNG"):
        found.save("effusion.jpg")
    (same,) = next(predictor.maps([files[1]], ["effusion"], shifts=2))
    np.testing.assert_array_equal(found.heat_map, same.map.heat_map(31, 40))


def test_an_anatomy_is_grounded_by_the_anatomy_stream(predictor, files):
    """The two streams could not be compared, or an anatomy would be looked for as free text."""
    found = predictor.ground(files[1], "left lung")
    (_, output), *_ = predictor.outputs([files[1]], with_attention=True)
    row = ANATOMIES.index("left_lung_unspec")
    assert found.probability == pytest.approx(float(output.anatomy_logits[0, row].softmax(-1)[1]), abs=1e-6)
    ((plain, *_), (same, *_)) = next(predictor.maps([files[1]], ["effusion", "left_lung_unspec"]))
    np.testing.assert_allclose(same.grid.ravel(), output.maps.anatomy[0, :, :, row].mean(dim=(0, 1)), rtol=1e-5)
    assert not np.allclose(plain.grid, same.grid)


def test_free_text_is_grounded_by_its_own_attention(predictor, files):
    """A prompt's own text is the same query once more; another text looks elsewhere."""
    text = predictor.checkpoint.card.prompts.pathology[8]
    own, other = predictor.ground(files[1], text), predictor.ground(files[1], "left pleural effusion")
    np.testing.assert_allclose(own.heat_map, predictor.ground(files[1], "effusion").heat_map, atol=0.05)
    assert own.query == text
    assert not np.allclose(own.heat_map, other.heat_map, atol=1e-4)
    with pytest.raises(InputError, match=r"anatomy: .* not with free text"):
        predictor.ground(files[1], text, anatomy=True)


def test_the_anatomy_streams_map_is_the_other_factor_of_the_product(predictor, files):
    """Beside the pathology stream's map, it would otherwise show that map again."""
    (alone,), (only,), (product,), (both,) = (
        next(predictor.maps([files[1]], ["effusion"], anatomy=way)) for way in (False, "only", True, "both")
    )
    np.testing.assert_array_equal(both.map.grid, alone.map.grid)
    np.testing.assert_array_equal(both.anatomy.grid, only.map.grid)
    alone, only, product = alone.map.grid, only.map.grid, product.map.grid
    np.testing.assert_allclose(alone * only, product)
    assert not np.allclose(alone / alone.max(), only / only.max(), atol=1e-4)


def test_each_image_may_have_queries_of_its_own(predictor, files):
    """A sentence would be looked for in another image, or every sentence in every image."""
    queries = [["effusion"], ["left pleural effusion", "mass"], [], ["mass"], ["left_lung_unspec", "effusion"]]
    found = list(predictor.maps(files, queries))
    assert [len(sights) for sights in found] == [1, 2, 0, 1, 2]
    for file, of_image, sights in zip(files, queries, found, strict=True):
        alone = next(predictor.maps([file], of_image)) if of_image else []
        for sight, expected in zip(sights, alone, strict=True):
            np.testing.assert_allclose(sight.map.grid, expected.map.grid, rtol=1e-4, atol=1e-7)
            assert sight.probability == pytest.approx(expected.probability, abs=1e-6)


@pytest.mark.parametrize(
    ("query", "options", "words"),
    [
        (" ", {}, "holds a blank text"),
        ("effusion", {"threshold": 2}, "threshold: 2 is outside 0..1"),
        ("effusion", {"shifts": 3}, "shifts: 3 is not 1, 2, 4 or 8"),
        ("effusion", {"layers": [9]}, "layers: the checkpoint has 0 to 0, not 9"),
        ("effusion", {"heads": [-1]}, "heads: the checkpoint has 0 to 3, not -1"),
    ],
)
def test_a_wrong_option_of_grounding_is_one_line(predictor, files, query, options, words):
    """Another number of shifts would give a map that lies beside the finding."""
    with pytest.raises(InputError, match=words):
        predictor.ground(files[0], query, **options)


def test_embeddings_are_what_the_queries_see(predictor, files):
    """Features of another layer or order would train a worse model on top, silently."""
    found = predictor.embed(files)
    (_, output), *_ = predictor.outputs(files)
    np.testing.assert_allclose(found.pathology[:2], output.patches.pathology, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.anatomy[:2], output.patches.anatomy, rtol=1e-4, atol=1e-6)
    assert found.pathology.shape == (5, 4, 32)
    assert found.pooled.shape == (5, 256)
    assert predictor.embed(files[0]).pooled.shape == (1, 256)


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
    predictor = Predictor.from_pretrained(str(tiny_checkpoint), device="cpu")
    assert isinstance(predictor.model, MeDSLIP)
    assert repr(predictor) == "Predictor(resnet18, 32 px, trained on: not recorded, device: cpu)"
    with pytest.raises(ImportError):
        from medslip import Segmenter  # noqa: F401


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.safetensors", "none.safetensors: no such checkpoint"),
        (".", "the folder holds no best.safetensors or model.safetensors"),
        ("nobody/nothing", "nobody/nothing: no such file, folder, or model in the Hugging Face cache"),
        ("MeDSLIP_resnet50.pth", "convert them once with scripts/convert_authors_release.py"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words) as error:
        Predictor.from_pretrained(name)
    assert "\n" not in str(error.value)


def test_no_images_give_no_predictions(predictor):
    """An empty directory would end in numpy's error."""
    assert predictor.classify([], None, ["a fish"]).shape == (0, len(FINDINGS) + 1)


@pytest.fixture(scope="module")
def hub_folder(predictor, tmp_path_factory):
    """The model as it is uploaded, with the scores of a run."""
    folder = tmp_path_factory.mktemp("hub")
    scores = pd.DataFrame({"class": ["Effusion"], "auroc": [0.75]})
    (folder / "run").mkdir()
    data = {"name": "some hospital", "images": 1200, "patients": 800}
    write_metrics(folder / "run", "zero-shot classification", data, {"scores": scores})
    predictor.save_pretrained(folder / "model", model_card_kwargs={"runs": [folder / "run"]})
    return folder / "model"


def test_the_hubs_form_comes_back_bit_for_bit(predictor, hub_folder, files):
    """Weights that change on the way to the hub are not those that were evaluated."""
    assert {file.name for file in hub_folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    again = Predictor.from_pretrained(hub_folder, device="cpu", batch=2)
    assert again.checkpoint.card == predictor.checkpoint.card
    expected = predictor.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.model.state_dict().items())
    pd.testing.assert_frame_equal(again.classify(files), predictor.classify(files), check_exact=True)


def test_the_model_card_has_use_data_and_scores(hub_folder):
    """Weights without them are used for what they were not made for."""
    card = ModelCard.load(hub_folder / "README.md")
    assert card.data.library_name == "medslip"
    for words in ("Not for clinical decisions", "some hospital", "1,200 images, 800 patients", "0.750", "tiny_bert"):
        assert words in card.text, words
    assert json.loads((hub_folder / "config.json").read_text())["model"]["trunk"] == "resnet18"


COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def hub_cache(hub_folder, tmp_path_factory):
    """A cache that huggingface_hub itself filled with someone/medslip, from a server that answers as the Hub does."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            *_, revision, name = self.path.split("/")
            content = (hub_folder / name).read_bytes()
            self.send_response(200 if revision in ("main", "v1", COMMIT) else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    cache, server = tmp_path_factory.mktemp("cache"), ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        for revision in ("main", "v1"):
            huggingface_hub.hf_hub_download(
                "someone/medslip",
                "model.safetensors",
                revision=revision,
                cache_dir=cache,
                endpoint=f"http://127.0.0.1:{server.server_port}",
            )
    server.shutdown()
    return cache


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_a_repository_is_read_from_the_cache_without_network(hub_cache, revision, files, predictor):
    """With HF_HUB_OFFLINE=1, as on most clusters; the revision chooses the weights."""
    found = Predictor.from_pretrained("someone/medslip", revision=revision, cache_dir=hub_cache, device="cpu", batch=2)
    pd.testing.assert_frame_equal(found.classify(files), predictor.classify(files), check_exact=True)


def test_a_revision_that_is_not_in_the_cache_is_one_line(hub_cache):
    with pytest.raises(InputError, match="someone/medslip: no such file, folder, or model"):
        Predictor.from_pretrained("someone/medslip", revision="v2", cache_dir=hub_cache)


def test_push_to_hub_uploads_the_three_files(predictor, monkeypatch):
    """The upload itself is huggingface_hub's; what is handed to it must be complete."""
    uploaded = {}

    def upload(self, *, repo_id, folder_path, **_):
        uploaded[repo_id] = sorted(os.listdir(folder_path))

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    predictor.push_to_hub("someone/medslip")
    assert uploaded == {"someone/medslip": ["README.md", "config.json", "model.safetensors"]}


def test_shifted_copies_begin_a_quarter_of_a_patch_before_and_after_the_image(predictor, files, monkeypatch):
    """A copy that is shifted the other way would misplace every fine map."""
    seen = []
    plain = predictor.model.forward

    def forward(images, *arguments, **named):
        seen.append(images[:, :1])
        return plain(images, *arguments, **named)

    monkeypatch.setattr(predictor.model, "forward", forward)
    grey = next(predictor._batches(files))
    single, copies = predictor._shifted(grey, 1, None)
    assert copies == [single]
    again, outputs = predictor._shifted(grey, 2, None)
    (image, _, first, _, _, last), s = seen, seen[0].shape[-1]
    torch.testing.assert_close(first[..., 4:, 4:], image[..., : s - 4, : s - 4])  # begins 4 pixels before
    torch.testing.assert_close(last[..., : s - 4, : s - 4], image[..., 4:, 4:])
    torch.testing.assert_close(last[..., -1, :-4], image[..., -1, 4:])  # and goes on as the image ends
    assert len(outputs) == 4
    assert single.maps.pathology is not None
    torch.testing.assert_close(again.maps.pathology, single.maps.pathology)
