"""The settings of a server, checked when they are made.

What exists, and what is allowed, is read from ``_settings.json``, which is written from the same table as the
command's flags. Nothing is defined here a second time.
"""

import difflib
import inspect
import ipaddress
import json
import math
import os
import re
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path

__all__ = ["ServerConfig"]

with Path(__file__).with_name("_settings.json").open(encoding="utf-8") as _file:
    _DEFINITION = json.load(_file)

_SETTINGS = {row["name"]: row for row in _DEFINITION["settings"]}

_DURATION = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(ms|s|m|h|)\s*", re.ASCII)
_SIZE = re.compile(r"\s*([0-9]+)\s*(|b|k|kb|kib|m|mb|mib|g|gb|gib)\s*", re.ASCII | re.IGNORECASE)
_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0}
_POWER = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}
_PORT = re.compile(r"[0-9]{1,10}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_OUTSIDE_HOSTS = re.compile(r"[\s\x00-\x1f\x7f-\x9f/\[\]@,]")
_URL_PATH = re.compile(r"/[!-~]*", re.ASCII)


class _WrongType(Exception):
    """The value cannot be of this kind, whatever its content."""


class _Refused(Exception):
    """The value is of the right type and breaks the rule. The argument replaces the rule, if there is one."""


def _shown(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:190]}..."


def _string(value):
    if not isinstance(value, str):
        raise _WrongType
    return value


def _text(row, value):
    value = _string(value)
    if not value or _CONTROL.search(value):
        raise _Refused
    return value


def _host(row, value):
    value = _string(value)
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if not _is_host(bare):
        raise _Refused
    return bare


def _path(row, value):
    try:
        value = os.fspath(value)
    except TypeError:
        raise _WrongType from None
    return _text(row, value)


def _url_path(row, value):
    value = _string(value)
    if value == "" and row["may_be_empty"]:
        return value
    if not _URL_PATH.fullmatch(value) or any(c in value for c in "?#%"):
        raise _Refused
    return value


def _flag(row, value):
    if not isinstance(value, bool):
        raise _WrongType
    return value


def _whole(row, value):
    # A bool is an int to Python, and a mistake here.
    if isinstance(value, bool) or not isinstance(value, int):
        raise _WrongType
    if not row["least"] <= value <= row["most"]:
        raise _Refused
    return int(value)


def _size(row, value):
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise _Refused
        value = int(match[1]) << _POWER[match[2][:1].lower()]
    return _whole(row, value)


def _duration(row, value):
    if isinstance(value, timedelta):
        value = value.total_seconds()
    elif isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise _Refused
        value = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _WrongType
    try:
        value = float(value)
    except OverflowError:
        raise _Refused from None
    if not math.isfinite(value) or value < 0:
        raise _Refused
    value = float(_seconds(value))
    if row["least"] and value == 0:
        raise _Refused
    if value > row["most"]:
        raise _Refused(row["too_much"])
    return value


def _seconds(value):
    """The duration as the command reads it: decimal, to the nanosecond."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _choice(row, value):
    word = _string(value).strip().lower()
    word = row.get("synonyms", {}).get(word, word)
    if word not in row["words"]:
        raise _Refused
    return word


def _binds(row, value):
    if isinstance(value, str):
        value = [value]
    elif not isinstance(value, (list, tuple)):
        raise _WrongType
    addresses = tuple(part.strip() for item in value for part in _string(item).split(","))
    if not addresses or not all(_is_address(address) for address in addresses):
        raise _Refused
    return addresses


def _is_address(text):
    for scheme in ("unix://", "unix:"):
        if text.startswith(scheme):
            return len(text) > len(scheme)
    if text.startswith("fd://"):
        number = text[len("fd://") :]
        return _PORT.fullmatch(number) is not None and int(number) < 2**31
    host, port = text, None
    if text.startswith("[") and "]" in text:
        host, rest = text[1:].split("]", 1)
        if rest:
            if not rest.startswith(":"):
                return False
            port = rest[1:]
    elif text.count(":") == 1:
        host, port = text.split(":")
    if port is not None and not (_PORT.fullmatch(port) and int(port) <= 65535):
        return False
    if host == "" and text.startswith(":"):
        return True
    return _is_host(host)


def _is_host(text):
    if not text or _OUTSIDE_HOSTS.search(text):
        return False
    if ":" in text:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            return False
        return "%" not in text
    return True


_READERS = {
    "text": _text,
    "host": _host,
    "path": _path,
    "url_path": _url_path,
    "flag": _flag,
    "count": _whole,
    "size": _size,
    "duration": _duration,
    "choice": _choice,
    "binds": _binds,
}


def _read(row, value):
    name = row["name"]
    if value is None and (row["optional"] or row["default"] is None):
        return None
    if row["optional"] and isinstance(value, str) and value.lower() == "none":
        return None
    if "not_yet" in row:
        raise ValueError(f"{name} cannot be set yet: {row['not_yet']}")
    try:
        return _READERS[row["kind"]](row, value)
    except _WrongType:
        raise TypeError(f"{name} must be {row['rule']}, got {_shown(value)} ({type(value).__name__})") from None
    except _Refused as refused:
        rule = refused.args[0] if refused.args else row["rule"]
        hint = f" ({row['hint']})" if row["hint"] and isinstance(value, str) else ""
        raise ValueError(f"{name} must be {rule}, got {_shown(value)}{hint}") from None


def _unknown(name):
    message = f"ServerConfig has no setting {name!r}"
    if name in _DEFINITION["renamed"]:
        return TypeError(f"{message}; did you mean {_DEFINITION['renamed'][name]!r}?")
    if name in _DEFINITION["refused"]:
        return TypeError(f"{message}: {_DEFINITION['refused'][name]}")
    near = difflib.get_close_matches(name, _SETTINGS, n=1)
    return TypeError(f"{message}; did you mean {near[0]!r}?" if near else message)


def _check_address(given):
    """host with port, bind, uds and fd are four ways to say one thing."""
    used = [name for name in ("host", "port", "bind", "uds", "fd") if given.get(name) is not None]
    styles = {"host" if name == "port" else name: name for name in reversed(used)}
    if len(styles) > 1:
        first, second = sorted(styles.values(), key=used.index)[:2]
        raise ValueError(
            f"{first} and {second} exclude each other; choose one of host with port, bind, uds and fd"
        )


class ServerConfig:
    """Settings of a server: keyword-only, checked at once, immutable.

    A setting that is not given keeps to the environment, the configuration file and the default, in that order. One that is
    given wins over them. Durations are seconds, strings such as ``"30s"`` and ``"500ms"``, or ``timedelta``; sizes are bytes or
    strings such as ``"64KiB"``. docs/settings.md describes each.

    Raises ``ValueError`` for a value outside its rule, ``TypeError`` for one of the wrong type and for an unknown name.
    """

    __slots__ = ("_given",)

    def __init__(self, **settings):
        given = {}
        for name, value in settings.items():
            row = _SETTINGS.get(name)
            if row is None:
                raise _unknown(name)
            given[name] = _read(row, value)
        _check_address(given)
        object.__setattr__(self, "_given", given)

    def __getattr__(self, name):
        if name not in _SETTINGS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._given.get(name, _SETTINGS[name]["default"])

    def __setattr__(self, name, value):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __dir__(self):
        return [*super().__dir__(), *_SETTINGS]

    def __eq__(self, other):
        if not isinstance(other, ServerConfig):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _SETTINGS)

    def __hash__(self):
        return hash(tuple(getattr(self, name) for name in _SETTINGS))

    def __repr__(self):
        return f"ServerConfig({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"

    def __reduce__(self):
        return _restore, (self._given,)

    def to_args(self):
        """The settings that were given, as flags of the ``pounce`` command."""
        args = []
        for name, value in self._given.items():
            row = _SETTINGS[name]
            flag = row["flag"]
            if value is None:
                if row["optional"] and "not_yet" not in row:
                    args.append(f"--{flag}=none")
            elif row["kind"] == "flag":
                args.append(f"--{flag}" if value else f"--no-{flag}")
            elif row["kind"] == "binds":
                args += [f"--{flag}={address}" for address in value]
            elif row["kind"] == "duration":
                args.append(f"--{flag}={_seconds(value)}")
            else:
                args.append(f"--{flag}={value}")
        return args


def _restore(given):
    return ServerConfig(**given)


ServerConfig.__signature__ = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=row["default"])
        for name, row in _SETTINGS.items()
    ]
)
