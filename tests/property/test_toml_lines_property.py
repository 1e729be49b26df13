"""The line index of TOML: whatever tomllib accepts, every key of its tree has the line where it was written."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from netboot.config.toml_lines import Path, find_lines

_BARE = some.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
_ODD_TEXT = some.text(some.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
_TRAPS = some.sampled_from(["a = 1", "[table]", "# no comment", "]", "}", "'", "x\ny = 2\n[z]", ",", "=", '"', "\\"])
_TEXT = _ODD_TEXT | _TRAPS


def _basic(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _multi(text: str) -> str:
    return '"""' + text.replace("\\", "\\\\").replace('"', '\\"') + '"""'


def _multi_literal(text: str) -> str:
    return "'''" + text.replace("'", "") + "'''"


_KEY = _BARE | _TEXT.map(_basic)
_STRING = _TEXT.map(_basic) | _TEXT.map(_multi) | _TEXT.map(_multi_literal) | some.just("'C:\\dir\\'")
_SCALAR = _STRING | some.sampled_from(["1", "-2.5", "true", "1979-05-27T07:32:00Z", "0x1f", "1979-05-27 07:32:00"])


@some.composite
def _values(draw: some.DrawFn, depth: int = 2) -> str:
    kind = draw(some.sampled_from(["scalar", "array", "table"] if depth else ["scalar"]))
    if kind == "scalar":
        return draw(_SCALAR)
    if kind == "array":
        items = draw(some.lists(_values(depth - 1), max_size=3))
        joint = draw(some.sampled_from([", ", ",\n  ", " , # more, = ]\n"]))
        return "[" + draw(some.sampled_from(["", "\n", " # first ]\n"])) + joint.join(items) + "]"
    keys = draw(some.lists(_KEY, max_size=3, unique=True))
    return "{" + ", ".join(f"{key} = {draw(_values(depth - 1))}" for key in keys) + "}"


@some.composite
def _documents(draw: some.DrawFn) -> str:
    lines = []
    for _ in range(draw(some.integers(0, 8))):
        kind = draw(some.sampled_from(["pair", "pair", "dotted", "table", "array", "comment", "blank"]))
        dotted = ".".join(draw(some.lists(_KEY, min_size=1, max_size=2)))
        match kind:
            case "pair":
                lines.append(f"{draw(_KEY)} = {draw(_values())}")
            case "dotted":
                lines.append(
                    f"  {dotted.replace('.', ' . ') if chr(34) not in dotted else dotted}={draw(_values())} # x"
                )
            case "table":
                lines.append(f"[ {dotted} ] # [other]")
            case "array":
                lines.append(f"[[{dotted}]]")
            case "comment":
                lines.append("# key = 'value'")
            case _:
                lines.append("")
    return draw(some.sampled_from(["\n", "\r\n"])).join(lines)


def _paths(tree: Any, path: Path = ()) -> set[Path]:
    found: set[Path] = {path} if path else set()
    if isinstance(tree, dict):
        for key, value in tree.items():
            found |= _paths(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            found |= _paths(value, (*path, number))
    return found


@given(_documents())
def test_every_key_of_an_accepted_text_has_its_line_and_nothing_else_has(text: str) -> None:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = find_lines(text)
    assert set(lines) == _paths(tree)
    written = text.replace("\r\n", "\n").split("\n")
    for path, line in lines.items():
        assert 1 <= line <= len(written)
        last = path[-1]
        if isinstance(last, str) and last.isalnum() and last.isascii():
            assert last in written[line - 1], (path, line)


def test_strings_that_look_like_keys_are_not_keys() -> None:
    text = "\n".join(
        [
            'a."b c".d = """',
            "e = 1",
            '[f]"""',
            "[[g]]",
            "h = [1, # h = 2",
            "  {i = 'x]', j.k = 3}]",
            "[[g]]",
            "[g.l]",
            "m = '''",
            "n = 1'''",
            "[g.l.o]",
        ]
    )
    assert find_lines(text) == {
        ("a",): 1,
        ("a", "b c"): 1,
        ("a", "b c", "d"): 1,
        ("g",): 4,
        ("g", 0): 4,
        ("g", 0, "h"): 5,
        ("g", 0, "h", 0): 5,
        ("g", 0, "h", 1): 6,
        ("g", 0, "h", 1, "i"): 6,
        ("g", 0, "h", 1, "j"): 6,
        ("g", 0, "h", 1, "j", "k"): 6,
        ("g", 1): 7,
        ("g", 1, "l"): 8,
        ("g", 1, "l", "m"): 9,
        ("g", 1, "l", "o"): 11,
    }
