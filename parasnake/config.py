"""Config: every setting, validated once, and where each one came from."""

from __future__ import annotations

import logging
import math
import numbers
import operator
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from parasnake import batch, keys
from parasnake.addresses import Place, check_host, parse_places
from parasnake.errors import ConfigurationError

logger = logging.getLogger(__name__)

ENVIRONMENT_PREFIX = "PARASNAKE_"
DEFAULT_IP = "127.0.0.1"


def available_cores() -> int:
    """Return how many cores this process may use, which can be fewer than the machine has."""
    if count := getattr(os, "process_cpu_count", None):  # from Python 3.13 on
        return int(count() or 1)
    if affinity := getattr(os, "sched_getaffinity", None):  # not on macOS and Windows
        return len(affinity(0))
    return os.cpu_count() or 1


class _Rule(NamedTuple):
    """What a setting may be.

    ``check`` returns the value to keep for one that was given in Python, TOML or JSON; ``read``
    makes such a value from text of the command line or the environment. Both raise ``ValueError``
    or ``TypeError`` if it is not allowed.
    """

    allowed: str
    check: Callable[[Any], object]
    read: Callable[[str], object]


def _rule(
    allowed: str, check: Callable[[Any], object], read: Callable[[str], object] = str
) -> dict[str, _Rule]:
    return {"rule": _Rule(allowed, check, read)}


def _places(value: object) -> str:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts:
        raise TypeError
    return ",".join(str(place) for text in texts for place in parse_places(text))


def _whole(lowest: int, highest: int | None = None) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
        if number < lowest or (highest is not None and number > highest):
            raise ValueError
        return number

    return check


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _seconds(*, zero: bool) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        seconds = float(value)
        if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
            raise ValueError
        return seconds

    return check


_CLOCK = re.compile(r"(?:(\d{1,4})-)?(\d{1,4}):([0-5]\d):([0-5]\d)", re.ASCII)


def _duration(value: Any) -> float:
    """Seconds above 0, also as ``H:MM:SS`` or ``D-H:MM:SS``."""
    if isinstance(value, str) and (match := _CLOCK.fullmatch(value)):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        value = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    return _seconds(zero=False)(value)


def _read_duration(text: str) -> float | str:
    return text if ":" in text else _read_float(text)


def _workers(value: Any) -> int | str:
    if not isinstance(value, str):
        return _whole(1)(value)
    return value if value == "auto" else _whole(1)(_read_whole(value))


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return check


def _secret_key(value: Any) -> bytes:
    if isinstance(value, str):
        return keys.parse_key(value)
    if not isinstance(value, bytes) or len(value) != keys.KEY_BYTES:
        raise ValueError
    return value


def _file(value: Any) -> Path:
    name = os.fspath(value)
    # Somebody who gives the key itself here must not meet it again in an error.
    if not name or "\0" in name or keys.PREFIX in name:
        raise ValueError
    return Path(name).expanduser()


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _count(value: Any) -> int:
    return _whole(0)(int(value) if isinstance(value, bool) else value)


def _read_float(text: str) -> float:
    # Python's own conversions would also take 1_000 and the digits of other scripts.
    if "_" in text or not text.isascii():
        raise ValueError
    return float(text)


def _read_whole(text: str) -> int:
    if "_" in text or not text.isascii():
        raise ValueError
    return int(text)


def _read_switch(text: str) -> bool:
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of a server and its nodes. `Config.load` makes one from all places.

    Attributes
    ----------
    ip: where nodes find the server: addresses, IPv4 or IPv6, or host names, with commas between
        them and a port behind those that have one of their own
    port: the server's port; 0 lets the server take any free one, and is the default with ``access``
    access: the file in which the server says where it is, with its key, and from which nodes learn it
    bind: the address that the server listens on; None: all interfaces, IPv4 and IPv6
    workers: how many worker processes an agent has; "auto": see `worker_count`
    start_method: how workers start; "auto": by fork where that is safe, else by spawn
    heartbeat_timeout: seconds of silence after which a node counts as lost
    connect_timeout: seconds that a node waits for its server to appear
    reconnect_timeout: seconds that an agent waits for its server to come back
    time_limit: seconds after which an agent goes; None: when its batch job ends, if that is known
    task_timeout: seconds that a task may take before its worker is ended; None: as many as it needs
    speculate: whether tasks that take long are given to idle nodes as well
    compression: whether data and results are compressed; "auto": where a slow link makes it pay
    max_attempts: how many failures of its own a task may have
    max_losses: on how many lost nodes a task may have been running
    secret_key: the 32 bytes that server and nodes share; None: see docs/security.md
    key_file: a file to read the key from; not looked at if there is a ``secret_key``
    journal: the file from which the server can go on after any end; None: it keeps none
    chaos: the seed from which a local run is disturbed at random; None: it is not
    accept_new_code: whether it goes on though the code of ``process`` is not what it was
    progress: whether the server shows a progress line; None: on a terminal only
    verbose: how much detail the log has; 0: what everybody wants to know
    sources: in words, where each setting that is no default came from

    Raises
    ------
    ConfigurationError: a value is not allowed; one line says which, and what is
    """

    ip: str = field(
        default=DEFAULT_IP,
        metadata=_rule(
            "an IPv4 or IPv6 address or a host name, or more than one with commas between them, each "
            "with a port of its own if need be: host:3100, [::1]:3100",
            _places,
        ),
    )
    port: int = field(
        default=3100,
        metadata=_rule(
            "a whole number from 0 to 65535; 0 lets a server take any free port",
            _whole(0, 65535),
            _read_whole,
        ),
    )
    access: Path | None = field(
        default=None, metadata=_rule("the name of a file, which the server makes", _file)
    )
    bind: str | None = field(
        default=None,
        metadata=_rule("an address or host name of this machine, without a port", check_host),
    )
    workers: int | Literal["auto"] = field(
        default=1,
        metadata=_rule(
            "a whole number from 1, or 'auto' for every core that this process may use", _workers
        ),
    )
    start_method: Literal["auto", "fork", "spawn"] = field(
        default="auto",
        metadata=_rule("'auto', 'fork' or 'spawn'", _one_of("auto", "fork", "spawn")),
    )
    heartbeat_timeout: float = field(
        default=300.0,
        metadata=_rule("a number of seconds above 0", _seconds(zero=False), _read_float),
    )
    connect_timeout: float = field(
        default=300.0,
        metadata=_rule("a number of seconds from 0", _seconds(zero=True), _read_float),
    )
    reconnect_timeout: float = field(
        default=300.0,
        metadata=_rule("a number of seconds from 0", _seconds(zero=True), _read_float),
    )
    time_limit: float | None = field(
        default=None,
        metadata=_rule(
            "a number of seconds above 0, or H:MM:SS, or D-H:MM:SS", _duration, _read_duration
        ),
    )
    task_timeout: float | None = field(
        default=None,
        metadata=_rule("a number of seconds above 0", _seconds(zero=False), _read_float),
    )
    speculate: bool = field(
        default=True,
        metadata=_rule(
            "true or false; as text also yes or no, on or off, 1 or 0", _switch, _read_switch
        ),
    )
    compression: Literal["auto", "off", "zstd"] = field(
        default="auto",
        metadata=_rule("'auto', 'off' or 'zstd'", _one_of("auto", "off", "zstd")),
    )
    max_attempts: int = field(
        default=3, metadata=_rule("a whole number from 1", _whole(1), _read_whole)
    )
    max_losses: int = field(
        default=10, metadata=_rule("a whole number from 1", _whole(1), _read_whole)
    )
    secret_key: bytes | None = field(
        default=None,
        repr=False,
        metadata=_rule(f"{keys.KEY_BYTES} bytes, or as text {keys.KEY_TEXT}", _secret_key),
    )
    key_file: Path | None = field(
        default=None, metadata=_rule("the name of a file that holds a key", _file)
    )
    journal: Path | None = field(
        default=None, metadata=_rule("the name of a file, which may be a new one", _file)
    )
    chaos: int | None = field(
        default=None,
        metadata=_rule(
            "a whole number, which says what will happen to the local run", _integer, _read_whole
        ),
    )
    accept_new_code: bool = field(
        default=False,
        metadata=_rule(
            "true or false; as text also yes or no, on or off, 1 or 0", _switch, _read_switch
        ),
    )
    progress: bool | None = field(
        default=None,
        metadata=_rule(
            "true or false; as text also yes or no, on or off, 1 or 0", _switch, _read_switch
        ),
    )
    verbose: int = field(default=0, metadata=_rule("a whole number from 0", _count, _read_whole))
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            source = self.sources.get(name, "argument")
            object.__setattr__(self, name, _apply(rule.check, name, value, source))

    @classmethod
    def load(
        cls,
        arguments: Mapping[str, object],
        *,
        command_line: Mapping[str, object] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Config:
        """Merge the settings of all places: those named first here win.

        Then come the file that ``config`` names in one of them, and the defaults. ``secret_key``
        and ``key_file`` are two ways to give one thing: the first place with either of them wins.

        Parameters
        ----------
        arguments: what the script gives; ``None`` stands for "not given", here and everywhere
        command_line: the options, as text or as values
        environ: variables called ``PARASNAKE_`` and the name of a setting in capitals

        Raises
        ------
        ConfigurationError: a value is not allowed or a name is not known, the file cannot be read,
            or one place gives two keys; the text says where
        """
        places = [
            _from_arguments(arguments),
            _from_command_line(command_line or {}),
            _from_environment(environ),
        ]
        if named := next((place["config"] for place in places if "config" in place), None):
            places.append(_from_file(_apply(_file, "config", named.value, named.source), named))
        given = _merge(places)
        if "access" in given and "port" not in given:
            given["port"] = _Given(0, "default with access")
        return cls(
            **{name: entry.in_python(name) for name, entry in given.items()},
            sources={name: entry.source for name, entry in given.items()},
        )

    @property
    def worker_count(self) -> int:
        """``workers`` as a number.

        "auto" is what a batch system has granted, or else every core that this process may use.
        """
        if self.workers != "auto":
            return self.workers
        return batch.granted_cores(os.environ) or available_cores()

    @property
    def server_places(self) -> list[Place]:
        """Where a node looks for its server: ``ip`` and ``port``.

        With an access file these places come before those in it, and are none unless ``ip`` was set. A
        port of 0 stands for the one in the file.

        Raises
        ------
        ConfigurationError: the port is 0, which only a server can do something with
        """
        if self.access is not None and "ip" not in self.sources and self.ip == DEFAULT_IP:
            return []
        places = [Place(host, port or self.port) for host, port in parse_places(self.ip)]
        if self.access is None and not all(port for _, port in places):
            source = self.sources.get("port", "argument")
            raise _wrong("port", 0, source, "for a node the port that its server listens on")
        return places


_RULES: dict[str, _Rule] = {
    setting.name: setting.metadata["rule"] for setting in fields(Config) if setting.metadata
}
_OPTIONAL = frozenset(setting.name for setting in fields(Config) if setting.default is None)
_KEY_SETTINGS = ("secret_key", "key_file")
_BESIDE_THE_FILE = ("key_file", "access")
"""Relative names of these in a configuration file are looked for beside it."""
_KNOWN_ELSEWHERE = {
    "host": "ip",
    "address": "ip",
    "server_address": "ip",
    "addresses": "ip",
    "access_file": "access",
    "server_port": "port",
    "key": "key_file",
}
"""What other programs, and Parasnake 0.1, call a setting."""


class _Given(NamedTuple):
    """One setting as somebody gave it."""

    value: object
    source: str
    is_text: bool = False

    def in_python(self, name: str) -> Any:
        if self.is_text and isinstance(self.value, str):
            return _apply(_RULES[name].read, name, self.value, self.source)
        return self.value


_Place = dict[str, _Given]


def _from_arguments(arguments: Mapping[str, object]) -> _Place:
    _refuse_unknown(arguments, {*_RULES, "config"}, "argument")
    return _given({name: _Given(value, "argument") for name, value in arguments.items()})


def _from_command_line(options: Mapping[str, object]) -> _Place:
    _refuse_unknown(options, {*_RULES, "config"}, "command line")
    return _given(
        {
            name: _Given(value, f"command line, --{name.replace('_', '-')}", is_text=True)
            for name, value in options.items()
        }
    )


def _from_environment(environ: Mapping[str, str]) -> _Place:
    variables = {ENVIRONMENT_PREFIX + name.upper(): name for name in (*_RULES, "config")}
    for variable in environ:
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in variables:
            name = variable.removeprefix(ENVIRONMENT_PREFIX)
            meant = _meant(name, variables.values())
            hint = f"; did you mean {ENVIRONMENT_PREFIX}{meant.upper()}?" if meant else ""
            logger.warning("the environment variable %s is no setting%s", variable, hint)
    return {
        name: _Given(environ[variable], f"environment variable {variable}", is_text=True)
        for variable, name in variables.items()
        if variable in environ
    }


def _from_file(path: Path, named: _Given) -> _Place:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            table = _parse(path, file.read().decode("utf-8-sig"))
    except OSError as error:
        raise _bad_file(path, named, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _bad_file(path, named, f"is neither valid TOML nor valid JSON: {error}") from None
    _refuse_unknown(table, set(_RULES), f"file {path}")
    if "secret_key" in table:
        keys.warn_if_exposed(path, mode, "configuration file")
    for name in _BESIDE_THE_FILE:
        if isinstance(named_file := table.get(name), str) and not named_file.startswith("~"):
            table[name] = path.parent / named_file
    return _given({name: _Given(value, f"file {path}") for name, value in table.items()})


def _parse(path: Path, text: str) -> dict[str, object]:
    import json  # most programs have no such file
    import tomllib

    if path.suffix == ".json" or (path.suffix != ".toml" and text.lstrip().startswith("{")):
        table = json.loads(text)
    else:
        table = tomllib.loads(text)
    if not isinstance(table, dict):
        raise ValueError("the settings must stand in one object, {...}")
    own = table.get("parasnake")
    return own if isinstance(own, dict) else table


def _given(place: _Place) -> _Place:
    return {name: entry for name, entry in place.items() if entry.value is not None}


def _merge(places: Iterable[_Place]) -> _Place:
    merged: _Place = {}
    for place in reversed(list(places)):
        both = [place[name] for name in _KEY_SETTINGS if name in place]
        if len(both) > 1:
            sources = " and ".join(dict.fromkeys(entry.source for entry in both))
            raise ConfigurationError(
                f"secret_key and key_file are both given ({sources}); allowed: one of the two"
            )
        if both:
            merged = {name: entry for name, entry in merged.items() if name not in _KEY_SETTINGS}
        merged |= place
    merged.pop("config", None)
    return merged


def _apply(function: Callable[[Any], Any], name: str, value: object, source: str) -> Any:
    try:
        return function(value)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        allowed = _RULES[name].allowed if name in _RULES else "the name of a TOML or JSON file"
        raise _wrong(name, value, source, allowed) from None


def _wrong(name: str, value: object, source: str, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{name} = {_shown(name, value)} ({source}); allowed: {allowed}")


def _shown(name: str, value: object) -> str:
    if name == "secret_key" or keys.PREFIX in str(value):
        return f"<a {type(value).__name__} that is not shown>"
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return " ".join(short.repr(os.fspath(value) if isinstance(value, Path) else value).split())


def _bad_file(path: Path, named: _Given, problem: str) -> ConfigurationError:
    return ConfigurationError(f"config = {str(path)!r} ({named.source}): {problem}")


def _refuse_unknown(names: Iterable[str], known: set[str], source: str) -> None:
    for name in names:
        if name not in known:
            meant = _meant(name, known)
            hint = f"did you mean {meant!r}? " if meant else ""
            raise ConfigurationError(
                f"unknown setting {name!r} ({source}); {hint}allowed: {', '.join(sorted(known))}"
            )


def _meant(name: str, known: Iterable[str]) -> str | None:
    plain = name.lower().replace("-", "_")
    import difflib  # for an error only

    close = difflib.get_close_matches(plain, known, n=1)
    return _KNOWN_ELSEWHERE.get(plain) or (close[0] if close else None)
