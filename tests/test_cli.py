"""The command line: what is wrong is said in one line that names it, with status 2, and never a traceback."""

import errno
import json
import os
import re
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import yaml

from medslip import cli, config
from medslip.cli import main, run_task
from medslip.config import config_to_dict, parse
from medslip.data.registry import DATA_SETS
from medslip.errors import InputError
from medslip.tasks.zeroshot_cls import ZeroshotConfig
from medslip.version import __version__


@dataclass(frozen=True)
class Inner:
    """What is inside.

    Attributes:
        number: How many there are of it.
        kind: Which kind.
        ratio: A share.
    """

    number: int = 3
    kind: Literal["round", "square"] = "round"
    ratio: float | None = None

    def __post_init__(self):
        if self.number < 0:
            raise InputError(f"inner.number: {self.number} is less than 0")


@dataclass(frozen=True)
class Config:
    """Do something with it.

    More about that.

    Attributes:
        inner: The inner part.
        folder: Where it goes.
        names: Name -> text.
        thorough: Whether to take time.
    """

    inner: Inner = field(default_factory=Inner)
    folder: Path = Path("here")
    names: dict[str, str] = field(default_factory=dict)
    thorough: bool = False


@pytest.fixture
def ran(monkeypatch):
    """The configs that a task of our own, medslip toy, ran with."""
    ran = []
    monkeypatch.setitem(sys.modules, "medslip.tasks.toy", SimpleNamespace(COMMAND=(Config, ran.append)))
    tasks = {"toy": "does something", "source": "does something else"}
    monkeypatch.setattr(cli, "TASKS", tasks)
    monkeypatch.setattr(cli, "GROUPS", {"Toys": tasks})
    return ran


def one_line(capsys):
    """Standard error, which must be one line beginning with "error:"."""
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_defaults_yaml_and_overrides_in_that_order(ran, tmp_path):
    """The last word is the command line's; a YAML holds only what differs."""
    (tmp_path / "toy.yaml").write_text("inner: {number: 7, kind: square}\nnames: {a: b}\n")
    assert main(["toy"]) == 0
    assert main(["toy", "--config", str(tmp_path / "toy.yaml"), "--inner.number", "9", "--folder=/x"]) == 0
    assert main(["toy", f"--config={tmp_path / 'toy.yaml'}", "--thorough", "true", "--inner.ratio", "0.5"]) == 0
    assert ran == [
        Config(),
        Config(Inner(9, "square"), Path("/x"), {"a": "b"}),
        Config(Inner(7, "square", 0.5), names={"a": "b"}, thorough=True),
    ]


def test_a_key_may_be_typed_with_dashes_but_a_name_of_the_users_keeps_its_own(ran):
    """--names.covid-19 would ask for a class covid_19, which no data set has."""
    assert main(["toy", "--inner.number", "1", "--names.covid-19=a-b", "--names.covid_19", "c"]) == 0
    assert [each.names for each in ran] == [{"covid-19": "a-b", "covid_19": "c"}]


@pytest.mark.parametrize(
    ("typed", "read"),
    [("nodule: a round shadow # of 3 cm", {"nodule": "a round shadow # of 3 cm"}),
     ('nodule: a "round" & *sharp* shadow: small', {"nodule": 'a "round" & *sharp* shadow: small'}),
     ('{"a b": "c # d", e: f}', {"a b": "c # d", "e": "f"})],
)  # fmt: skip
def test_free_text_is_taken_as_typed(typed, read):
    """YAML would take a part of it for a comment, an anchor or quotes."""
    arguments = ["--checkpoint", "a", "--data.kind", "folder", "--data.path", "b"]
    assert parse(ZeroshotConfig, [*arguments, "--prompt", typed]).prompt == read


@pytest.mark.parametrize("digits", ["0123", "123", "2024-01-01", "12:30", "007/1e3"])
def test_a_path_of_digits_in_yaml_is_a_path(tmp_path, digits):
    (tmp_path / "c.yaml").write_text(f"checkpoint: a\noutput: {digits}\ndata: {{kind: folder, path: {digits}}}\n")
    parsed = parse(ZeroshotConfig, ["--config", str(tmp_path / "c.yaml")])
    assert (parsed.output, parsed.data.path) == (Path(digits), Path(digits))


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [("checkpoint: a\nseed: 1\nseed: 2\n", "seed", 3), ("data:\n  kind: folder\nseed: 1\ndata:\n  path: b\n", "data", 4),
     ("data:\n  path: a\n  path: b\n", "path", 3)],
)  # fmt: skip
def test_a_key_given_twice_in_yaml_is_an_error(tmp_path, text, key, line):
    """The first block would be lost without a word."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"c\.yaml: line {line}: key '{key}' is given twice$"):
        parse(ZeroshotConfig, ["--config", str(tmp_path / "c.yaml")])


@pytest.mark.parametrize(
    ("text", "message"),
    [("data: &a {kind: folder}\noutput: *a\n", "line 2: alias *a is not supported; repeat the value"),
     ("[a, b]: 1\n", "line 1: key in brackets is not text"), ("1: 2\n", "no key '1'"),
     ("seed: " + "{a: " * 2000, "Problems parsing config: is nested too deeply, or has a number of too many digits"),
     ("seed: " + "9" * 5000, "Problems parsing config: is nested too deeply, or has a number of too many digits"),
     ("seed: " + "1" * 100_000, "Problems parsing config: has 100,006 characters; a config may have 100,000"),
     ('checkpoint: "a\\0"\n', "checkpoint: Not of type Path: not a path that files can have: 'a\\x00'"),
     (f"checkpoint: b/{'é' * 128}\n", "checkpoint: Not of type Path: not a path that files can have: 'b/\\xe9")],
)  # fmt: skip
def test_yaml_that_is_no_config_is_one_line(tmp_path, text, message):
    """It would end in a traceback, or fill the memory."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        parse(ZeroshotConfig, ["--config", str(tmp_path / "c.yaml")])
    assert str(caught.value).startswith(f"{tmp_path / 'c.yaml'}: {message}")


def test_keys_of_yaml_are_text(tmp_path):
    """A class of a table's columns 1 and No would be a number and a truth value."""
    (tmp_path / "c.yaml").write_text("data: {kind: csv, path: a, classes: {1: edema, No: normal}}\n")
    assert parse(ZeroshotConfig, ["--checkpoint=a", "--config", str(tmp_path / "c.yaml")]).data.classes == {
        "1": "edema",
        "No": "normal",
    }


def test_a_prompt_of_its_own_may_have_dashes():
    arguments = ["--checkpoint", "x", "--data.kind", "folder", "--data.path", "x", "--batch-size", "3"]
    parsed = parse(ZeroshotConfig, [*arguments, "--prompt.covid-19=ground-glass opacities"])
    assert parsed.prompt == {"covid-19": "ground-glass opacities"}
    assert parsed.batch_size == 3


def test_resolved_config_repeats_the_run(ran, tmp_path):
    """config.yaml of a run folder must read back as the very config that ran."""
    resolved = Config(Inner(5, "square", None), tmp_path / "ü", {"a: b": "c, {d}"}, True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_to_dict(resolved), allow_unicode=True))
    assert parse(Config, ["--config", str(tmp_path / "config.yaml")]) == resolved


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--inner.numbr", "3"], ["inner.numbr", "did you mean inner.number?"]),
        (["--nams", "a: b"], ["nams", "did you mean names?"]),
        (["--inner.numb", "3"], ["inner.numb"]),  # no abbreviations: a key has one spelling
        (["--number", "3"], ["number"]),
        (["extra"], ["extra"]),
        (["--inner.number", "three"], ["inner.number", "int", "three"]),
        (["--inner.number", "1.5"], ["inner.number", "1.5"]),
        (["--inner.ratio", "half"], ["inner.ratio: Expected float or null. Got value: half"]),
        (["--inner.kind", "oval"], ["inner.kind", "'round', 'square'", "oval"]),
        (["--inner.number", "-1"], ["inner.number", "less than 0"]),
        (["--names", "text"], ["names"]),
        (["--inner.number"], ["inner.number"]),
        (["--thorough", "perhaps"], ["thorough", "perhaps"]),
        (["--config"], ["config"]),
    ],
)
def test_bad_argument_is_one_line_with_its_key(ran, capsys, arguments, words):
    assert main(["toy", *arguments]) == 2
    error = one_line(capsys)
    assert "medslip toy" in error
    assert all(word in error for word in words), error
    assert ran == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inner: {numbr: 3}", ["numbr", "did you mean inner.number?"]),
        ("outer: 3", ["outer"]),
        ("inner: {number: three}", ["inner.number", "three"]),
        ("inner: {number: -1}", ["inner.number", "less than 0"]),
        ("inner: 3", ["inner", "is a group of keys", "3"]),
        ("inner: [1]", ["inner"]),
        ("inner: null", ["inner", "has no value"]),
        ("folder: null", ["folder", "has no value"]),
        ("inner: {number: 3", ["line 1"]),
        ("\tinner: 3", ["line 1"]),
        ("- inner", ["YAML"]),
        ("# nothing but a comment\n", ["no keys"]),
        ("", ["no keys"]),
        ("3: 4", ["3"]),
    ],
)
def test_bad_yaml_is_one_line_with_the_files_name(ran, capsys, tmp_path, text, words):
    """Of several files, the one at fault must be named, and the key in it."""
    (tmp_path / "good.yaml").write_text("thorough: true\n")
    (tmp_path / "bad.yaml").write_text(text)
    assert main(["toy", "--config", str(tmp_path / "good.yaml"), f"--config={tmp_path / 'bad.yaml'}"]) == 2
    error = one_line(capsys)
    assert str(tmp_path / "bad.yaml") in error
    assert "good.yaml" not in error
    assert all(word in error for word in words), error
    assert "functools" not in error
    assert ran == []


@dataclass(frozen=True)
class Needy:
    """Has a key without a default.

    Attributes:
        path: Where.
        number: How many.
    """

    path: Path
    number: int = 3

    def __post_init__(self):
        if self.number < 0:
            raise InputError(f"number: {self.number} is less than 0")


@pytest.mark.parametrize(
    ("text", "arguments", "start"),
    [
        ("{number: -1, path: a}", [], "FILE: number"),
        ("{number: -1}", ["--path", "b"], "FILE: number"),  # alone, the file lacks the path too
        ("{path: a}", ["--number", "-1"], "medslip: number"),
        ("{number: 1, path: a}", ["--number", "-1"], "medslip: number"),
        ("{number: 1}", [], "medslip: path: not given"),
    ],
)
def test_the_file_is_named_where_it_is_at_fault(tmp_path, text, arguments, start):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as raised:
        parse(Needy, ["--config", str(tmp_path / "a.yaml"), *arguments])
    assert str(raised.value).replace(str(tmp_path / "a.yaml"), "FILE").startswith(start)


def test_yaml_on_the_command_line_is_not_looked_for_as_a_file():
    with pytest.raises(InputError, match=r"^medslip: number: -1 is less than 0"):
        parse(Needy, ["--config", "{number: 1}", "--path", "b", "--number", "-1"])


def test_missing_yaml_is_named(ran, capsys, tmp_path):
    assert main(["toy", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in one_line(capsys)


def test_override_that_is_wrong_does_not_blame_the_yaml(ran, capsys, tmp_path):
    (tmp_path / "good.yaml").write_text("thorough: true\n")
    assert main(["toy", "--config", str(tmp_path / "good.yaml"), "--inner.number", "x"]) == 2
    assert "good.yaml" not in one_line(capsys)


def test_unknown_task_suggests_and_lists_the_known_ones(ran, capsys):
    assert main(["toyy"]) == 2
    assert "unknown task 'toyy'; did you mean toy? choose one of toy, source" in one_line(capsys)
    assert main(["xyz"]) == 2
    assert "unknown task 'xyz'; choose one of toy, source" in one_line(capsys)


def test_without_a_task_the_tasks_are_listed(ran, capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.count("does something\n") == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def asks_for_help(*arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return left.value.code


def test_help_explains_each_key_with_the_docstrings_words(ran, capsys, monkeypatch):
    """The dataclass is the only place where a key is explained."""
    monkeypatch.setenv("COLUMNS", "200")
    assert asks_for_help("toy", "--help") == 0
    shown = capsys.readouterr().out
    for words in (
        "Do something with it.",
        "How many there are of it.",
        "Which kind.",
        "Name -> text.",
        "default: here",
    ):
        assert words in shown


def test_completion_is_a_script_that_bash_can_load(capsys, tmp_path):
    """It knows every task and its keys."""
    assert main(["--print_completion", "bash"]) == 0
    (tmp_path / "medslip.bash").write_text(capsys.readouterr().out)
    words = "COMP_WORDS=(medslip ground --thres); COMP_CWORD=2; _shtab_medslip; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", f"source medslip.bash; {words}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["--threshold"], done.stderr
    assert main(["--print_completion", "dos"]) == 2
    assert "'dos' is not one of bash" in capsys.readouterr().err


def test_help_of_every_real_task_explains_every_key(capsys, monkeypatch):
    """A key that its docstring forgets would show without a word."""
    monkeypatch.setenv("COLUMNS", "500")
    kinds = [("zeroshot_cls", "--data.kind", kind) for kind in DATA_SETS]
    for task in [*((name,) for name in cli.TASKS), *kinds]:
        assert asks_for_help(*task, "--help") == 0
        for line in capsys.readouterr().out.splitlines():
            unexplained = re.fullmatch(r"\s*(--\S+ \S+)?\s*\(type:.*", line)
            assert not unexplained, f"{task}: {line}"


@pytest.fixture
def phantom_yaml(monkeypatch, tmp_path):
    """A packaged phantom config of the toy task."""
    (tmp_path / "toy.yaml").write_text("inner: {number: 9}\nfolder: data_file/phantom/x\n")
    monkeypatch.setattr(config, "PHANTOM_CONFIGS", tmp_path)
    return tmp_path / "toy.yaml"


def test_without_any_argument_a_task_runs_on_the_phantom_data_and_says_so_first(ran, phantom_yaml, capsys):
    assert main(["toy"]) == 0
    assert ran == [Config(Inner(9), Path("data_file/phantom/x"))]
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"No arguments: running on the phantom data with {phantom_yaml}")


def test_with_any_argument_nothing_of_the_phantom_config_is_used(ran, phantom_yaml, capsys):
    """A forgotten data set must not turn into scores of drawn chests."""
    assert main(["toy", "--thorough", "true"]) == 0
    assert ran == [Config(thorough=True)]
    assert capsys.readouterr().out == ""


def test_without_phantoms_the_command_that_makes_them_is_named(ran, phantom_yaml, monkeypatch, capsys):
    fails_with(monkeypatch, InputError("data_file/phantom/x: no such file"))
    assert main(["toy"]) == 2
    assert "no such file; make the phantom data and model first: python scripts/demo.py" in one_line(capsys)


@pytest.mark.parametrize("task", ["zeroshot_cls", "ground", "finetune_cls", "finetune_seg", "evaluate_all", "pretrain"])
def test_with_an_argument_the_data_must_be_named(task, capsys):
    """Otherwise `zeroshot_cls --checkpoint my.safetensors` would score data that nobody chose."""
    key = "resume" if task == "pretrain" else "checkpoint"
    assert main([task, f"--{key}", "true"]) == 2
    error = one_line(capsys)
    assert "classification, grounding: not given" in error if task == "evaluate_all" else "data." in error
    assert f"without any arguments, medslip {task} runs on the phantom data" in error


def test_phantom_config_moves_the_corpus_and_sets_top_level_keys(ran, phantom_yaml):
    moved = config.phantom_config(Config, "toy", Path("/corpus"), thorough=True)
    assert moved == Config(Inner(9), Path("/corpus/x"), thorough=True)


def test_a_dictionary_given_twice_is_an_error(ran, capsys):
    """The first prompt would be lost without a word."""
    assert main(["toy", "--names", "{x: y}", "--names={z: w}"]) == 2
    assert "names: given 2 times; give all entries at once" in one_line(capsys)


def fails_with(monkeypatch, error):
    def run(config):
        raise error

    monkeypatch.setattr(sys.modules["medslip.tasks.toy"], "COMMAND", (Config, run))


def test_bad_input_met_on_the_way_is_one_line_and_status_2(ran, capsys, monkeypatch):
    fails_with(monkeypatch, InputError("a.csv: line 3:\n  no such image"))
    assert run_task("toy", []) == 2
    assert one_line(capsys) == "error: a.csv: line 3: no such image\n"


@pytest.mark.parametrize(
    ("group", "again"), [("Data", "run the same command again"), ("Training", "continue with --resume true")]
)
def test_interruption_is_one_line(ran, capsys, monkeypatch, group, again):
    monkeypatch.setitem(cli.GROUPS, group, {"toy": ""})
    fails_with(monkeypatch, KeyboardInterrupt())
    assert run_task("toy", []) == 130
    assert one_line(capsys) == f"error: interrupted; {again}\n"


def test_error_of_one_of_many_processes_is_not_lost(ran, capsys, monkeypatch):
    """A broken image in the share of process 1 is known to process 1 alone."""
    monkeypatch.setenv("RANK", "1")
    fails_with(monkeypatch, InputError("b.png: cut short"))
    assert run_task("toy", []) == 2
    assert capsys.readouterr().err == "error (process 1): b.png: cut short\n"


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), "a.csv: No space left on device; check that"),
        (OSError(errno.EPIPE, "Broken pipe"), "Broken pipe; check that"),
        (RuntimeError("[gloo/pair.cc:561] Connection closed by peer [127.0.0.1]:6"), "another process of this run"),
        (BrokenProcessPool("A process was terminated."), "A process was terminated; if memory ran out"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "DataLoader worker (pid 7) is killed",
        ),
    ],
)
def test_a_full_disk_or_a_killed_worker_is_one_line_and_status_1(ran, capsys, monkeypatch, error, start):
    """Nothing is wrong with the input or with our code, so status 2 and a traceback would both mislead."""
    fails_with(monkeypatch, error)
    assert run_task("toy", []) == 1
    assert one_line(capsys).startswith(f"error: {start}")


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError, RuntimeError])
def test_unforeseen_exception_keeps_its_traceback(ran, monkeypatch, error):
    """It is an error of ours: hiding it would hide where."""
    fails_with(monkeypatch, error("unforeseen"))
    with pytest.raises(error, match="unforeseen"):
        run_task("toy", [])


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--version"], 0), (["pretrian"], 2), ([], 2)])
def test_help_version_and_a_misspelt_task_answer_without_heavy_imports(arguments, status):
    """With torch, a user would wait for seconds to read a list."""
    code = (
        f"import sys; from medslip.cli import main; assert main({arguments}) == {status}; "
        "print(sorted(sys.modules.keys() & {'torch', 'transformers', 'pandas', 'numpy', 'jsonargparse', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


SCRIPT = Path(__file__).parents[1] / "scripts" / "pretrain.py"


@pytest.mark.parametrize(
    ("code", "status", "lines"),
    [
        ("sys.argv[1:] = ['--train.epochs', 'x']; runpy.run_path(SCRIPT, run_name='__main__')", 2, 1),
        ("import medslip.cli as c; c._run = lambda *a: 1 / 0; c.script('pretrain')", 1, None),
    ],
)
def test_exit_status_of_a_real_process(tmp_path, code, status, lines):
    """0, 2 for bad input, 1 for any other failure: what a shell script relies on."""
    code = f"import runpy, sys; SCRIPT = {json.dumps(str(SCRIPT))}; {code}"
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == status, done.stderr
    if lines is not None:
        assert done.stderr.count("\n") == lines
    assert ("Traceback" in done.stderr) == (status == 1)
