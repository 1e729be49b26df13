"""Where in a TOML text each key stands: key path to line. Pure.

`tomllib` gives values without places. `find_lines` goes over a text that tomllib has accepted, so it knows only as much
of the grammar as tells where keys and values begin and end: strings, brackets, comments. It never judges a text; of one
that tomllib refuses, the answer may be anything.
"""

import tomllib

Path = tuple[str | int, ...]
"""Keys, and numbers of array elements, from the root."""

_BARE_STOP = frozenset(" \t\r\n=.]},#[{\"'")
_VALUE_STOP = frozenset(",]}#\n")


def find_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every key, table header and array element of a text that `tomllib.loads` accepts."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._line = 1
        self._counts: dict[Path, int] = {}
        """Elements of each array of tables so far."""

    def document(self) -> None:
        table: Path = ()
        while True:
            self._skip_blank()
            if self._at >= len(self._text):
                return
            if self._peek("[["):
                table = self._header(2)
                number = self._counts.get(table, 0)
                self._counts[table] = number + 1
                table = (*table, number)
                self.lines[table] = self._line
            elif self._peek("["):
                table = self._header(1)
                self.lines[table] = self._line
            else:
                self._pair(table)

    def _header(self, brackets: int) -> Path:
        """Past `[a.b]` or `[[a.b]]`; each part that is an array of tables means its last element."""
        self._advance(brackets)
        parts = self._key()
        self._skip_spaces()
        self._advance(brackets)
        path: Path = ()
        for position, part in enumerate(parts):
            path = (*path, part)
            self.lines.setdefault(path, self._line)
            is_last = position == len(parts) - 1
            if path in self._counts and not (is_last and brackets == 2):
                path = (*path, self._counts[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line
        path = table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self._skip_spaces()
        self._advance(1)  # =
        self._skip_spaces()
        self._value(path)

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip_spaces()
            if self._peek('"') or self._peek("'"):
                quoted = self._string()
                parts.append(str(tomllib.loads(f"key = {quoted}")["key"]))
            else:
                start = self._at
                while self._at < len(self._text) and self._text[self._at] not in _BARE_STOP:
                    self._at += 1
                parts.append(self._text[start : self._at])
            self._skip_spaces()
            if not self._peek("."):
                return parts
            self._advance(1)

    def _value(self, path: Path) -> None:
        if self._peek('"') or self._peek("'"):
            self._string()
        elif self._peek("["):
            self._array(path)
        elif self._peek("{"):
            self._inline_table(path)
        else:
            while self._at < len(self._text) and self._text[self._at] not in _VALUE_STOP:
                self._advance(1)

    def _array(self, path: Path) -> None:
        self._advance(1)
        number = 0
        while True:
            self._skip_blank(commas=True)
            if self._at >= len(self._text) or self._peek("]"):
                self._advance(1)
                return
            self.lines[(*path, number)] = self._line
            self._value((*path, number))
            number += 1

    def _inline_table(self, path: Path) -> None:
        self._advance(1)
        while True:
            self._skip_blank(commas=True)
            if self._at >= len(self._text) or self._peek("}"):
                self._advance(1)
                return
            self._pair(path)

    def _string(self) -> str:
        """Past a string of any of the four kinds; returns it as written."""
        start = self._at
        quote = self._text[start]
        delimiter = quote * 3 if self._peek(quote * 3) else quote
        self._advance(len(delimiter))
        while self._at < len(self._text) and not self._peek(delimiter):
            self._advance(2 if quote == '"' and self._peek("\\") else 1)
        self._advance(len(delimiter))
        while len(delimiter) == 3 and self._peek(quote):  # up to two quotes may stand before the closing three
            self._advance(1)
        return self._text[start : self._at]

    def _skip_blank(self, *, commas: bool = False) -> None:
        """Past white space, line ends and comments."""
        skipped = " \t\n," if commas else " \t\n"
        while self._at < len(self._text):
            if self._text[self._at] in skipped:
                self._advance(1)
            elif self._peek("#"):
                end = self._text.find("\n", self._at)
                self._at = end if end >= 0 else len(self._text)
            else:
                return

    def _skip_spaces(self) -> None:
        while self._peek(" ") or self._peek("\t"):
            self._at += 1

    def _peek(self, expected: str) -> bool:
        return self._text.startswith(expected, self._at)

    def _advance(self, count: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count
