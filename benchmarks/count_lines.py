"""Count lines, and code lines (without comments, docstrings, imports and blanks), per package."""

import ast
import subprocess
import sys
import time
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]
GOALS = pd.DataFrame(
    {"before": [20928, 11350, 12310, 24, 25, 5.0], "now": 0.0, "goal": [14000, 7500, 10000, None, 14, 0.3]},
    index=[
        "lines of medslip",
        "code lines of medslip",
        "lines of tests",
        "% docstrings",
        "lines of forward",
        "s --help",
    ],
)
NO_CODE = {tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def span(node: Any) -> range:
    """The lines of a statement."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def is_docstring(node: ast.AST) -> bool:
    """Whether a statement is only a string, as the docstrings of attributes are too."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def count(path: Path) -> tuple[int, int, int]:
    """Lines, code lines and docstring lines of a file."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    documented = {line for node in filter(is_docstring, nodes) for line in span(node)}
    imports = {line for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for line in span(node)}
    with path.open("rb") as file:
        tokens = [
            token for token in tokenize.tokenize(file.readline) if token.type not in NO_CODE | {tokenize.ENDMARKER}
        ]
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(path.read_text(encoding="utf-8").splitlines()), len(code - documented - imports), len(documented)


def forward_lines() -> int:
    """Lines of MeDSLIP.forward after its docstring."""
    tree = ast.parse((ROOT / "medslip/model/medslip.py").read_text(encoding="utf-8"))
    (model,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "MeDSLIP")
    (forward,) = (node for node in model.body if isinstance(node, ast.FunctionDef) and node.name == "forward")
    body = forward.body[1:] if ast.get_docstring(forward) else forward.body
    return sum(len(span(statement)) for statement in body)


def main() -> None:
    """Print lines per package, and the goals."""
    rows: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for path in sorted([*ROOT.glob("medslip/**/*.py"), *ROOT.glob("tests/**/*.py")]):
        top, *rest = path.relative_to(ROOT).parts
        rows[f"{top}/{rest[0]}/" if len(rest) > 1 else f"{top}/*.py"].append(count(path))
    packages = pd.DataFrame({name: map(sum, zip(*counts, strict=True)) for name, counts in rows.items()}).T
    packages.columns = ["lines", "code", "docstrings"]
    product, tests = (packages[packages.index.str.startswith(top)].sum() for top in ("medslip", "tests"))
    print(pd.concat([packages, pd.DataFrame({"medslip": product, "tests": tests}).T]), end="\n\n")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from medslip.cli import main; main(['--help'])"], stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    documented = 100 * product["docstrings"] / product["lines"]
    GOALS["now"] = [product["lines"], product["code"], tests["lines"], documented, forward_lines(), took]
    print(GOALS.to_string(float_format="{:g}".format))


if __name__ == "__main__":
    main()
