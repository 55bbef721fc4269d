"""Typed configs: a dataclass, built from its defaults, YAML files and ``--dotted.key value`` arguments, in that order."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any, cast, get_args, get_origin, get_type_hints

import jsonargparse
import yaml
from jsonargparse.typing import register_type

from medslip.data.dataset import DataSet
from medslip.data_options import has_data_set, is_table, summary, typed, untyped
from medslip.errors import InputError, one_line

PHANTOM_CONFIGS = Path(__file__).parent / "resources" / "phantom"
"""What a task runs without arguments: TASK.yaml."""

PHANTOM = Path("data_file/phantom")
"""Where the phantom corpus is."""

PHANTOM_PREPARED = Path("data_file/phantom_prepared")
"""Where it is prepared for pre-training."""


_LONGEST = 100_000  # characters of a config; more would take PyYAML many seconds


class _Loader(yaml.SafeLoader):
    """YAML whose keys are text, each given once, without aliases; only plain numbers are numbers: 007 and 12:30 are text."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node; a few aliases of aliases would fill the memory."""
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, f"alias *{alias.anchor} is not supported; repeat the value", alias.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; a second value of a key would silently replace the first."""
        seen: set[str] = set()
        for key, _ in node.value:
            fault = "in brackets is not text" if not isinstance(key, yaml.ScalarNode) else ""
            if fault or key.value in seen:
                fault = fault or f"{key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, f"key {fault}", key.start_mark)
            key.tag = "tag:yaml.org,2002:str"
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_PLAIN_NUMBERS = {
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
}
_replaced = {f"tag:yaml.org,2002:{name}" for name in (*_PLAIN_NUMBERS, "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _replaced]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in _PLAIN_NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"({_pattern})$"), list("-+.0123456789"))


def _load(text: str) -> Any:
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"has {len(text):,} characters; a config may have {_LONGEST:,}")
    try:
        return yaml.load(text, _Loader)
    except (RecursionError, ValueError):
        raise yaml.YAMLError("is nested too deeply, or has a number of too many digits") from None


def _path(value: object) -> Path:
    """A path; of digits alone, YAML takes it for a number."""
    if not isinstance(value, str | int | Path) or isinstance(value, bool):
        raise ValueError(f"not a path: {value!r}")
    path = Path(str(value))
    if "\0" in str(value) or max(map(len, map(os.fsencode, (*path.parts, "")))) > 255 or len(os.fsencode(path)) > 4095:
        raise ValueError(f"not a path that files can have: {one_line(ascii(str(value)), 60)}")
    return path


jsonargparse.set_loader("yaml", _load, (yaml.YAMLError,))
register_type(
    Path, deserializer=_path, type_check=lambda value, _: isinstance(value, Path), fail_already_registered=False
)


_CONFIG_ERRORS = (InputError, jsonargparse.ArgumentError, TypeError, ValueError, OSError)


def parse(config_class: Callable[..., Any], arguments: Sequence[str], command: str = "medslip") -> Any:
    """Build a config from command-line arguments.

    Args:
        config_class: A dataclass; its docstring explains the keys. The optional class attribute ``positional`` names keys
            that may be given without ``--key``, in that order.
        arguments: ``--config FILE`` and ``--dotted.key value``; later ones win. A key may be typed with - or _.
        command: The command, for help and messages.

    Raises:
        InputError: A key is unknown or missing, a value has the wrong type, a dictionary is given twice, or a YAML file
            cannot be read.
    """
    arguments = _joined(arguments, getattr(config_class, "positional", ()))
    arguments = [_as_typed(_with_underscores(argument, config_class), config_class) for argument in arguments]
    _check_given_once(arguments, config_class)

    def build(given: Sequence[str]) -> Any:
        return _build(config_class, given, command)

    try:
        return build(arguments)
    except _CONFIG_ERRORS as error:
        message = _readable(str(error))
        if unknown := re.match(r"no key '(.*)'", message):
            defaults = _parser(typed(cast(type, config_class), _given(arguments)), command).get_defaults()
            close = difflib.get_close_matches(unknown[1], flat(defaults.as_dict()), n=1)
            message += f"; did you mean {close[0]}?" if close else ""
        file = None if message.endswith(": not given") else _file_at_fault(build, arguments, error)
        raise InputError(f"{file or command}: {message}") from None


def completion(config_classes: Mapping[str, Callable[..., Any]], shell: str) -> str:
    """A script with which a shell completes ``medslip``, its tasks and their keys.

    Args:
        config_classes: Task -> its config dataclass.
        shell: "bash", "zsh", ...

    Raises:
        InputError: shtab is not installed, or does not know the shell.
    """
    try:
        import shtab
    except ImportError:
        raise InputError("--print_completion: needs shtab; pip install shtab") from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise InputError(f"--print_completion: {shell!r} is not one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    parser = argparse.ArgumentParser("medslip")
    tasks = parser.add_subparsers()
    for task, config_class in config_classes.items():
        keys = _parser(typed(cast(type, config_class), {}), f"medslip {task}")
        tasks.add_parser(task, parents=[keys], add_help=False, help=summary(config_class))
    return str(shtab.complete(parser, shell))


def _parser(config_class: Callable[..., Any], command: str) -> jsonargparse.ArgumentParser:
    # An abbreviation would be a second spelling of a key, and change its meaning with the next key that starts like it.
    parser = jsonargparse.ArgumentParser(
        prog=command, exit_on_error=False, allow_abbrev=False, description=summary(config_class)
    )
    parser.add_argument("--config", action="config", help="A YAML file with the keys that differ from the defaults.")
    parser.add_class_arguments(config_class, nested_key=None, fail_untyped=True)
    return parser


def _build(config_class: Callable[..., Any], arguments: Sequence[str], command: str) -> Any:
    hint = cast(type, config_class)
    given = _given(arguments)
    options = typed(hint, given)
    parser = _parser(options, command)
    # The entries of a dictionary of configs with data sets are built one by one, each with the options of its kind.
    tables: dict[str, dict[str, Any]] = {}
    for key, kind in get_type_hints(hint).items():
        if is_table(kind):
            entries = given.get(key) or {}
            if not isinstance(entries, Mapping):
                raise InputError(f"{key}: is a group of keys and cannot be set to {entries!r}")
            tables[key] = {
                str(entry): _build(get_args(kind)[1], [f"--config={yaml.safe_dump(keys)}"], f"{key}.{entry}")
                for entry, keys in entries.items()
            }
    parsed = parser.parse_args([each for each in arguments if re.split("[.=]", each[2:])[0] not in tables])
    _check_values(parsed.as_dict(), options)
    values = {
        key: value for key, value in vars(parser.instantiate(parsed)).items() if key not in ("config", "__path__")
    }
    values |= tables
    return untyped(hint, SimpleNamespace(**values)) if has_data_set(hint) else config_class(**values)


def _joined(arguments: Sequence[str], positional: Sequence[str]) -> list[str]:
    """Each argument as --key=value; the parser rejects a value that is left without a key."""
    joined: list[str] = []
    keys, rest = list(positional), list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            joined.append(f"--{keys.pop(0)}={argument}" if keys else argument)
        elif "=" in argument or argument in ("-h", "--help") or not rest or rest[0].startswith("--"):
            joined.append(argument)
        else:
            joined.append(f"{argument}={rest.pop(0)}")
    return joined


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """The keys of all --config files and arguments, nested; later ones win. What cannot be read is left to the parser."""
    given: dict[str, Any] = {}
    for argument in arguments:
        key, _, value = argument.removeprefix("--").partition("=")
        loaded: Any = _loaded(value) if key == "config" or value.startswith("{") else value
        for part in [] if key == "config" else reversed(key.split(".")):
            loaded = {part: loaded}
        if isinstance(loaded, dict):
            _merge(given, loaded)
    return given


def _loaded(text: str) -> Any:
    """A YAML file, or YAML itself; None if it is not YAML."""
    with suppress(OSError, UnicodeDecodeError):
        text = Path(text).read_text(encoding="utf-8")
    with suppress(yaml.YAMLError):
        return _load(text)
    return None


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def phantom_file(task: str) -> Path | None:
    """The packaged config with which a task runs on the phantom data; None where it has no such config."""
    file = PHANTOM_CONFIGS / f"{task}.yaml"
    return file if file.is_file() else None


def phantom_config(
    config_class: Callable[..., Any],
    task: str,
    corpus: Path = PHANTOM,
    prepared: Path = PHANTOM_PREPARED,
    **changes: Any,
) -> Any:
    """The config with which a task runs on the phantom data.

    Args:
        config_class: The task's config dataclass.
        task: Its name.
        corpus: Where the phantom corpus is.
        prepared: Where it is prepared for pre-training.
        changes: Values of top-level keys.
    """
    file = phantom_file(task)
    assert file is not None, task
    values = _moved(_load(file.read_text(encoding="utf-8")), {PHANTOM: corpus, PHANTOM_PREPARED: prepared})
    return replace(parse(config_class, ["--config", yaml.safe_dump(values, sort_keys=False)]), **changes)


def _moved(values: Any, places: Mapping[Path, Path]) -> Any:
    if isinstance(values, dict):
        return {key: _moved(value, places) for key, value in values.items()}
    for old, new in places.items():
        if isinstance(values, str) and Path(values).is_relative_to(old):
            return str(new / Path(values).relative_to(old))
    return values


def config_to_dict(config: Any) -> Any:
    """A config dataclass as plain values, ready for YAML; ``--config`` reads it back."""
    if is_dataclass(config) and not isinstance(config, type):
        kind = {"kind": config.kind} if isinstance(config, DataSet) else {}
        return kind | {field.name: config_to_dict(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, list | tuple):
        return [config_to_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: config_to_dict(item) for key, item in config.items()}
    return config


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys; an empty one is a value."""
    if not isinstance(values, dict) or (prefix and not values):
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _check_given_once(arguments: Sequence[str], config_class: Callable[..., Any]) -> None:
    """A dictionary that is given twice would silently lose its first value."""
    for name, kind in get_type_hints(config_class).items():
        given = sum(argument.split("=")[0] == f"--{name}" for argument in arguments)
        if given > 1 and dict in {get_origin(part) for part in (kind, *get_args(kind))}:
            raise InputError(
                f"{name}: given {given} times; give all entries at once, as in --{name} '{{first: ..., second: ...}}'"
            )


def _with_underscores(argument: str, config_class: Callable[..., Any]) -> str:
    """--cache-size=256 as --cache_size=256, but the user's own keys of a dictionary stay as typed."""
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


def _as_typed(argument: str, config_class: Callable[..., Any]) -> str:
    """--key=NAME: TEXT as a dictionary of one entry, quoted, so that YAML changes nothing in the text."""
    key, _, value = argument.partition("=")
    kinds = get_args(get_type_hints(config_class).get(key.removeprefix("--")))
    name, colon, text = value.partition(":")
    if not (str in kinds and any(get_origin(kind) is dict for kind in kinds) and colon) or value.startswith("{"):
        return argument
    return f"{key}={json.dumps({name.strip(): text.strip()}, ensure_ascii=False)}"


def _check_values(values: Mapping[str, Any], config_class: Callable[..., Any], prefix: str = "") -> None:
    """Check for keys without a value and for groups of keys given as one value, which the parser accepts."""
    for key, kind in get_type_hints(config_class).items():
        value = values.get(key)
        if value is None and NoneType not in get_args(kind):
            raise InputError(f"{prefix}{key}: has no value")
        if is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise InputError(f"{prefix}{key}: is a group of keys and cannot be set to {value!r}")
            _check_values(value, cast(type, kind), f"{prefix}{key}.")


def _file_at_fault(build: Callable[[Sequence[str]], Any], arguments: Sequence[str], error: Exception) -> str | None:
    """The --config file that causes an error: it fails in the same way alone, or has the key that the error names."""
    named = str(error).split(":")[0].split(".")[-1]
    overridden = any(re.split(r"--|[.]", argument.split("=")[0])[-1] == named for argument in arguments)
    for argument in arguments:
        key, _, file = argument.partition("=")
        if key != "--config":
            continue
        try:
            build([argument])
        except _CONFIG_ERRORS as alone:
            if str(alone) == str(error):
                return file
            keys = flat(_loaded(file))
            if not overridden and named in {key.split(".")[-1] for key in keys}:
                return file
    return None


def _readable(message: str) -> str:
    """The parser's message on one line, in a user's words."""
    for pattern, words in (
        (r"Does not validate.*? Problem with given class_path '.*?':(.*?)\s+- Expected a .*", r"\1"),
        (r'Parser key "(.*?)":', r"\1:"),
        (r"unrecognized arguments: --([^\s=]+).*", r"no key '\1'"),
        (r"Group '(.*?)' does not accept option '(.*?)'", r"no key '\1.\2'"),
        (r"Option '(.*?)' is not accepted", r"no key '\1'"),
        (r"the following arguments are required: (.*)", r"\1: not given"),
        (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
        (r"Expected a typing\.Literal\[(.*?)\]", r"Expected one of \1"),
        (r"Expected a (\w+)\.", r"Expected \1."),
        (
            r"Does not validate against any of the Union subtypes\s+Subtypes: \[(\w+), NoneType\]\s+Errors:"
            r"(?:\s+- Expected a \w+)+\s+Given value type: \w+\s+Given value:",
            r"Expected \1 or null. Got value:",
        ),
        (r' in "<unicode string>",', " at"),
        (r"Problems parsing config:\s+((?:key|alias) .*?)\s+at (line \d+).*", r"\2: \1"),
        (r"Unexpected config:.*", "Holds no keys; a config file is YAML with lines like output: FOLDER"),
    ):
        message = re.sub(pattern, words, message, flags=re.DOTALL)
    return one_line(message)
