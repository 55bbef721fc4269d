"""Configs with data sets in them: the options of a data set depend on its ``kind``, so that is looked up before parsing.

A field of the type DataSet stands for any registered data set. ``typed`` replaces such fields by the options of the kinds
that the user named, so that they can be parsed and explained; ``untyped`` turns what was parsed into the config class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from medslip.data.dataset import DataSet
from medslip.data.registry import DATA_SETS, data_set
from medslip.errors import InputError, one_line


def has_data_set(hint: Any) -> bool:
    """Whether a type is DataSet, or contains it anywhere."""
    if hint is DataSet:
        return True
    inner = get_type_hints(hint).values() if isinstance(hint, type) and is_dataclass(hint) else get_args(hint)
    return any(map(has_data_set, inner))


def is_table(hint: Any) -> bool:
    """Whether a type is a dictionary of configs with data sets, whose entries have to be parsed one by one."""
    return get_origin(hint) is dict and has_data_set(hint)


def typed(config_class: type, given: Mapping[str, Any], prefix: str = "") -> type:
    """A config class with the options of the kinds of data that are named.

    Args:
        config_class: A dataclass.
        given: What the user gave: key -> value, or a mapping of further keys.
        prefix: The keys above, for messages.

    Raises:
        InputError: A kind or an option of it does not exist.
    """
    if not has_data_set(config_class):
        return config_class
    hints = get_type_hints(config_class)
    members = []
    for each in fields(config_class):
        hint, default = hints[each.name], _default(each)
        keys = given.get(each.name)
        name = f"{prefix}{each.name}"
        if is_table(hint):
            hint = dict[str, Any]
        elif DataSet in (hint, *get_args(hint)) and (keys is not None or each.default is MISSING):
            hint, default = _options(keys if isinstance(keys, Mapping) else {}, name), field()
        elif DataSet in get_args(hint):  # such as validation, which is not given
            hint = dict[str, Any] | None
        elif has_data_set(hint) and is_dataclass(hint):
            hint, default = typed(cast(type, hint), keys if isinstance(keys, Mapping) else {}, f"{name}."), field()
        members.append((each.name, hint, default))
    return _dataclass(config_class.__name__, members, _docstring(summary(config_class), _attributes(config_class)))


def untyped(hint: Any, value: Any) -> Any:
    """What was parsed with a typed class, as the config class itself."""
    if not has_data_set(hint) or value is None or isinstance(value, dict):
        return value
    if DataSet in (hint, *get_args(hint)):
        options = {each.name: getattr(value, each.name) for each in fields(value)}
        return data_set(options.pop("kind"))(**options)
    hints = get_type_hints(hint)
    return hint(**{each.name: untyped(hints[each.name], getattr(value, each.name)) for each in fields(hint)})


def _options(given: Mapping[str, Any], name: str) -> type:
    """The options of a data set as one dataclass with all their help; only ``kind`` as long as that is not given."""
    texts = {"kind": f"Kind of data, one of {', '.join(DATA_SETS)}; with --help, its options are listed."}
    if "kind" not in given:
        return _dataclass("DataSet", [("kind", Literal[tuple(DATA_SETS)], field())], _docstring("A data set.", texts))
    kind = str(given["kind"])
    found = data_set(kind)
    hints = get_type_hints(found)
    members = [("kind", Literal[tuple(DATA_SETS)], field(default=kind))]
    members += [(each.name, hints[each.name], _default(each)) for each in fields(found)]
    has = [option for option, *_ in members]
    for key in given:
        if key not in has:
            raise InputError(f"{name}.{key}: data of kind {kind} has no such option; it has {', '.join(has[1:])}")
    return _dataclass(found.__name__, members, _docstring(summary(found), texts | _attributes(found)))


def _dataclass(name: str, members: list[tuple[str, Any, Any]], doc: str | None) -> type:
    return make_dataclass(name, members, kw_only=True, frozen=True, namespace={"__doc__": doc})


def _default(each: Field[Any]) -> Any:
    if each.default_factory is not MISSING:
        return field(default_factory=each.default_factory)
    return field(default=each.default)


def summary(config_class: Any) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((config_class.__doc__ or "").strip().split("\n\n")[0].split())


def _docstring(summary: str, attributes: Mapping[str, str]) -> str:
    return f"{summary}\n\nAttributes:\n" + "".join(f"    {name}: {text}\n" for name, text in attributes.items())


def _attributes(config_class: type) -> dict[str, str]:
    """The entries of the Attributes of a class and of those it inherits from: name -> text on one line."""
    texts: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        entries = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", entries, flags=re.MULTILINE)
        texts |= {name: one_line(text) for name, text in found}
    return texts
