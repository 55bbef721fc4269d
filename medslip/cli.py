"""The command line: typed config <- YAML <- --dotted.overrides, and the one place that turns user errors into one line.

`medslip TASK ...` and `python scripts/TASK.py ...` are the same. Exit status: 0; 2 for bad input; 130 when interrupted;
1 for any other failure.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, NoReturn, cast, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from medslip.errors import InputError, one_line
from medslip.tasks.run_start import config_to_dict
from medslip.version import __version__

TASKS: dict[str, str] = {
    "compare": "two runs on the same images -> paired differences with intervals",
    "demo": "everything on phantom chests: draw, prepare, pre-train, classify, ground, fine-tune; one report",
    "evaluate_all": "a model and every data set that is there -> one table in the shape of the papers'",
    "finetune_cls": "a model's trunk and labelled images -> a classifier, scored on its test images",
    "finetune_seg": "a model's trunk and images with masks -> a segmenter, scored on its test images",
    "ground": "a model and images with boxes -> where it looks, scored beside chance",
    "make_phantom": "draw a corpus of phantom chests with reports, graphs, masks and boxes",
    "prepare_data": "a publisher's layout -> lists and a label store (sub-command: the source)",
    "pretrain": "lists and a label store -> a pre-trained model",
    "zeroshot_cls": "a model and images -> class probabilities and their scores",
}
"""Each is a module of medslip.tasks with COMMAND, a config class and what to run, or SUBCOMMANDS of such pairs; and perhaps
embedded_default(), the config that a call without arguments runs."""

_ON_PHANTOMS = frozenset({"evaluate_all", "finetune_cls", "finetune_seg", "ground", "zeroshot_cls"})
"""Tasks that take embedded_default() for whatever is not given, as long as no data set is named either."""

_NAMES_DATA = (
    r"--(config|classification|grounding|(data|validation)([.](train|valid|test))?([.](kind|path))?)(=|$)|-h$|--help"
)
"""Options that name a data set, a config, or ask for help."""

Command = tuple[Callable[..., Any], Callable[[Any], Any]]
"""A config class, and what runs with such a config."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command: medslip TASK [SUBCOMMAND] [--config FILE] [--key value ...]."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: medslip TASK [options]; medslip TASK --help explains each key\n")
        print("\n".join(f"  {name:14} {what}" for name, what in TASKS.items()))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] not in TASKS:
        return _refuse(f"unknown task {arguments[0]!r}: one of {', '.join(TASKS)}")
    return run_task(arguments[0], arguments[1:])


def script(task: str) -> NoReturn:
    """What each file in scripts/ does."""
    sys.exit(run_task(task, sys.argv[1:]))


def run_task(task: str, arguments: Sequence[str]) -> int:
    """Parse a task's arguments and run it; returns the exit status."""
    try:
        _run(task, list(arguments))
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _refuse("interrupted; a training that has begun goes on with --resume true", status=130)
    return 0


def _run(task: str, arguments: list[str]) -> None:
    module = importlib.import_module(f"medslip.tasks.{task}")
    subcommands: dict[str, Command] = getattr(module, "SUBCOMMANDS", {})
    commands = subcommands or {"": module.COMMAND}
    if not arguments and hasattr(module, "embedded_default"):
        config = module.embedded_default()
        next(run for config_class, run in commands.values() if config_class is type(config))(config)
        return
    name, source = f"medslip {task}", ""
    if subcommands:
        source, arguments = _source(name, subcommands, arguments), arguments[1:]
    config_class, run = commands[source]
    called = f"{name} {source}".strip()
    config = parse(config_class, arguments, called)
    if task in _ON_PHANTOMS and not any(re.match(_NAMES_DATA, argument) for argument in arguments):
        phantoms = yaml.safe_dump(config_to_dict(module.embedded_default()))
        config = parse(config_class, ["--config", phantoms, *arguments], called)
    run(config)


def _source(name: str, subcommands: dict[str, Command], arguments: list[str]) -> str:
    """The sub-command that the first argument names."""
    known = ", ".join(subcommands)
    if not arguments:
        raise InputError(f"{name}: no source named: one of {known}")
    if arguments[0] in ("-h", "--help"):
        print(f"usage: {name} SOURCE [options]; {name} SOURCE --help explains each key\n\nsources: {known}")
        sys.exit(0)
    if arguments[0] not in subcommands:
        raise InputError(f"{name}: unknown source {arguments[0]!r}: one of {known}")
    return arguments[0]


def parse(config_class: Callable[..., Any], arguments: Sequence[str], name: str = "medslip") -> Any:
    """Arguments -> config.

    Args:
        config_class: A dataclass; its docstring explains the keys. Its attribute ``positional``, where it has one, names
            keys that may be given without --key, in that order.
        arguments: --config FILE and --dotted.key value, later ones win.
        name: The command, for help and messages.

    Raises:
        InputError: An unknown key, a value of the wrong type, a dictionary given twice, a missing or unreadable YAML.
    """
    arguments = _with_keys(
        [_with_underscores(argument, config_class) for argument in arguments], getattr(config_class, "positional", ())
    )
    _refuse_repeated(arguments, config_class)
    # An abbreviated key would be a second spelling, and would change its meaning with the next key that begins like it.
    parser = jsonargparse.ArgumentParser(
        prog=name, exit_on_error=False, allow_abbrev=False, description=_summary(config_class)
    )
    parser.add_argument("--config", action="config", help="A YAML file; holds only what differs from the defaults.")
    parser.add_class_arguments(config_class, nested_key=None, fail_untyped=True)
    try:
        return _build(parser, arguments, config_class)
    except _FAULTS as error:
        file = _file_at_fault(parser, arguments, config_class)
        raise InputError(f"{file or name}: {_plain(str(error))}") from None


def _refuse_repeated(arguments: Sequence[str], config_class: Callable[..., Any]) -> None:
    """Refuse a dictionary that is given twice: the later one would take the place of the earlier one in silence."""
    for name, kind in get_type_hints(config_class).items():
        if dict in {get_origin(part) for part in (kind, *get_args(kind))}:
            given = sum(argument.split("=")[0] == f"--{name}" for argument in arguments)
            if given > 1:
                raise InputError(
                    f"{name}: given {given} times; give all at once, as in --{name} '{{first: ..., second: ...}}'"
                )


def _with_underscores(argument: str, config_class: Callable[..., Any]) -> str:
    """--cache-size=256 as --cache_size=256: a key may be typed either way; but a dict's own keys are the user's."""
    key, equals, value = argument.partition("=")
    if not key.startswith("--"):
        return argument
    parts = key[2:].split(".")
    kinds: list[Any] = [config_class]
    for place, part in enumerate(parts):
        if any(get_origin(kind) is dict for kind in kinds):
            break
        parts[place] = part.replace("-", "_")
        owner = next(filter(is_dataclass, kinds), None)
        kind = get_type_hints(owner).get(parts[place]) if owner else None
        kinds = [kind, *get_args(kind)]
    return f"--{'.'.join(parts)}{equals}{value}"


def _with_keys(arguments: Sequence[str], positional: Sequence[str]) -> list[str]:
    """Values without a key get the positional ones, in order; those left over stay as they are, and are refused."""
    given: list[str] = []
    keys, rest = iter(positional), iter(arguments)
    for argument in rest:
        if argument.startswith("-"):
            alone = "=" in argument or argument in ("-h", "--help")
            given += [argument, *itertools.islice(rest, 0 if alone else 1)]
        else:
            key = next(keys, None)
            given += [argument] if key is None else [f"--{key}", argument]
    return given


_FAULTS = (InputError, jsonargparse.ArgumentError, TypeError, ValueError, OSError)
"""What a config that cannot be used raises."""


def _build(parser: jsonargparse.ArgumentParser, arguments: Sequence[str], config_class: Callable[..., Any]) -> Any:
    parsed = parser.parse_args(list(arguments))
    _refuse_gaps(parsed.as_dict(), config_class)
    values = parser.instantiate(parsed)
    return config_class(**{key: value for key, value in vars(values).items() if key not in ("config", "__path__")})


def _refuse_gaps(values: Mapping[str, Any], config_class: Callable[..., Any], above: str = "") -> None:
    """Refuse a key without a value, and a group of keys that is one value: the parser lets both pass."""
    for key, kind in get_type_hints(config_class).items():
        value = values.get(key)
        if value is None and NoneType not in get_args(kind):
            raise InputError(f"{above}{key}: has no value")
        if is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise InputError(f"{above}{key}: holds keys of its own, not the value {value!r}")
            _refuse_gaps(value, cast(type, kind), f"{above}{key}.")


def _file_at_fault(
    parser: jsonargparse.ArgumentParser, arguments: Sequence[str], config_class: Callable[..., Any]
) -> str | None:
    """The first --config file that cannot be used even alone."""
    files = [value for key, value in itertools.pairwise(arguments) if key == "--config"]
    files += [key.removeprefix("--config=") for key in arguments if key.startswith("--config=")]
    for file in files:
        try:
            _build(parser, ["--config", file], config_class)
        except _FAULTS:
            return file
    return None


def _summary(config_class: Callable[..., Any]) -> str:
    return (config_class.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _plain(message: str) -> str:
    """The parser's message on one line, in a user's words."""
    for pattern, words in (
        (r'Parser key "(.*?)":', r"\1:"),
        (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
        (r"Expected a typing\.Literal\[(.*?)\]", r"Expected one of \1"),
        (r"Expected a (\w+)\.", r"Expected \1."),
        (
            r"Does not validate against any of the Union subtypes\s+Subtypes: \[(\w+), NoneType\]\s+Errors:"
            r"(?:\s+- Expected a \w+)+\s+Given value type: \w+\s+Given value:",
            r"Expected \1 or null. Got value:",
        ),
        (r' in "<unicode string>",', " at"),
        (r"Unexpected config:.*", "Holds no keys; a config file is YAML with lines like output: FOLDER"),
    ):
        message = re.sub(pattern, words, message, flags=re.DOTALL)
    return one_line(message)


def _refuse(message: str, status: int = 2) -> int:
    rank = int(os.environ.get("RANK", "0"))
    # Under torchrun, a fault may be one process's alone, such as an image of its share: nobody else would name it.
    who = f" (process {rank})" if rank else ""
    print(f"error{who}: {one_line(message)}", file=sys.stderr, flush=True)
    return status
