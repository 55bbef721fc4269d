"""The report: one page, whole, true to the files, safe whatever the data is called, and alive in a real browser."""

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
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from medslip.evaluation import report
from medslip.evaluation.bootstrap import Interval
from medslip.evaluation.classification import score
from medslip.evaluation.comparison import Difference, Key
from medslip.evaluation.comparison_report import write_comparison
from medslip.evaluation.estimates import estimate
from medslip.evaluation.grounding_report import write_grounding_metrics
from medslip.evaluation.grounding_scores import MAPS, CaseScores, score_groups
from medslip.evaluation.report import write_report
from medslip.evaluation.report_judgement import judgement_blocks
from medslip.evaluation.report_sections import facts
from medslip.evaluation.report_values import MISSING, number
from medslip.evaluation.run_folder import write_json, write_metrics, write_predictions, write_unscored_metrics
from medslip.files import to_json

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
    """A zero-shot run as its task leaves it; the last class has no positives."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, len(classes))).astype(np.int8)
    labels[:, -1] = 0
    probabilities = 1 / (1 + np.exp(-rng.normal(labels, 1)))
    scores = score(classes, labels, probabilities, [str(k // 2) for k in range(60)], resamples=20)
    data = {"name": "made up", "path": "some/<b>where"}
    write_metrics(folder, "zero-shot classification", data, scores, ("Fibrosis",), extra={"queries": {"Mass": "mass"}})
    paths = [f"images/{k}.png" for k in range(60)]
    write_predictions(folder, paths, [str(k // 2) for k in range(60)], classes, probabilities, labels)
    (folder / "config.yaml").write_text("checkpoint: <b>x</b>\nbatch_size: 64\n")
    picture(folder / "roc.png")
    return folder


def trained(folder: Path) -> Path:
    """A fine-tuning run over two seeds."""
    spread = {
        "dice": {"deviation": 0.1414, "by_seed": [0.4, 0.6]},
        "empty": {"deviation": None, "by_seed": [0.25]},
    }
    summary = {
        "task": "fine-tuning, segmentation",
        "data": {"name": "squares", "train": 24},
        "seeds": [3, 7],
        "scores": {"dice": estimate(0.5), "empty": estimate(0.25)},
        "spread": spread,
    }
    write_json(folder / "metrics.json", {"format": "medslip-metrics", "version": 3, **summary})
    for seed, dice in ((3, 0.4), (7, 0.6)):
        part = folder / f"seed_{seed}"
        entry = {"dice": estimate(dice, Interval(dice - 0.1, dice + 0.1, 20, 0))}
        write_json(part / "metrics.json", {"task": "fine-tuning, segmentation", "seed": seed, "scores": entry})
        log = [
            {"kind": "train", "step": 1, "time": 0.0, "total": 1.0},
            {"kind": "validation", "step": 2, "time": 75.0, "validation_dice": None},
        ]
        (part / "log.jsonl").write_text("".join(to_json(line) + "\n" for line in log) + '{"kind": "tr')
        picture(part / "overlays.png")
    return folder


def grounded(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    cases = {
        name: [CaseScores(rng.random(6), rng.random(2), rng.random(2) < 0.5, 1) for _ in range(12)] for name in MAPS
    }
    members = {"mass": np.arange(6), "all findings": np.arange(12)}
    groups = score_groups(members, cases, [str(k) for k in range(12)], resamples=10)
    write_grounding_metrics(folder, {"name": "boxes", "images": 9}, {"larger": groups, "smaller": []}, 10, 0)
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
    """A report that rounds wrongly, swaps columns or drops an interval misleads more than none."""
    folder = scored(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    page = Page(write_report(folder))
    check_alone(page)
    header = page.row("name")
    for entry in metrics["classes"]:
        cells = dict(zip(header, page.row(entry["name"]), strict=True))
        for key, name in (
            ("auroc", "AUROC"),
            ("average_precision", "average precision"),
            ("max_f1", "max F1"),
            ("accuracy", "accuracy"),
        ):
            value, span = entry["scores"][key]["value"], entry["scores"][key]["interval"]
            if value is None:
                assert cells[name] == MISSING
            else:
                assert cells[name] == f"{value:.3f} [{span['low']:.3f}, {span['high']:.3f}]"
        assert (cells["positives"], cells["negatives"]) == (str(entry["positives"]), str(entry["negatives"]))
    mean, without = page.row("AUROC")[1], page.row("AUROC")[3]
    auroc = metrics["macro"]["scores"]["auroc"]["value"]
    assert mean.startswith(f"{auroc:.3f} [")
    assert without.startswith(f"{metrics['macro_without']['Fibrosis']['scores']['auroc']['value']:.3f} [")
    assert dict(zip(header, page.row("Hernia"), strict=True))["undefined"] == metrics["classes"][2]["undefined"]
    assert f"{auroc!r}, from" in page.source, "all digits where a pointer rests"
    assert "checkpoint: <b>x</b>" in page.text


def test_every_kind_of_run_has_its_page(tmp_path):
    page = Page(write_report(trained(tmp_path / "trained")))
    check_alone(page)
    assert page.row("score") == ["score", "mean", "deviation", "01", "seed 3", "seed 7"]
    assert [cell.strip() for cell in page.row("Dice")] == ["Dice", "0.500", "0.141", "", "0.400", "0.600"]
    assert page.row("empty")[-2:] == ["0.250", ""]
    assert "0.400 [0.300, 0.500]" in [" ".join(row[1].split()) for row in page.rows if row[0] == "Dice"]
    assert "1 validation(s), 2 steps in 1 min 15 s." in page.text
    assert len(page.of("img")) == 3, "an overlay a seed, and the enlarged one"

    page = Page(write_report(grounded(tmp_path / "ground")))
    check_alone(page)
    metrics = json.loads((tmp_path / "ground" / "metrics.json").read_text())
    mass, every = metrics["larger"]
    assert page.row("mass")[2].startswith(number(mass["scores"]["model"]["pointing"]["value"]))
    chance = [number(every["scores"][name]["pixel_auroc"]["value"]) for name in ("uniform", "prior")]
    assert page.row("AUROC of pixels")[3:5] == chance
    assert page.row("Dice")[-1].startswith(number(every["above_prior"]["dice"]["value"]))


def test_a_run_without_labels_shows_its_predictions(tmp_path):
    write_unscored_metrics(tmp_path, "zero-shot classification", {"name": "films"}, "cpu", {"queries": {}})
    write_predictions(tmp_path, ["a.png", "b.png"], ["", ""], ["Mass"], np.array([[0.125], [0.75]]))
    page = Page(write_report(tmp_path))
    assert page.row("a.png") == ["a.png", "", "0.125"]
    assert page.text.index("Predictions") < page.text.index("Settings and origin")


def test_names_of_digits_stay_names(tmp_path):
    """A patient 00000032 would be shown as 32 or 10,000,032, and could not be looked up."""
    lines = {
        "image": ("00000032_000.png", "1e5", "7"),
        "patient": ("00000032", "10000032", "1_234"),
        "study": ("50414267", "0050", "-1"),
        "class": ("1", "nan", "inf"),
        "view": ("0", "1.50", ""),
        "sex": ("1", "2", ""),
        "mass": ("0.123456", "1.5e-05", "-2"),
        "model_boxes": ("12", "12345", "1_234"),
        "code": ("007", "nan", "+1"),
    }
    rows = [",".join(row) for row in (tuple(lines), *zip(*lines.values(), strict=True))]
    (tmp_path / "scores.csv").write_text("\n".join(rows) + "\n")
    page = Page(write_report(tmp_path))
    shown = dict(zip(lines, zip(*(row for row in page.rows if row[0] in lines["image"]), strict=True), strict=True))
    expected = {"mass": ("0.123", "1.5e-05", "-2"), "model_boxes": ("12", "12,345", "1_234")}
    assert shown == lines | expected


def test_an_empty_or_broken_folder_still_has_a_page(tmp_path):
    """A run that was cut short must not keep what is left of it from being looked at."""
    assert "Files" in Page(write_report(tmp_path)).text
    for name, content in {"metrics.json": '{"a": ', "log.jsonl": "\x00", "x.png": "no", "predictions.csv": ""}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    page = Page(write_report(tmp_path))
    check_alone(page)
    assert "cannot be read" in page.text
    (tmp_path / "metrics.json").write_text("[1]")
    assert "holds no object" in Page(write_report(tmp_path)).text


def test_metrics_of_another_version_are_shown_and_named(tmp_path):
    """A page with half of an earlier run's numbers would look like all of them."""
    write_json(tmp_path / "metrics.json", {"version": 2, "macro": {"name": "mean", "auroc": 0.8125}})
    page = Page(write_report(tmp_path))
    assert "is of version 2, this page is made for 3" in page.text
    assert "0.812" in page.text
    write_report(scored(tmp_path / "run"))
    assert "of version" not in Page(tmp_path / "run" / "report.html").text


def test_a_dice_stands_beside_that_of_predicting_nothing():
    """Of images that mostly have nothing to find, 0.94 looks like success where predicting nothing has 0.89."""
    values = {"dice": 0.94, "iou": 0.9, "dice_marked": 0.79, "dice_of_predicting_nothing": 0.89}
    scores = {name: estimate(value) for name, value in values.items()}
    shown = [(fact.name, fact.cell.text) for fact in facts({"scores": scores})]
    assert shown == [("Dice marked", "0.790"), ("Dice", "0.940"), ("Dice of predicting nothing", "0.890")]


def test_several_runs_on_one_page(tmp_path):
    runs = [scored(tmp_path / "a"), trained(tmp_path / "b")]
    (tmp_path / "a" / "odd #?%.txt").write_text("")
    page = Page(write_report(tmp_path, "The <demo>", runs))
    check_alone(page)
    assert "The <demo>" in page.text
    assert len(page.of("img")) == 2 + 1 + 2 + 1, (
        "two cards, the first run's figure, an overlay a seed, and the enlarged one"
    )
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    addresses = [attributes["href"] for attributes in page.of("a")]
    for address in addresses:
        assert address[1:] in anchors if address[0] == "#" else (tmp_path / unquote(address)).exists(), address
    assert len(anchors) == sum("id" in attributes for _, attributes in page.tags)
    assert "./a/odd%20%23%3F%25.txt" in addresses


def compared(folder: Path) -> list[Difference]:
    """A comparison of two groundings over two seeds, as its task leaves it."""
    differences = []
    for k, (group, name) in enumerate((("larger", "mass"), ("larger", "all findings"), ("smaller", "mass"))):
        for of in ("pointing", "iou"):
            key, value = Key(group, name, of), 0.125 * (k + 1)
            interval = Interval(value - 0.25, value + 0.0625, 20, 0)
            differences.append(
                Difference(key, 7, 0.5, 0.5 + value, value, interval, (value - 0.03125, value + 0.03125))
            )
    about = {"a": {"run": "runs/one"}, "b": {"run": "runs/two"}, "seeds": [0, 4], "data": {"images": 7}}
    write_comparison(folder, differences, 20, 0, "patient", about)
    picture(folder / "differences.png")
    return differences


def test_a_comparison_shows_its_differences_first(tmp_path):
    """What was asked for would have to be unfolded from among the settings, or be read off a picture."""
    differences = compared(tmp_path)
    page = Page(write_report(tmp_path))
    check_alone(page)
    assert page.text.index("Differences") < page.text.index("Figures") < page.text.index("Settings and origin")
    assert page.row("score") == [
        "score",
        "n",
        "A",
        "B",
        "B - A",
        *page.row("score")[5:6],
        "leaves out 0",
        "seed 0",
        "seed 4",
    ]
    rows = [row for row in page.rows if row and row[0] in ("mass", "pointing game", "IoU")]
    shown = [(row[1], row[2], row[3], row[4], row[6], *row[7:]) for row in rows]
    expected = [
        (
            "7", "0.500", number(d.b), f"{number(d.value)} [{number(d.interval.low)}, {number(d.interval.high)}]",
            "yes" if d.clear else "no", *map(number, d.by_seed),
        )
        for d in (differences[k] for k in (2, 3, 0, 1, 4, 5))
    ]  # fmt: skip
    assert shown == expected, "the mean, a row a score; then the classes"
    assert "all findings larger than a patch" in page.text
    assert "pointing game, all findings larger than a patch: B - A" in page.text
    assert "What run B has above run A" in page.text
    for run in ("runs/one", "runs/two"):
        assert run in page.text


def test_many_runs_begin_with_what_is_said_of_them_all(tmp_path):
    """The one table over all data sets, and what is missing from it, would be on no page."""
    runs = [scored(tmp_path / "a"), grounded(tmp_path / "b")]
    results = [
        {"data_set": "one", "task": "zero-shot classification", "subset": "", "name": name, "map": "model", "n": 9}
        | {"scores": {"auroc": estimate(value, Interval(0, 1, 20, 0))}}
        for name, value in (("Mass", 0.75), ("mean of 1 class", 0.875))
    ]
    results += [
        {"data_set": "two", "task": "grounding", "subset": size, "name": "all findings", "map": which, "n": 9}
        | {"scores": {"pointing": estimate(0.625)}}
        for size in ("larger", "smaller")
        for which in MAPS
    ]
    states = [
        {"name": name, "state": state, "why": why}
        for name, state, why in (("one", "done", ""), ("three", "failed", "torn"))
    ]
    write_json(tmp_path / "metrics.json", {"version": 3, "results": results, "data_sets": states})
    (tmp_path / "config.yaml").write_text("device: here\n")
    page = Page(write_report(tmp_path, "All", runs))
    check_alone(page)
    parts = [
        "1 of 2",
        "1 class",
        "one, by class",
        "Grounding",
        "torn",
        "device: here",
        "Zero-shot classification: made up",
    ]
    places = [page.text.index(part) for part in parts]
    assert places == sorted(places)
    assert page.row("one")[1:4] == ["1 class", "9", "0.875 [0.000, 1.000]"]
    assert [row[1:3] for row in page.rows if row and row[0] == "two"] == [
        [s, m] for s in ("larger", "smaller") for m in MAPS
    ]
    assert [row[1] for row in page.rows if row and row[0] == "one"][:2] == ["1 class", "Mass"]
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    assert {a["href"][1:] for a in page.of("a") if a["href"][0] == "#"} <= set(anchors)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text() | st.sampled_from(HOSTILE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(
                [
                    *HOSTILE,
                    "interval",
                    "value",
                    "low",
                    "high",
                    "name",
                    "classes",
                    "scores",
                    "model",
                    "difference",
                    "group",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
SCORED = [
    "classes",
    "macro",
    "macro_without",
    "scores",
    "spread",
    "seeds",
    "larger",
    "smaller",
    "differences",
    "results",
    "data_sets",
]
JUDGED = ["calibration", "operating_points", "subgroups"]
KEYS = st.sampled_from([*SCORED, *JUDGED, "data", "environment", "bootstrap", "task", "later"])


@example(metrics={"calibration": {"classes": [{"name": "a", "ece": 0.1}]}, "data": {}})  # of version 2
@example(metrics={"classes": {"": None, "low": 0, "high": 0}})  # ends of an interval, and an entry beside them
@given(metrics=st.dictionaries(KEYS | st.text(max_size=5), JSON, max_size=5))
@settings(max_examples=80, deadline=None)
def test_any_metrics_json_becomes_a_safe_page(metrics):
    """Files of later versions, and names from anyone's data, must neither break the page nor become part of its code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        page = Page(write_report(folder))
    check_alone(page)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)
    | st.sampled_from(HOSTILE)
)
@settings(max_examples=30, deadline=None)
def test_what_is_not_known_is_shown_too(text):
    """A new entry of metrics.json that silently stays off the page would be overlooked."""
    metrics = {"later": {"deep": [{"name": text, "x": 1.25}, {"name": "other", "y": [[text]]}]}, "plain": text}
    with tempfile.TemporaryDirectory() as name:
        write_json(Path(name) / "metrics.json", metrics)
        page = Page(write_report(Path(name)))
    check_alone(page)
    assert page.text.count(text) >= 2
    assert "1.250" in page.text
    assert "Later" in page.text


def test_hostile_names_stay_names(tmp_path):
    classes = tuple(HOSTILE[:3])
    folder = scored(tmp_path / "run", classes)
    write_json(folder / "metrics.json", json.loads((folder / "metrics.json").read_text()))
    page = Page(write_report(folder, title=HOSTILE[0]))
    check_alone(page)
    for name in classes:
        assert any(row[0] == name for row in page.rows if row)
    assert "<b>where" in page.text


def test_the_page_is_whole_or_not_there(tmp_path, monkeypatch):
    """A failure of the page must leave the run's files, and an earlier page, as they were."""
    folder = scored(tmp_path / "run")
    earlier = write_report(folder).read_bytes()
    before = {path.name for path in folder.iterdir()}

    def fails(*_, **__):
        raise RuntimeError("made to fail")

    with monkeypatch.context() as patch:
        patch.setattr(report, "sections", fails)
        with pytest.raises(RuntimeError):
            write_report(folder)
    write_text = Path.write_text

    def half(path, text, **options):
        write_text(path, text[:100], **options)
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="disk full"):
            write_report(folder)
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / "report.html").read_bytes() == earlier


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
    """Sorting, enlarging and pictures, by a real click in a real browser, on a page with names that try to break it."""
    runs = [scored(tmp_path / "a", ("Mass", *HOSTILE[:2], "Hernia")), trained(tmp_path / "b"), grounded(tmp_path / "c")]
    metrics: dict[str, Any] = json.loads((runs[0] / "metrics.json").read_text())
    path = write_report(tmp_path, "All", runs)
    text = path.read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    probed.write_text(
        re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", PROBE + "</body>")
    )
    source, log = browse(probed, "--window-size=500,900", "--dump-dom")
    assert messages(log) == []
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', source).group(1)))
    assert found["images"] == [40, 40, 40]
    assert found["empty"] == 0
    scored_classes = [entry["scores"]["auroc"]["value"] for entry in metrics["classes"]]
    auroc = sorted(f"{value:.3f}" for value in scored_classes if value is not None)
    assert [cell.split()[0] for cell in found["rising"]] == [*auroc, MISSING]
    assert [cell.split()[0] for cell in found["falling"]] == [*auroc[::-1], MISSING]
    assert set(found["names"]) == {"Mass", *HOSTILE[:2], "Hernia"}
    assert found["enlarged"]
    assert found["closed"]
    assert found["wide"] <= 0, "a phone must not have to scroll the page sideways"


def test_the_pages_own_rules_let_its_own_script_run(tmp_path):
    """The policy names the script by its checksum: a wrong one would leave the page without sorting, silently."""
    folder = scored(tmp_path / "run")
    write_report(folder)
    source, log = browse(folder / "report.html", "--dump-dom")
    assert messages(log) == []
    assert re.search(r'<th[^>]* tabindex="0"', source), "the script makes headings pressable"
    browse(folder / "report.html", f"--screenshot={tmp_path / 'page.png'}", "--window-size=900,900")
    shot = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert shot.std() > 5, "an empty page"


def test_the_macro_row_stays_below(tmp_path):
    folder = scored(tmp_path / "run")
    page = Page(write_report(folder))
    labels = [row[0] for row in page.rows if row]
    assert labels.index("Hernia") + 1 == next(k for k, name in enumerate(labels) if name.startswith("mean of"))


def test_a_single_subgroup_has_no_gap():
    """With one view in the data the page would say that it lies above itself."""
    group = {"name": "PA", "images": 9, "patients": 9, "compared": True}
    means = {"PA": estimate(0.8)}
    one = {"classes": ["mass"], "means": means, "highest": "PA", "lowest": "PA", "gap": estimate(None)}
    shown, *_ = judgement_blocks("subgroups", {"view": {"groups": [group], "comparisons": {"auroc": one}}})
    assert "0.8" in str(shown)
    assert "above" not in str(shown)


def test_a_gap_between_means_over_cases_names_no_classes():
    """The page would speak of a mean of 0 classes."""
    groups = [{"name": name, "images": 9, "patients": 9, "compared": True} for name in "FM"]
    means = [{"group": name, "value": value, "interval": None} for name, value in (("F", 0.25), ("M", 0.75))]
    dice = {"classes": [], "means": means, "highest": "M", "lowest": "F", "gap": 0.5, "interval": None}
    shown, *_ = judgement_blocks("subgroups", {"sex": {"groups": groups, "comparisons": {"dice": dice}}})
    assert "(M above F)" in str(shown)
    assert "class" not in str(shown)
