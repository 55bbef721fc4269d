"""The run page: one file, whole, true to metrics.json, safe whatever the data is called, and alive in a real browser."""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from medslip.evaluation import run_page
from medslip.evaluation.bootstrap import Estimate
from medslip.evaluation.classification import score
from medslip.evaluation.run_page import write_page
from medslip.files import to_json
from medslip.run_dir import write_json, write_metrics

HOSTILE = [
    "</script><script>alert(1)</script>",
    "a\"b'c onload=alert(1)",
    "<img src=x onerror=alert(1)>",
    "ödème 肺 🫁 &amp;",
]


class Page(HTMLParser):
    """What a reader's browser sees: tags with attributes, cells of tables, all text outside script and style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._within: list[str] = []
        self._in_cell = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._within.pop()
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._within:
            return
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0].strip() == first)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    Image.fromarray(np.zeros(size[::-1], np.uint8)).save(path)


def scored(folder: Path, classes: tuple[str, ...] = ("Mass", "Fibrosis", "Hernia")) -> Path:
    """A zero-shot run; the last class has no positives."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, len(classes))).astype(np.int8)
    labels[:, -1] = 0
    table = score(
        classes, labels, rng.random(labels.shape), [str(k // 2) for k in range(60)], 20, leave_out=["Fibrosis"]
    )
    data = {"name": "made up", "path": "some/<b>where"}
    write_metrics(folder, "zero-shot classification", data, {"scores": table}, {"queries": {"Mass": "mass"}})
    (folder / "predictions.csv").write_text("image,patient,Mass\n7,00000032,0.123456\n")
    (folder / "config.yaml").write_text("checkpoint: <b>x</b>\nbatch_size: 64\n")
    picture(folder / "roc.png")
    return folder


def trained(folder: Path) -> Path:
    """A fine-tuning run over two seeds."""
    table = pd.DataFrame({"score": ["dice"], "mean": [0.5], "deviation": [0.1414], "seed_3": [0.4], "seed_7": [0.6]})
    write_metrics(folder, "segmentation", {"name": "squares"}, {"scores": table}, {"seeds": [3, 7]})
    for seed, dice in ((3, 0.4), (7, 0.6)):
        part = folder / f"seed_{seed}"
        table = pd.DataFrame({"score": ["dice"], "estimate": [Estimate(dice, dice - 0.1, dice + 0.1, 20, 0)]})
        write_metrics(part, "segmentation", {"name": "squares"}, {"scores": table}, {"seed": seed})
        log = [
            {"kind": "train", "step": 1, "time": 0.0, "total": 1.0},
            {"kind": "validation", "step": 2, "time": 75.0, "validation_dice": 0.375},
        ]
        (part / "log.jsonl").write_text("".join(to_json(line) + "\n" for line in log) + '{"kind": "tr')
        picture(part / "overlays.png")
    return folder


def check_alone(page: Page) -> None:
    """No address outside the page is asked for, and no script but the page's own."""
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert not page.of("link")
    assert not page.of("iframe")
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,"), tag
        if "href" in attributes:
            assert attributes["href"].startswith(("#", "./")), attributes
    assert "@import" not in page.source
    assert "url(" not in page.source


def test_numbers_on_the_page_are_those_of_metrics_json(tmp_path):
    """A page that rounds wrongly, swaps columns or drops an interval misleads more than none."""
    folder = scored(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    page = Page(write_page(folder))
    check_alone(page)
    header = page.row("class")
    names = {"auroc": "AUROC", "average_precision": "average precision", "max_f1": "max F1"}
    for row in metrics["scores"]:
        cells = dict(zip(header, page.row(row["class"]), strict=True))
        for key, name in names.items():
            found = row[key]
            if found["value"] is None:
                assert cells[name] == "-"
            else:
                assert cells[name] == f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
        assert (cells["images"], cells["note"]) == ("60", row["note"])
    assert "checkpoint: <b>x</b>" in page.text
    assert page.row("7") == ["7", "00000032", "0.123"]  # names of digits stay names


def test_a_run_over_seeds_shows_each_of_them(tmp_path):
    page = Page(write_page(trained(tmp_path / "trained")))
    check_alone(page)
    assert page.row("score") == ["score", "mean", "deviation", "seed 3", "seed 7"]
    rows = [row for row in page.rows if row[0] == "Dice"]
    assert rows[0] == ["Dice", "0.500", "0.141", "0.400", "0.600"]
    assert [row[1] for row in rows[1:]] == ["0.400 [0.300, 0.500]", "0.600 [0.500, 0.700]"]
    assert page.row("2") == ["2", "0.375"]  # a validation
    assert len(page.of("img")) == 3, "an overlay per seed, and the enlarged one"


def test_an_empty_or_broken_folder_still_has_a_page(tmp_path):
    """A run that was cut short must not keep what is left of it from being looked at."""
    assert "Files" in Page(write_page(tmp_path)).text
    for name, content in {"metrics.json": '{"a": ', "log.jsonl": "\x00", "x.png": "no", "predictions.csv": ""}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    page = Page(write_page(tmp_path))
    check_alone(page)
    assert "not a complete JSON file" in page.text
    (tmp_path / "metrics.json").write_text("[1]")
    assert "is not an object" in Page(write_page(tmp_path)).text
    write_json(tmp_path / "metrics.json", {"version": 2, "macro": {"name": "mean", "auroc": 0.8125}})
    page = Page(write_page(tmp_path))
    assert "has version 2" in page.text
    assert "0.812" in page.text


def test_several_runs_on_one_page(tmp_path):
    runs = [scored(tmp_path / "a"), trained(tmp_path / "b")]
    (tmp_path / "a" / "odd #?%.txt").write_text("")
    table = pd.DataFrame({"data_set": ["torn"], "state": ["failed"], "why": ["cut short " * 9]})
    write_metrics(tmp_path, "evaluation of all data sets", {}, {"data_sets": table})
    page = Page(write_page(tmp_path, "The <demo>", runs))
    check_alone(page)
    assert "The <demo>" in page.text
    assert page.row("torn") == ["torn", "failed", "cut short " * 9]
    assert len(page.of("img")) == 1 + 2 + 1, "the figure of one run, an overlay per seed, and the enlarged one"
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(anchors) == len(set(anchors)) == 1 + 1 + 3
    addresses = [attributes["href"] for attributes in page.of("a")]
    for address in addresses:
        assert address[1:] in anchors if address[0] == "#" else (tmp_path / unquote(address)).exists(), address
    assert "./a/odd%20%23%3F%25.txt" in addresses


WORDS = st.text(max_size=8) | st.sampled_from(
    [*HOSTILE, "value", "low", "high", "resamples", "left_out", "class", "score"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text() | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)
KEYS = st.sampled_from(["scores", "differences", "data", "environment", "bootstrap", "task", "seed", "later"])


@example(metrics={"scores": [dict.fromkeys(["value", "low", "high", "resamples", "left_out"], "x")], "data": [1]})
@example(metrics={"calibration": {"classes": [{"name": "a", "ece": 0.1}]}, "data": {}})  # of version 2
@given(metrics=st.dictionaries(KEYS | st.text(max_size=5), JSON, max_size=5))
@settings(max_examples=80, deadline=None)
def test_any_metrics_json_becomes_a_safe_page(metrics):
    """Files of other versions, and names from anyone's data, must neither break the page nor become part of its code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        page = Page(write_page(folder))
    check_alone(page)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_names(tmp_path, text):
    folder = scored(tmp_path / "run", (text, "Hernia"))
    write_json(folder / "metrics.json", {**json.loads((folder / "metrics.json").read_text()), "later": {"deep": text}})
    page = Page(write_page(folder, title=text))
    check_alone(page)
    assert page.row(text)
    assert page.text.count(text) >= 3  # title, class and setting
    assert "<b>where" in page.text


def test_the_page_is_whole_or_not_there(tmp_path, monkeypatch):
    """A failure of the page must leave the run's files, and an earlier page, untouched."""
    folder = scored(tmp_path / "run")
    earlier = write_page(folder).read_bytes()
    before = {path.name for path in folder.iterdir()}

    def fails(*_, **__):
        raise RuntimeError("made to fail")

    with monkeypatch.context() as patch:
        patch.setattr(run_page, "_section", fails)
        with pytest.raises(RuntimeError):
            write_page(folder)
    write_text = Path.write_text

    def half(path, text, **options):
        write_text(path, text[:100], **options)
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="disk full"):
            write_page(folder)
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / "run.html").read_bytes() == earlier


PROBE = """<script>
addEventListener("load", () => {
  const column = (table, k) => Array.from(table.tBodies[0].rows, (row) => row.cells[k].textContent.trim());
  const found = { images: [], empty: 0 };
  for (const image of document.images) if (image.closest("figure")) found.images.push(image.naturalWidth);
  for (const table of document.querySelectorAll("table")) found.empty += table.tBodies[0].rows.length === 0;
  const table = Array.from(document.querySelectorAll("table")).find((t) => t.tHead.textContent.includes("positives"));
  const headers = Array.from(table.tHead.rows[0].cells), at = headers.findIndex((h) => h.textContent === "AUROC");
  headers[at].click();
  found.rising = column(table, at);
  headers[at].click();
  found.falling = column(table, at);
  headers[0].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
  found.names = column(table, 0);
  const figure = document.querySelector("figure > img");
  figure.click();
  found.enlarged = document.querySelector("dialog").open && document.querySelector("dialog img").src === figure.src;
  document.querySelector("dialog").click();
  found.closed = !document.querySelector("dialog").open;
  found.wide = document.documentElement.scrollWidth - innerWidth;
  document.body.dataset.found = JSON.stringify(found);
});
</script>"""


@functools.cache
def _browser() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page: Path, *options: str) -> tuple[str, str]:
    """The page as a browser has it after its scripts, and what the browser logged."""
    browser = _browser()
    if browser is None:
        pytest.skip("needs a browser: no chromium, chromium-browser or google-chrome on the PATH")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
            "--enable-logging=stderr", "--virtual-time-budget=60000", f"--user-data-dir={profile}", *options, page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout, done.stderr


def messages(log: str) -> list[str]:
    """What the page itself said on the console: errors of scripts, refused addresses."""
    return [line for line in log.splitlines() if "CONSOLE" in line]


def test_the_page_works_in_a_browser(tmp_path):
    """Sorting, enlarging and figures, by a real click in a real browser, on a page with names that try to break it."""
    runs = [scored(tmp_path / "a", ("Mass", *HOSTILE[:2], "Hernia")), trained(tmp_path / "b")]
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    text = write_page(tmp_path, "All", runs).read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    probed.write_text(
        re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", PROBE + "</body>")
    )
    source, log = browse(probed, "--window-size=500,900", "--dump-dom")
    assert messages(log) == []
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', source).group(1)))
    assert found["images"] == [40, 40, 40]
    assert found["empty"] == 0
    *classes, mean = [row["auroc"]["value"] for row in metrics["scores"]]
    auroc = sorted(f"{value:.3f}" for value in classes if value is not None)
    assert [cell.split()[0] for cell in found["rising"]] == [*auroc, "-", f"{mean:.3f}"], "the mean stays below"
    assert [cell.split()[0] for cell in found["falling"]] == [*auroc[::-1], "-", f"{mean:.3f}"]
    assert set(found["names"]) == {"Mass", *HOSTILE[:2], "Hernia", "mean"}
    assert found["enlarged"]
    assert found["closed"]
    assert found["wide"] <= 0, "a phone must not have to scroll the page sideways"


def test_the_pages_own_policy_lets_its_own_script_run(tmp_path):
    """The policy names the script by its checksum: a wrong one would leave the page without sorting, silently."""
    folder = scored(tmp_path / "run")
    write_page(folder)
    source, log = browse(folder / "run.html", "--dump-dom")
    assert messages(log) == []
    assert re.search(r'<th[^>]* tabindex="0"', source), "the script makes headings pressable"
    browse(folder / "run.html", f"--screenshot={tmp_path / 'page.png'}", "--window-size=900,900")
    shot = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert shot.std() > 5, "an empty page"
