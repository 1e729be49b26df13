"""Settings from flags, the environment, and /etc/roomcast/roomcast.toml, in this order of precedence.

All mistakes are told at once, each with its place; one in a value that a flag overrides is told too.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netboot.config.check import Placed, check_relations
from netboot.config.keys import KEYS, Key
from netboot.config.mistakes import ConfigError, Mistake, spell
from netboot.config.settings import CONFIG_FILE, DATA_DIRECTORY, SOCKET_PATH, Settings
from netboot.config.suggest import suggest
from netboot.config.toml_lines import Path as KeyPath
from netboot.config.toml_lines import find_lines
from netboot.config.values import Wrong, problems_of
from netboot.errors import UserError

PREFIX = "ROOMCAST_"
FILE_VARIABLE = "ROOMCAST_CONFIG"
"""Names the file, as the flag --config does."""


_SYNTAX_HINTS = (
    ("Illegal character '\\n'", ': close the text with " on the same line'),
    ("Unterminated string", ': close the text with "'),
    ("Invalid value", ': texts and addresses stand in "quotes", lists in [ ]'),
    ("Expected newline", ': texts and addresses stand in "quotes", one setting a line'),
    ("Cannot overwrite a value", ": this setting stands here twice"),
    ("Cannot declare", ": this table stands here twice; [[subnet]] and [[reservation]] have two brackets"),
    ("Invalid statement", ': settings are written name = "value"'),
    ("Expected '='", ': settings are written name = "value"'),
)
"""A word of tomllib's, and what to do."""


@dataclass(frozen=True, slots=True)
class Document:
    """The file as it was read."""

    path: Path
    tree: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def place(self, path: KeyPath) -> str:
        """FILE:LINE of a key, or of what holds it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.path}:{self.lines[path]}" if path else str(self.path)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings that hold together, and where each came from."""

    settings: Settings
    file: Path | None
    """None: the default file, which is not there."""
    places: Mapping[str, str]
    """By field: FILE:LINE, a variable, a flag; a field without a place has its default."""
    warnings: tuple[str, ...] = ()
    document: Document | None = field(default=None, compare=False)


def load_settings(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """The settings alone; see `load`."""
    return load(flags, file).settings


def load(flags: Mapping[str, Any], file: Path | None = None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Settings from `file` (the default file may be missing, a named one must exist), environment and `flags`.

    `flags` has the names of the fields of Settings; None means not given. Raises ConfigError with every mistake.
    """
    environment = os.environ if environment is None else environment
    mistakes: list[Mistake] = []
    named = file or (Path(environment[FILE_VARIABLE]) if environment.get(FILE_VARIABLE) else None)
    document = read_document(named or CONFIG_FILE, required=named is not None)
    values = _Values(mistakes)
    if document is not None:
        by_name = {key.name: key for key in KEYS}
        for name, value in document.tree.items():
            if name in by_name:
                values.take(by_name[name], value, document.place)
            else:
                text = f"no such setting{suggest(name, by_name)}"
                mistakes.append(Mistake(document.place((name,)), spell((name,)), text))
    for key in KEYS:
        if key.variable and (variable := environment.get(key.variable)):
            values.take(key, variable, key.variable)
    for key in KEYS:
        if (flag := flags.get(key.field)) is not None:
            values.take(key, flag, key.flag)
    if "interfaces" not in values.places:
        where = str(document.path) if document else str(CONFIG_FILE)
        mistakes.append(
            Mistake(where, "interfaces", "missing: name the network interface to serve", "--interface eth1")
        )
    placed = Placed(values.parsed, values.places, document.place if document else None)
    mistakes += check_relations(placed)
    if mistakes:
        raise ConfigError(mistakes)
    settings = Settings(**values.parsed)
    path = document.path if document else None
    return Loaded(settings, path, values.places, _warnings(settings, values.places, environment), document)


class _Values:
    """What was given so far; later sources go before earlier ones."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.parsed: dict[str, Any] = {}
        """By field."""
        self.places: dict[str, str] = {}
        self._mistakes = mistakes

    def take(self, key: Key, value: Any, place: str | Callable[[KeyPath], str]) -> None:
        """`place`: of all of it, or where each part of it stands."""

        def where(path: KeyPath) -> str:
            return place if isinstance(place, str) else place(path)

        self.places[key.field] = where((key.name,))
        try:
            self.parsed[key.field] = key.parse(value)
        except ValueError as error:
            self.parsed.pop(key.field, None)
            if isinstance(error, Wrong) and error.partial is not None:
                self.parsed[key.field] = error.partial  # what is right of it is checked further
            for problem in problems_of(error, (key.name,), key.example):
                self._mistakes.append(
                    Mistake(where(problem.path), spell(problem.path), problem.text, problem.example or "")
                )


def read_document(path: Path, *, required: bool) -> Document | None:
    """Read a file; None when it is not there and need not be. Raises UserError, for bad TOML with the line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Windows editors put a mark before the text
        tree = tomllib.loads(text)
    except FileNotFoundError:
        if required:
            raise UserError(f"{path}: no such configuration file; docs/configuration.md tells of it") from None
        return None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_mistake(path, str(error))]) from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError([Mistake(f"{path}:{line}", "", "not UTF-8 text: save the file as UTF-8")]) from error
    except RecursionError as error:
        raise ConfigError([Mistake(str(path), "", "brackets are nested too deep")]) from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a directory: name the file in it") from error
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}: run it with sudo, or let this user read the file") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return Document(path, tree, find_lines(text))


def _syntax_mistake(path: Path, message: str) -> Mistake:
    """tomllib tells its place as "(at line 3, column 5)" or "(at end of document)"."""
    what, _, where = message.rpartition(" (at line ")
    line, _, column = where.rstrip(")").partition(", column ")
    hint = next((hint for word, hint in _SYNTAX_HINTS if word in message), "")
    if what and line.isdecimal():
        return Mistake(f"{path}:{line}", "", f"no TOML: {what} (column {column}){hint}")
    return Mistake(str(path), "", f"no TOML: {message}{hint}")


def _warnings(settings: Settings, places: Mapping[str, str], environment: Mapping[str, str]) -> tuple[str, ...]:
    known = {key.variable for key in KEYS if key.variable} | {FILE_VARIABLE}
    told = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            told.append(f"{name}: no setting has this variable{suggest_variable(name, known)}")
    unused = ("pool", "router", "subnets", "reservations") if settings.mode.value in ("proxy", "off") else ()
    for name in unused:
        if name in places:
            told.append(f"{places[name]}: {name}: not used in mode {settings.mode}, which gives no addresses")
    return tuple(told)


def suggest_variable(name: str, known: set[str]) -> str:
    """As `suggest`, for variables."""
    lower = {variable.lower().replace("_", "-"): variable for variable in known}
    told = suggest(name, lower)
    for low, variable in lower.items():
        told = told.replace(f" {low}?", f" {variable}?")
    return told


def data_directory(flag: Path | None) -> Path:
    """The data directory of a command: its flag, ROOMCAST_DATA, the configuration file, or the default."""
    return flag or _lone_path("data") or DATA_DIRECTORY


def socket_path(flag: Path | None) -> Path:
    """The API socket of a command: its flag, ROOMCAST_SOCKET, the configuration file, or the default."""
    return flag or _lone_path("socket") or SOCKET_PATH


def _lone_path(name: str) -> Path | None:
    """One path, by environment or file: for commands, which mind no other setting."""
    if text := os.environ.get(PREFIX + name.upper()):
        return Path(text)
    named = os.environ.get(FILE_VARIABLE)
    document = read_document(Path(named) if named else CONFIG_FILE, required=bool(named))
    value = document.tree.get(name) if document else None
    return Path(value) if isinstance(value, str) else None
