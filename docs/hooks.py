"""Hooks of MkDocs: pages that are files of the repository, and equations as MathML, which browsers show without scripts."""

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

PAGES = {
    "README.md": "index.md",
    "data_file/README.md": "downloads.md",
    "checkpoints/README.md": "weights.md",
    "MODEL_CARD.md": "model_card.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
"""File of the repository -> page of the site that shows it."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are files of the repository."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=Path(source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Point links between files of the repository at their pages; a file without one, such as LICENSE, becomes text."""
    sources = {shown: source for source, shown in PAGES.items()}
    folder = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def linked(match: re.Match[str]) -> str:
        text, target, anchor = match.groups(default="")
        path = posixpath.normpath(posixpath.join(folder, target))
        shown = PAGES.get(path, path.removeprefix("docs/"))
        return f"[{text}]({shown}{anchor})" if files.get_file_from_path(shown) else text

    return re.sub(r"\[([^\]]*)\]\((?!http)([^)#:\s]+)(#[^)]*)?\)", linked, markdown)


def on_page_content(content: str, **_: Any) -> str:
    r"""Turn \(...\) and \[...\], as arithmatex leaves them, into MathML."""
    for opening, closing, display in ((r"\(", r"\)", "inline"), (r"\[", r"\]", "block")):
        pattern = f'(<(?:span|div) class="arithmatex">){re.escape(opening)}(.*?){re.escape(closing)}'
        content = re.sub(
            pattern,
            lambda match, display=display: match[1] + convert(html.unescape(match[2]), display=display),
            content,
            flags=re.DOTALL,
        )
    return content
