"""A page in the browser: drop a radiograph, see the probabilities by group, and where each stream of the model looks.

The server is the standard library's and the page consists of this package's own files, so that nothing has to be installed and
no network is needed. No image is kept: each request brings the image that it is about. Its name is not sent, its header is read
for the pixels only, and what the page gets back is grey values.
"""

from __future__ import annotations

import base64
import errno
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qs

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.special import expit

from medslip.data.datasets.folder import Folder
from medslip.data.images import Grey, read_image
from medslip.errors import InputError, check_at_least
from medslip.evaluation.figures import heat_colours
from medslip.evaluation.grounding_scores import MapPair
from medslip.files import to_json
from medslip.predictor import Predictor
from medslip.run_dir import read_metrics
from medslip.tasks.weights import AuthorsConfig, newest, open_weights
from medslip.training.distributed import Device
from medslip.vocabulary import ANATOMIES, FINDING_GROUPS, NORMALITY, PATHOLOGIES, pathology_of

HOST = "127.0.0.1"
UNSCORED = "Without a validation score"
FOLDED = ("General words", "Normality", UNSCORED)
GROUPS = {**FINDING_GROUPS, "Normality": tuple(sorted(NORMALITY))}
EXAMPLES = 6
LONGEST_QUERY = 300  # characters
SHOWN_SIDE = 1024  # pixels of what the page gets
MOST_ANATOMIES = 3
SHIFTS = 2  # copies of the image down and across, as in Predictor.ground
SILENCE = 60  # seconds after which a browser that sends nothing is disconnected

_FILES = {
    "/": ("app.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/app.css": ("app.css", "text/css"),
    "/run_page.css": ("run_page.css", "text/css"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class AppConfig:
    """Look at radiographs through a model, on a page in the browser of this machine.

    It is research software, not for clinical decisions. Stop it with Ctrl-C.

    Attributes:
        checkpoint: The weights: a file, the directory of a pre-training run, or a repository on the Hugging Face Hub
            (owner/name); or the authors' .pth. A pattern such as runs/*/best.safetensors takes the newest file that matches.
        authors: How to read the authors' .pth.
        text_encoder: The checkpoint's text encoder, for free text, if it is not found under its recorded name.
        examples: Folder of images, such as phantoms; the last 6 are offered on the page. None offers none.
        device: Where to compute.
        port: Of the page's address, http://127.0.0.1:PORT, which only this machine can reach; 0 takes any free one.
        megabytes: Size of the largest file that is read.
    """

    checkpoint: Path
    authors: AuthorsConfig = field(default_factory=AuthorsConfig)
    text_encoder: str | None = None
    examples: Path | None = None
    device: Device = "auto"
    port: int = 7860
    megabytes: int = 64

    def __post_init__(self) -> None:
        check_at_least(self, port=0, megabytes=1)
        if self.port > 65535:
            raise InputError(f"port: {self.port} is more than 65535")


def run(config: AppConfig) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        InputError: The checkpoint or the examples cannot be read, or the port is in use.
    """
    with open_server(config) as server:
        print(f"http://{HOST}:{server.server_port} (stop with Ctrl-C)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:  # SIGTERM raises it, too, see cli
            print("the page is closed")


def open_server(config: AppConfig) -> Server:
    """The server of a config, listening; errors as for ``run``."""
    examples = Folder(config.examples).read().paths[-EXAMPLES:] if config.examples else ()
    checkpoint = newest(config.checkpoint)
    weights = open_weights(checkpoint, config.authors)
    device = None if config.device == "auto" else config.device
    viewer = Viewer(Predictor(weights, device, text_encoder=config.text_encoder))
    if not viewer.takes_text:
        print(f"no free text: {viewer.text_fault}")
    try:
        return Server(config.port, viewer, list(map(Path, examples)), config.megabytes, grouped(scored(checkpoint)))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise InputError(f"port: {config.port}: {error.strerror}; choose another") from None


def scored(checkpoint: Path) -> frozenset[str]:
    """The pathologies that the validation of a pre-training could score; empty where its run directory is not known."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    try:
        rows = read_metrics(folder).get("scores", [])
    except InputError:
        return frozenset()
    return frozenset(row["class"] for row in rows if not row.get("note") and row.get("class") in PATHOLOGIES)


def grouped(scored: frozenset[str]) -> dict[str, list[str]]:
    """Group -> its pathologies; of some that were scored, the others are in a group of their own.

    The probability of a pathology that the training's reports did not mention is arbitrary, and often high.
    """
    kept = {group: [name for name in names if not scored or name in scored] for group, names in GROUPS.items()}
    others = [name for names in GROUPS.values() for name in names if scored and name not in scored]
    return {group: names for group, names in {**kept, UNSCORED: others}.items() if names}


class Viewer:
    """What the page shows of an image; one request at a time uses the model.

    Args:
        predictor: The model.

    Attributes:
        text_fault: Why free text cannot be queried; empty if it can.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self._lock = predictor, threading.Lock()
        self.text_fault = ""
        try:  # now, so that no request waits for it or, where it is not on this machine, looks for it
            predictor.classify(np.zeros((32, 32), np.uint8), [], "effusion of the left lung")
        except InputError as error:
            self.text_fault = str(error)

    @property
    def takes_text(self) -> bool:
        """Whether free text can be queried."""
        return not self.text_fault

    def classify(self, file: bytes) -> dict[str, Any]:
        """The image, as the page shows it, and the probability of each pathology.

        Raises:
            InputError: The file is not a readable image; the message names no path.
        """
        grey = _read(file)
        with self._lock:
            table = self._predictor.classify(grey, [name for names in GROUPS.values() for name in names])
        return {"image": _picture(_fitted(grey)), "probabilities": table.iloc[0].to_dict()}

    def ground(self, file: bytes, query: str) -> dict[str, Any]:
        """Where each stream looks for a pathology, or the pathology stream for a free text.

        Returns:
            ``probability``; ``pathology`` and ``anatomy``, pictures to lay over the image; and ``anatomies``, those that the
            model pairs with the pathology most, with its probabilities. For free text, ``anatomy`` is None.

        Raises:
            InputError: The file is not a readable image, or the text cannot be queried; the message names no path.
        """
        grey, pathology = _read(file), pathology_of(query)
        if not query.strip() or len(query) > LONGEST_QUERY:
            raise InputError(f"describe the finding in 1 to {LONGEST_QUERY} characters")
        if pathology is None and not self.takes_text:
            raise InputError("free text cannot be queried: the text encoder was not found; the terminal says why")
        with self._lock:
            try:
                both: Literal[False, "both"] = "both" if pathology else False
                (seen,) = next(self._predictor.maps([grey], [pathology or query], shifts=SHIFTS, anatomy=both))
            except InputError:  # its message may have the text encoder's path
                raise InputError("the text encoder does not know these words; describe the finding in others") from None
        best = np.argsort(-seen.pairs, kind="stable")[:MOST_ANATOMIES] if pathology else ()
        return {
            "probability": seen.probability,
            "pathology": _overlay(seen.map, grey),
            "anatomy": seen.anatomy and _overlay(seen.anatomy, grey),
            "anatomies": [(ANATOMIES[k], float(expit(seen.pairs[k]))) for k in best],
        }


def _overlay(found: MapPair, grey: Grey) -> str:
    """A picture of a map, of the image's shape on the page."""
    return _picture(heat_colours(found.heat_map(*_fitted(grey).shape)))


class _Upload(BytesIO):
    """What was sent; messages call it by this name, as its own is unknown."""

    name = "this file"


def _read(file: bytes) -> Grey:
    return read_image(_Upload(file))


def _fitted(grey: Grey) -> Grey:
    """The image, at most as large as the page needs."""
    picture = Image.fromarray(grey)
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return np.asarray(picture)


def _picture(pixels: npt.NDArray[np.uint8]) -> str:
    """A data URL that holds the pixels as a PNG picture."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


class Server(ThreadingHTTPServer):
    """Answers the page's requests; listens on this machine only.

    Args:
        port: 0 takes any free one.
        viewer: What it answers with.
        examples: Images that anyone may see.
        megabytes: Size of the largest file that is read.
        groups: From ``grouped``.
    """

    daemon_threads = True

    def __init__(
        self, port: int, viewer: Viewer, examples: list[Path], megabytes: int, groups: dict[str, list[str]]
    ) -> None:
        super().__init__((HOST, port), _Handler)
        self.viewer, self.examples, self.megabytes, self.groups = viewer, examples, megabytes, groups

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of an error, but not for a browser that has gone."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def about(self) -> dict[str, Any]:
        """What the page needs to know."""
        limits = {"examples": len(self.examples), "megabytes": self.megabytes, "longest_query": LONGEST_QUERY}
        return {"groups": self.groups, "folded": FOLDED, "takes_text": self.viewer.takes_text, **limits}


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE

    def do_GET(self) -> None:
        server, path = cast(Server, self.server), self.path
        example = re.fullmatch(r"/examples/([0-9]{1,3})", path)
        if not self._is_own_page():
            self._answer(403, {"error": "this page answers to its own address only"})
        elif path in _FILES:
            name, kind = _FILES[path]
            self._send(200, resources.files("medslip.resources").joinpath(name).read_bytes(), f"{kind}; charset=utf-8")
        elif path == "/about":
            self._answer(200, server.about())
        elif example and int(example[1]) < len(server.examples):
            self._send(200, server.examples[int(example[1])].read_bytes(), "application/octet-stream")
        else:
            self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        server, (path, _, fields) = cast(Server, self.server), self.path.partition("?")
        length = self.headers.get("Content-Length", "")
        if not self._is_own_page():
            self._answer(403, {"error": "this page answers to its own address only"})
        elif path not in ("/classify", "/ground"):
            self._answer(404, {"error": "not found"})
        elif not re.fullmatch("[0-9]{1,15}", length) or int(length) > server.megabytes << 20:
            self._answer(413, {"error": f"this file: has more than {server.megabytes} MB; make it smaller"})
        else:
            file = self.rfile.read(int(length))
            query = parse_qs(fields).get("query", [""])[0]
            try:
                asked = server.viewer.classify(file) if path == "/classify" else server.viewer.ground(file, query)
                self._answer(200, asked)
            except InputError as error:
                self._answer(400, {"error": str(error)})
            except Exception:
                traceback.print_exc()
                self._answer(500, {"error": "this file: cannot be processed; the terminal says why"})

    def _is_own_page(self) -> bool:
        """Whether no page of another site is asking, by a form of its own or by a name that it has pointed at this machine."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        return host.split(":")[0] in (HOST, "localhost") and origin in (None, f"http://{host}")

    def _answer(self, status: int, content: Mapping[str, Any]) -> None:
        self._send(status, to_json(content).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        return "medslip"

    def log_message(self, *_: Any) -> None:
        """Log nothing: queries may be about a patient."""


COMMAND = (AppConfig, run)
