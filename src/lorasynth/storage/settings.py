"""Settings as JSON values that runs and zoos keep, and what differs between those that were kept and those that are asked for.

A setting that a later version brings is no difference while it is at its default. So the default of a new setting has to do
what was done before there was the setting.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

_TIMES = ("checkpoint_every_s",)  # what does not decide the outcome


class Settings(dict[str, Any]):
    """A configuration as JSON values, with the defaults of its settings by their dotted names."""

    defaults: Mapping[str, Any]

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]):
        super().__init__(values)
        self.defaults = defaults

    def __or__(self, other: Mapping[str, Any]) -> "Settings":  # type: ignore[override]
        """The same with more, whose defaults nobody knows."""
        return Settings({**self, **other}, self.defaults | getattr(other, "defaults", {}))  # type: ignore[operator]


def config_record(config: Any) -> Settings:
    """A configuration dataclass as JSON values, without what does not decide the outcome."""
    return Settings(_decisive(json.loads(json.dumps(asdict(config)))), dict(_defaults(config)))


def _decisive(value: Any) -> Any:
    """A record without what does not decide the outcome, at any depth."""
    if not isinstance(value, dict):
        return value
    return {name: _decisive(part) for name, part in value.items() if name not in _TIMES}


def config_difference(old: Any, new: Any, key: str = "", defaults: Mapping[str, Any] | None = None) -> list[str]:
    """Sentences "key: old -> new" for all that differs between two JSON values.

    A setting that the old one does not know differs only where it is on. A run of before goes on in a later version while a new
    option is at its default or, where nobody knows that, off (null, false, 0 or empty).

    Args:
        old: what was kept.
        new: what is asked for.
        key: its dotted name; empty for the whole.
        defaults: of settings, by dotted names; those of ``new`` if it is a `Settings`.
    """
    defaults = getattr(new, "defaults", {}) if defaults is None else defaults
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [f"{key}: {old} -> {new}"]
    lines: list[str] = []
    for name in sorted((old.keys() | new.keys()) - set(_TIMES)):
        here = f"{key}.{name}" if key else name
        if name in old:
            lines += config_difference(old[name], new.get(name), here, defaults)
        elif here in defaults and new[name] != defaults[here]:
            lines.append(f"{here} is new: {new[name]}, leave it at its default {defaults[here]} to go on")
        elif here not in defaults and new[name]:
            lines.append(f"{here} is new: {new[name]}, leave it off to go on")
    return lines


def _defaults(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The default of each setting, of nested configurations too, by its dotted name."""
    for f in fields(config):
        here, value = f"{key}{f.name}", getattr(config, f.name)
        if f.default is not MISSING or f.default_factory is not MISSING:
            default = f.default if f.default_factory is MISSING else f.default_factory()
            yield here, _json(default)
        if is_dataclass(value):
            yield from _defaults(value, f"{here}.")


def _json(value: Any) -> Any:
    plain = config_record(value) if is_dataclass(value) else value
    return json.loads(json.dumps(plain, default=lambda other: asdict(other)))
