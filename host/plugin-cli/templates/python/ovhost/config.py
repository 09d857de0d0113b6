"""Configurations: a dataclass of options in; its JSON Schema, a parsed value and findings with JSON pointers out."""

import json
from dataclasses import MISSING, dataclass, field, fields
from typing import Union, get_args, get_origin, get_type_hints

from .rows import Defect


class ConfigError(Exception):
    """The configuration or the assets cannot be used. `pointer` is a JSON pointer into it ("/min_words"; "" for all of it)."""

    def __init__(self, pointer, message):
        super().__init__(f"{pointer or 'configuration'}: {message}")
        self.findings = [(pointer, message)]


class Findings:
    """Collects everything that is wrong with a configuration, so that a user sees all of it at once."""

    def __init__(self):
        self._found = []

    def require(self, good, pointer, message):
        """Adds a finding unless `good`. The message says what is allowed."""
        if not good:
            self._found.append((pointer, message))

    def finish(self):
        """Raises `ConfigError` if there were findings."""
        if self._found:
            error = ConfigError(*self._found[0])
            error.findings = list(self._found)
            raise error


def option(default, description, **schema):
    """A field of a configuration: its default, one sentence for users, and JSON Schema keywords such as `minimum=0`."""
    metadata = {"description": description, "schema": schema}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: json.loads(json.dumps(default)), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class NoConfig:
    """The configuration of a plugin that has none."""


def _json_type(hint):
    plain = {bool: "boolean", int: "integer", float: "number", str: "string"}
    if hint in plain:
        return {"type": plain[hint]}
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        return {"type": "array", "items": _json_type(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _json_type(args[1])}
    if origin is Union or type(None) in args:
        inner = _json_type(next(arg for arg in args if arg is not type(None)))
        return {"anyOf": [inner, {"type": "null"}]}
    raise Defect(f"a configuration holds bool, int, float, str, list[...], dict[str, ...] and `... | None`, not {hint}")


def _default(one):
    return one.default if one.default is not MISSING else one.default_factory()


def schema(config):
    """JSON Schema (2020-12) of a configuration's dataclass."""
    hints, properties = get_type_hints(config), {}
    for one in fields(config):
        about = {"description": one.metadata.get("description", ""), "default": _default(one)}
        properties[one.name] = {**about, **_json_type(hints[one.name]), **one.metadata.get("schema", {})}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": config.__name__,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _fits(value, hint):
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (bool, int, str):
        return type(value) is hint
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, args[1]) for item in value.values())
    return value is None or any(_fits(value, arg) for arg in args if arg is not type(None))


def parse(config, values):
    """The dataclass out of a JSON object. The host has checked it against the schema; a unit test has not."""
    hints, findings = get_type_hints(config), Findings()
    for name, value in values.items():
        pointer = "/" + name.replace("~", "~0").replace("/", "~1")
        if name not in hints:
            findings.require(False, pointer, f"unknown key; allowed: {', '.join(hints)}")
        else:
            findings.require(_fits(value, hints[name]), pointer, f"{json.dumps(value)} is no {hints[name]}")
    findings.finish()
    return config(**{name: float(value) if hints[name] is float else value for name, value in values.items()})


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Assets:
    """The files that `assets` names, whole."""

    def __init__(self, files):
        self._files = files

    def bytes(self, name):
        """Bytes of an asset, None where the recipe does not give it."""
        return self._files.get(name)

    def text(self, name):
        """Text of an asset. Raises `ConfigError` where the recipe does not give it, or it is not UTF-8."""
        data = self._files.get(name)
        if data is None:
            raise ConfigError("", f"the asset `{name}` is missing; name its file under `assets` in the recipe")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ConfigError("", f"the asset `{name}` is not UTF-8: {error}") from None
