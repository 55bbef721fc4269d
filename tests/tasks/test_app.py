"""The page in the browser: true to the model, alone on its machine, silent about patients, and alive in a real browser."""

from __future__ import annotations

import base64
import http.client
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
from PIL import Image

from medslip import Predictor
from medslip.cli import main
from medslip.errors import InputError
from medslip.evaluation.run_page import METRICS_FORMAT
from medslip.run_dir import write_json
from medslip.tasks.app import GROUPS, SHIFTS, UNSCORED, AppConfig, Server, Viewer, grouped, open_server, scored
from medslip.vocabulary import FINDINGS, NORMALITY

TEXT = "left pleural effusion"


@pytest.fixture(scope="module")
def examples(corpus):
    return corpus / "cxr14" / "images_001" / "images"


@pytest.fixture(scope="module")
def server(tiny_checkpoint, examples):
    with open_server(AppConfig(tiny_checkpoint, examples=examples, device="cpu", port=0, megabytes=1)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(server):
    """Sends a request; returns the status, the headers and the body, decoded if it is JSON."""

    def ask(path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, answer.headers, json.loads(content) if is_json else content

    return ask


def pixels(address):
    """The pixels of a picture that an address holds."""
    kind, data = address.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_answers_are_the_predictors(ask, tiny_checkpoint, examples):
    """A page that shows another image's result, or the streams exchanged, would mislead without a sign of it."""
    predictor = Predictor.from_pretrained(tiny_checkpoint, device="cpu")
    files = sorted(examples.iterdir())[:4]
    with ThreadPoolExecutor(4) as pool:  # several people at once
        answers = list(pool.map(lambda file: ask("/classify", file.read_bytes()), files))
    for file, (status, _, found) in zip(files, answers, strict=True):
        assert status == 200
        expected = predictor.classify(file).iloc[0]
        assert {name: found["probabilities"][name] for name in FINDINGS} == pytest.approx(expected.to_dict(), abs=1e-5)
        np.testing.assert_array_equal(pixels(found["image"]), np.asarray(Image.open(file).convert("L")))
    _, _, found = ask("/ground?query=effusion", files[0].read_bytes())
    assert found["probability"] == pytest.approx(predictor.classify(files[0], "effusion").iloc[0, 0], abs=1e-5)
    for stream, anatomy in (("pathology", False), ("anatomy", "only")):
        heat = predictor.ground(files[0], "effusion", anatomy=anatomy).heat_map
        opacity = pixels(found[stream])[..., 3]
        assert opacity.shape == heat.shape
        assert (opacity[heat < 0.14] == 0).all()
        assert (opacity[heat > 0.7] > 150).all()
    assert pixels(found["pathology"]).tobytes() != pixels(found["anatomy"]).tobytes()
    assert len(found["anatomies"]) == 3
    _, _, found = ask(f"/ground?query={TEXT.replace(' ', '%20')}", files[0].read_bytes())
    assert found["probability"] == pytest.approx(predictor.classify(files[0], [], TEXT).iloc[0, 0], abs=1e-5)
    assert (found["anatomy"], found["anatomies"]) == (None, [])


def test_a_query_runs_the_model_once_for_both_streams(tiny_checkpoint, examples):
    """Each click would take twice as long."""
    viewer, runs = Viewer(Predictor.from_pretrained(tiny_checkpoint, device="cpu")), []
    viewer._predictor.model.register_forward_hook(lambda *_: runs.append(1))
    for query in ("effusion", TEXT):
        runs.clear()
        viewer.ground(min(examples.iterdir()).read_bytes(), query)
        assert len(runs) == 1 + SHIFTS**2, "the image and its shifted copies"


def test_nothing_of_a_dicom_header_is_answered_and_no_file_stays(ask, corpus, tmp_path, monkeypatch):
    """A patient's name on a screen, or a radiograph in a temporary folder, would outlast the session."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = pydicom.dcmread(min((corpus / "rsna" / "stage_2_train_images").iterdir()))
    dataset.PatientName, dataset.PatientID = "Doe^Secret", "SECRET-7"
    dataset.save_as(file := io.BytesIO())
    for path in ("/classify", "/ground?query=edema"):
        status, headers, found = ask(path, file.getvalue())
        assert status == 200
        assert "secret" not in f"{headers}{json.dumps(found)}".lower()
        for address in (found.get("image"), found.get("pathology"), found.get("anatomy")):
            assert address is None or not Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).info
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/classify", b"text", "this file: not a PNG, JPEG or DICOM image"),
        ("/classify", b"", "this file: the image file is empty"),
        ("/classify", b"\x89PNG\r\n\x1a\n" + bytes(50), "this file: "),
        ("/classify", bytes(128) + b"DICM" + bytes(50), "this file: "),
        ("/ground?query=edema", b"text", "this file: not a PNG"),
        ("/ground", None, "describe the finding in 1 to 300 characters"),
        (f"/ground?query={'a' * 301}", None, "describe the finding in 1 to 300 characters"),
        ("/ground?query=%E8%82%BA%E7%82%8E", None, "does not know these words"),
    ],
)
def test_what_cannot_be_used_is_one_line_without_a_path(ask, examples, capfd, path, body, words):
    body = min(examples.iterdir()).read_bytes() if body is None else body
    status, _, found = ask(path, body)
    assert status == 400
    assert words in found["error"]
    assert "\n" not in found["error"]
    assert "/" not in found["error"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_large_file_is_not_read(ask):
    status, _, found = ask("/classify", b"", **{"Content-Length": str((1 << 20) + 1)})
    assert (status, found["error"]) == (413, "this file: has more than 1 MB; make it smaller")
    assert ask("/classify", b"", **{"Content-Length": "-1"})[0] == 413


def test_an_image_with_too_many_pixels_is_not_decoded(ask):
    Image.new("1", (14_000, 14_000)).save(file := io.BytesIO(), "PNG")
    status, _, found = ask("/classify", file.getvalue())
    assert (status, found["error"]) == (
        400,
        "this file: too many pixels for a radiograph; remove it or make it smaller",
    )


def test_only_the_page_itself_is_answered(ask, server):
    """Any site that is open in the same browser could otherwise query the model, or read the examples."""
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_port
    for headers in (
        {"Host": "["},
        {"Host": f"evil.example:{port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        assert ask("/classify", b"text", **headers)[0] == ask("/about", **headers)[0] == 403
    assert ask("/about", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    assert ask("/about", Host="localhost:9000")[0] == 200  # through a tunnel
    for path in ("/examples/6", "/examples/-1", "/examples/../app.py", "/../app.py", "/app.py", "//[", "/about?a"):
        assert ask(path)[0] == 404
    assert ask("/about", b"")[0] == 404
    _, headers, _ = ask("/")
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Python" not in str(headers)


def test_examples_are_the_last_images_of_the_folder(ask, examples):
    assert ask("/about")[2]["examples"] == 6
    assert ask("/examples/5")[2] == max(examples.iterdir()).read_bytes()


def test_without_its_text_encoder_a_model_still_knows_the_vocabulary(tiny_checkpoint, examples, tmp_path):
    viewer = Viewer(Predictor.from_pretrained(tiny_checkpoint, device="cpu", text_encoder=str(tmp_path / "none")))
    image = min(examples.iterdir()).read_bytes()
    assert str(tmp_path / "none") in viewer.text_fault
    assert viewer.ground(image, "Pleural Effusion")["anatomy"]
    with pytest.raises(InputError, match=r"^free text cannot be queried: the text encoder was not found"):
        viewer.ground(image, TEXT)


def test_findings_that_validation_could_not_score_are_set_apart(tmp_path):
    """Their probabilities are arbitrary, and would come first in each group."""
    rows = [{"class": "effusion", "note": ""}, {"class": "mass", "note": "no positives"}, {"class": "mean", "note": ""}]
    write_json(tmp_path / "metrics.json", {"format": METRICS_FORMAT, "scores": rows})
    assert scored(tmp_path) == scored(tmp_path / "best.safetensors") == {"effusion"}
    groups = grouped(scored(tmp_path))
    assert groups["Pleura and diaphragm"] == ["effusion"]
    assert list(groups) == ["Pleura and diaphragm", UNSCORED]
    assert len(groups[UNSCORED]) == len(FINDINGS) + len(NORMALITY) - 1
    assert grouped(scored(tmp_path / "elsewhere" / "best.safetensors")) == {
        name: list(each) for name, each in GROUPS.items()
    }


def test_a_port_in_use_is_one_line(server, tiny_checkpoint):
    with pytest.raises(InputError, match=rf"^port: {server.server_port}: .*; choose another$"):
        open_server(AppConfig(tiny_checkpoint, port=server.server_port))


@pytest.mark.parametrize("number", [(), (signal.SIGTERM,)])
def test_stopping_the_page_is_no_error(monkeypatch, tiny_checkpoint, capsys, number):
    """Someone who closes the page would be told to run the command again."""

    def serve(_):
        raise KeyboardInterrupt(*number)

    monkeypatch.setattr(Server, "serve_forever", serve)
    assert main(["app", "--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--port", "0"]) == 0
    said = capsys.readouterr()
    assert (said.out.splitlines()[-1], said.err) == ("the page is closed", "")


class Browser:
    """A browser's page, driven by the DevTools protocol through a pipe."""

    def __init__(self, program, profile):
        (inward, to_browser), (from_browser, outward) = os.pipe(), os.pipe()
        options = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
        )
        command = f'exec "{program}" {options} --user-data-dir="{profile}" about:blank 3<&{inward} 4>&{outward}'
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(["bash", "-c", command], pass_fds=(inward, outward), **quiet)
        os.close(inward)
        os.close(outward)
        self.out, self.answers = io.FileIO(to_browser, "wb"), io.FileIO(from_browser, "rb")
        self.left, self.numbers, self.events, self.session = b"", itertools.count(1), [], {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self.numbers)
        self.out.write(json.dumps({"id": number, "method": method, "params": params, **self.session}).encode() + b"\0")
        while True:
            while b"\0" not in self.left:
                received = self.answers.read(1 << 20)
                assert received, "the browser ended"
                self.left += received
            message, self.left = self.left.split(b"\0", 1)
            answer = json.loads(message)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def value(self, script):
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script):
        end = time.monotonic() + 30
        while not self.value(script):
            assert time.monotonic() < end, f"{script}: {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def upload(self, path):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def of(self, method):
        return [event["params"] for event in self.events if event.get("method") == method]


@pytest.fixture
def browser():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: no chromium, chromium-browser or google-chrome on the PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        yield browser
        with browser.out, browser.answers:
            browser.call("Browser.close")
            browser.process.wait(30)


def test_the_page_works_in_a_browser(browser, server, ask, examples, tmp_path):
    """Upload, result, heat maps, free text and a wrong file, on a phone's width, without a request to anywhere else."""
    address, radiograph = f"http://127.0.0.1:{server.server_port}/", max(examples.iterdir())
    secret = tmp_path / "SECRET_doe_1950.png"
    secret.write_bytes(radiograph.read_bytes())
    (tmp_path / "wrong.png").write_text("not an image")
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    browser.call("Page.navigate", url=address)
    browser.until("document.querySelectorAll('#examples button').length === 6")
    assert "not for clinical decisions" in browser.value("document.querySelector('header').innerText")
    text = "Array.from(document.querySelectorAll('.finding'), (each) => each.innerText.replace(/\\s+/g, ' '))"
    visible = "(image) => image.checkVisibility() && image.naturalWidth"
    shown = f"Array.from(document.querySelectorAll('.map')).filter({visible}).length"

    browser.upload(secret)
    browser.until("document.querySelectorAll('.finding').length >= 74 && document.querySelector('.film').naturalWidth")
    probabilities = ask("/classify", radiograph.read_bytes())[2]["probabilities"]
    rows = browser.value(text)
    for name in ("effusion", "pneumothorax", "pacemaker"):
        assert f"{name} {probabilities[name]:.2f}" in rows
    assert browser.value(shown) == 0

    browser.value(
        "Array.from(document.querySelectorAll('.finding')).find((e) => e.innerText.startsWith('effusion')).click()"
    )
    browser.until(f"{shown} === 2")
    said = browser.value("document.querySelector('#views').innerText")
    assert f"effusion: {probabilities['effusion']:.2f}" in said
    assert "Anatomy stream" in said
    browser.value("document.querySelector('#show').click()")
    assert browser.value(shown) == 0
    browser.value("document.querySelector('#show').click()")

    browser.value(
        f"document.querySelector('#query').value = '{TEXT} <b>'; document.querySelector('#ask button').click()"
    )
    browser.until("document.querySelector('#own') && !document.body.classList.contains('busy')")
    assert browser.value(text)[0].startswith(f"{TEXT} <b> 0.")
    assert browser.value(shown) == 1, "free text has no map of the anatomy stream"
    assert browser.value("document.documentElement.scrollWidth - innerWidth") <= 0, "a phone would scroll sideways"
    assert "secret" not in browser.value("document.documentElement.outerHTML").lower()

    browser.upload(tmp_path / "wrong.png")
    browser.until("document.querySelector('#error').checkVisibility()")
    assert browser.value("document.querySelector('#error').innerText").startswith("This file: not a PNG, JPEG or DICOM")
    assert not browser.value("document.querySelector('#findings').checkVisibility()"), "of the image before"
    browser.value("document.querySelector('#examples button').click()")
    browser.until("document.querySelector('#findings').checkVisibility()")
    assert not browser.value("document.querySelector('#error').checkVisibility()")

    requested = {each["request"]["url"] for each in browser.of("Network.requestWillBeSent")}
    assert {url for url in requested if not url.startswith((address, "data:"))} == set()
    assert browser.of("Runtime.exceptionThrown") == []
    logged = [each["entry"] for each in browser.of("Log.entryAdded")]
    assert [each["url"] for each in logged] == [f"{address}classify"], "the wrong file's status alone"
