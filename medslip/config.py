"""Typed configs: a dataclass, built from its defaults, YAML files and ``--dotted.key value`` arguments, in that order.

A field of the type DataSet has the options of the registered data set that its key ``kind`` names.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from medslip.data.dataset import DataSet
from medslip.data.registry import DATA_SETS, data_set
from medslip.errors import InputError, one_line

PHANTOM_CONFIGS = Path(__file__).parent / "resources" / "phantom"
"""What a task runs without arguments: TASK.yaml, or TASK.SUBCOMMAND.yaml."""

PHANTOM = Path("data_file/phantom")
"""Where the phantom corpus is."""

PHANTOM_PREPARED = Path("data_file/phantom_prepared")
"""Where it is prepared for pre-training."""


@dataclass(frozen=True)
class _Option:
    """A key of a config that has one value."""

    name: str
    type: Any
    default: Any
    text: str
    group: str


def parse(config_class: Any, arguments: Sequence[str], command: str = "medslip") -> Any:
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
    values: dict[str, Any] = {}
    sources: list[tuple[str, dict[Any, Any]]] = []
    options: list[_Option] = []
    missing: list[str] = []
    try:
        pairs = _pairs(arguments, getattr(config_class, "positional", ()))
        _check_given_once(pairs, config_class)
        for key, text in pairs:
            if key == "config" and text:
                sources.append((text, _read_yaml(Path(text))))
                _put(values, [], sources[-1][1], config_class)
            elif key not in ("help", "print_config"):
                sources.append((command, {key: text}))
                _put(values, key.split("."), text, config_class)
        config = _built(config_class, values, options, missing)
        if ("help", None) in pairs:
            _print_help(config_class, options, command)
            sys.exit(0)
        if missing:
            raise InputError(f"{', '.join(missing)}: not given")
    except InputError as error:
        message = str(error)
        if message.startswith("no key"):
            _built(config_class, {}, options, missing)
            close = difflib.get_close_matches(message.split("'")[1], [option.name for option in options], n=1)
            message += f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"{_source_of(message, sources) or command}: {message}") from None
    if ("print_config", None) in pairs:
        print(yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
        sys.exit(0)
    return config


def _pairs(arguments: Sequence[str], positional: Sequence[str]) -> list[tuple[str, str | None]]:
    """Keys and values of the arguments; None where a key has no value."""
    pairs: list[tuple[str, str | None]] = []
    unnamed, rest = list(positional), list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("-"):
            if not unnamed:
                raise InputError(f"unrecognized argument: {argument}")
            pairs.append((unnamed.pop(0), argument))
        elif argument in ("-h", "--help", "--print_config"):
            pairs.append(("help" if argument == "-h" else key, None))
        elif equals or not rest or rest[0].startswith("--"):
            pairs.append((key, value if equals else None))
        else:
            pairs.append((key, rest.pop(0)))
    return pairs


def _check_given_once(pairs: Sequence[tuple[str, str | None]], config_class: Any) -> None:
    """A dictionary that is given twice would silently lose its first value."""
    hints = get_type_hints(config_class)
    for name, times in Counter(key for key, _ in pairs).items():
        if times > 1 and any(get_origin(kind) is dict for kind in _kinds(hints.get(name))):
            raise InputError(
                f"{name}: given {times} times; give all entries at once, as in --{name} '{{first: ..., second: ...}}'"
            )


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = one_line(error).replace(' in "<unicode string>",', " at")
        raise InputError(f"{path}: {reason}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no keys; a config file is YAML with lines like output: FOLDER")
    return values


def _loaded(text: Any) -> Any:
    """A text as YAML; anything else, and what is not YAML, unchanged."""
    with suppress(yaml.YAMLError):
        return yaml.safe_load(text) if isinstance(text, str) else text
    return text


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union; a type alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _group(hint: Any) -> Any:
    """What in a type has keys of its own: a dataclass or a dictionary of dataclasses; None for nothing."""
    for kind in _kinds(hint):
        if is_dataclass(kind) or (get_origin(kind) is dict and is_dataclass(get_args(kind)[1])):
            return kind
    return None


def _class_of(group: Any, values: Mapping[str, Any]) -> Any:
    """The class of a data set whose kind is given; any other group unchanged."""
    return data_set(str(values["kind"])) if group is DataSet and values.get("kind") else group


def _types(group: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> type of a group's keys; of a data set as long as its kind is not given, only ``kind``."""
    if get_origin(group) is dict:
        return dict.fromkeys(values, get_args(group)[1])
    owner = _class_of(group, values)
    hints = get_type_hints(owner)
    types = {} if owner is DataSet else {field.name: hints[field.name] for field in fields(owner)}
    return {"kind": Literal[tuple(DATA_SETS)], **types} if group is DataSet else types


def _put(values: dict[str, Any], path: Sequence[str], value: Any, group: Any) -> None:
    """Put a value at a dotted key: a mapping is merged into a group of keys, and replaces anything else."""
    if not path:
        # The kind of a data set first: it decides what the other keys are.
        for each in sorted(value, key=lambda name: name != "kind"):
            _put(values, [str(each)], value[each], group)
        return
    key = path[0].replace("-", "_") if is_dataclass(group) else path[0]
    inner = _group(_types(group, {**values, key: value}).get(key)) if group else None
    if len(path) == 1 and inner and isinstance(value, str):
        value = _read_yaml(Path(value)) if Path(value).is_file() else _loaded(value)
    if len(path) > 1 or (inner and isinstance(value, dict)):
        values[key] = values[key] if isinstance(values.get(key), dict) else {}
        _put(values[key], path[1:], value, inner)
    else:
        values[key] = value


def _built(
    group: Any, values: Any, options: list[_Option], missing: list[str], prefix: str = "", base: Any = None
) -> Any:
    """Build a dataclass, or a dictionary of dataclasses, from its keys.

    Args:
        group: The dataclass or dictionary.
        values: What is given.
        options: The keys that the group has are added to it.
        missing: The keys that are required and not given are added to it; the result is then None.
        prefix: The keys above.
        base: An object with the defaults of the group; None takes those of its class.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{prefix[:-1]}: has keys of its own and cannot be the value {values!r}")
    owner, types, built, complete = _class_of(group, values), _types(group, values), {}, len(missing)
    defaults, texts = _defaults(owner, base), _attributes(owner)
    if owner is not group:
        defaults["kind"] = owner.kind
    for key, hint in types.items():
        name, inner = f"{prefix}{key}", _group(hint)
        if values.get(key, ...) is None and NoneType not in _kinds(hint):
            raise InputError(f"{name}: has no value")
        if inner and (values.get(key) is not None or (is_dataclass(inner) and NoneType not in _kinds(hint))):
            built[key] = _built(inner, values.get(key, {}), options, missing, f"{name}.", defaults.get(key))
            continue
        options.append(_Option(name, hint, defaults.get(key, MISSING), texts.get(key, ""), _summary(owner)))
        if key in values:
            built[key] = _value(values[key], hint, name)
        elif key not in defaults:
            missing.append(name)
    if unknown := [key for key in values if key not in types]:
        if owner is group:
            raise InputError(f"no key '{prefix}{unknown[0]}'")
        has = ", ".join(list(types)[1:])
        raise InputError(f"{prefix}{unknown[0]}: data of kind {owner.kind} has no such option; it has {has}")
    if len(missing) > complete:
        return None
    if get_origin(group) is dict:
        return built
    if group is DataSet:
        del built["kind"]
    return owner(**built) if base is None else replace(base, **built)


def _defaults(owner: Any, base: Any) -> dict[str, Any]:
    """The defaults of a dataclass, or else the values of the object that is the default; required keys have none."""
    defaults = {}
    for field in fields(owner) if is_dataclass(owner) else ():
        if base is not None:
            defaults[field.name] = getattr(base, field.name)
        elif field.default_factory is not MISSING:
            defaults[field.name] = field.default_factory()
        elif field.default is not MISSING:
            defaults[field.name] = field.default
    return defaults


def _value(value: Any, hint: Any, name: str) -> Any:
    """A value, from YAML or an argument, as the type of its key."""
    kinds = _kinds(hint)
    if NoneType in kinds and value in (None, "null"):
        return None
    for kind in kinds:
        with suppress(TypeError, ValueError):
            return _converted(value, kind)
    raise InputError(f"{name}: Expected {' or '.join(map(_described, kinds))}. Got value: {value}")


def _converted(value: Any, kind: Any) -> Any:
    """A value as one type; a TypeError or ValueError if it is of another."""
    origin, inner = get_origin(kind), get_args(kind)
    value = value if kind in (str, Path) else _loaded(value)
    if origin is Literal and value in inner:
        return value
    if origin is dict and isinstance(value, dict):
        return {str(key): _converted(each, inner[1]) for key, each in value.items()}
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return origin(_converted(each, inner[0]) for each in value)
    if kind is Path:
        return Path(value)
    if kind is float and not isinstance(value, bool):
        return float(value)  # of a text too: YAML takes 1e-4 for one
    if type(value) is not kind:
        raise TypeError
    return value


def _described(kind: Any) -> str:
    if kind is NoneType:
        return "null"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return re.sub(r"\w+\.", "", str(kind)) if get_args(kind) else kind.__name__


def _source_of(message: str, sources: Sequence[tuple[str, dict[Any, Any]]]) -> str | None:
    """The last file or command with the key that a message names."""
    name = message.split("'")[1] if message.startswith("no key") else message.split(":")[0]
    for source, values in reversed(sources):
        if any(name.split(".")[-1] in key.replace("-", "_").split(".") for key in flat(values)):
            return source
    return None


def _print_help(config_class: Any, options: Sequence[_Option], command: str) -> None:
    parser = argparse.ArgumentParser(command, description=_summary(config_class))
    parser.add_argument("--config", help="A YAML file with the keys that differ from the defaults.")
    parser.add_argument("--print_config", action="store_true", help="Print the config with all its keys, and exit.")
    groups: dict[str, Any] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group.rstrip("."))
        kinds = " or ".join(map(_described, _kinds(option.type)))
        default, required = config_to_dict(option.default), option.default is MISSING
        shown = default if required or isinstance(default, str) else json.dumps(default)
        about = (
            f"{option.text} (required, type: {kinds})"
            if required
            else f"{option.text} (type: {kinds}, default: {shown})"
        )
        metavar = option.name.split(".")[-1].upper()
        groups[option.group].add_argument(
            f"--{option.name}", help=about.replace("%", "%%"), metavar=metavar, required=required
        )
    parser.print_help()


def _summary(config_class: Any) -> str:
    return (config_class.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _attributes(owner: Any) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of each attribute, on one line."""
    found = {"kind": f"Kind of data, one of {', '.join(DATA_SETS)}; with --help, its options are listed."}
    for base in reversed(getattr(owner, "__mro__", ())):
        entries = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        found |= {
            name: one_line(text) for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", entries, flags=re.M)
        }
    return found


def phantom_file(task: str) -> Path | None:
    """The packaged config with which a task runs on the phantom data; None where it has no such config."""
    return next(PHANTOM_CONFIGS.glob(f"{task}.*"), None)


def phantom_config(
    config_class: Any,
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
    values = _moved(yaml.safe_load(file.read_text(encoding="utf-8")), {PHANTOM: corpus, PHANTOM_PREPARED: prepared})
    return replace(_built(config_class, values, [], []), **changes)


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
    """Nested dictionaries as one, with dotted keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
