"""Quoting of values for the language of a template. Pure: text in, text out.

A template holds syntax, a value is data: every value that a template puts out passes through the language's `quote`,
chosen by the template's suffix, and brings its own quotes along. `check` refuses a template that sets a value where
those quotes would not protect it (inside quotes, in a here-document), before anything is rendered.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"
_JINJA = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)


class MisplacedValue(ValueError):
    """A template sets a value where its quotes would not hold."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Language:
    """How values become data in one language."""

    name: str
    suffix: str
    """Of the rendered file: `.cfg`."""
    quote: Callable[[str], str]
    check: Callable[[str], None]
    """Raises MisplacedValue for the source of a template."""


def quote_grub(text: str) -> str:
    """One single-quoted word of GRUB script. Control characters become blanks: no value may move the cursor."""
    return "'" + _CONTROL.sub(" ", _SURROGATE.sub(_REPLACEMENT, text)).replace("'", "'\\''") + "'"


def quote_shell(text: str) -> str:
    """One single-quoted word of POSIX shell. NUL, which no shell word can hold, becomes U+FFFD."""
    return "'" + _SURROGATE.sub(_REPLACEMENT, text).replace("\0", _REPLACEMENT).replace("'", "'\\''") + "'"


def quote_yaml(text: str) -> str:
    """A double-quoted scalar of YAML 1.2 (section 7.3.1), printable ASCII only."""
    return '"' + "".join(map(_yaml_character, _SURROGATE.sub(_REPLACEMENT, text))) + '"'


def _yaml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if " " <= character <= "~":
        return character
    return f"\\u{ord(character):04x}" if character <= "\uffff" else f"\\U{ord(character):08x}"


def quote_xml(text: str) -> str:
    """Text or attribute value of XML 1.0. Characters that XML cannot hold (section 2.2) become U+FFFD."""
    text = _NOT_XML.sub(_REPLACEMENT, text)
    for character, reference in _XML_REFERENCES:
        text = text.replace(character, reference)
    return text


_XML_REFERENCES = (
    ("&", "&amp;"),
    ("<", "&lt;"),
    (">", "&gt;"),
    ('"', "&quot;"),
    ("'", "&#39;"),
    ("\t", "&#9;"),
    ("\n", "&#10;"),
    ("\r", "&#13;"),
)


def _pieces(source: str) -> Iterator[tuple[str, bool]]:
    """The source as (text, False) and (`{{ value }}`, True); statements and comments shrink to their line ends."""
    end = 0
    for match in _JINJA.finditer(source):
        yield source[end : match.start()], False
        if match.group().startswith("{{"):
            yield match.group(), True
        else:
            yield "\n" * match.group().count("\n"), False
        end = match.end()
    yield source[end:], False


def check_words(source: str) -> None:
    """Refuse values inside quotes of GRUB script or POSIX shell, after a backslash, and in here-documents."""
    quote = ""
    before = "\n"
    line = 1
    here_document = False
    for text, is_value in _pieces(source):
        if is_value:
            if quote:
                raise MisplacedValue(line, f"{text} stands inside quotes; a value brings its own: take the quotes away")
            if before == "\\":
                raise MisplacedValue(line, f"{text} stands after a backslash, which would open the value's quotes")
            if here_document:
                raise MisplacedValue(line, f"{text} follows a here-document; use printf and words")
            line += text.count("\n")
            before = "x"
            continue
        for character in text:
            if character == "\n":
                line += 1
            if quote == "#":
                quote = "" if character == "\n" else quote
            elif before == "\\" and quote != "'":
                character = "x"
            elif quote:
                quote = "" if character == quote else quote
            elif character in "'\"" or (character == "#" and before in " \t\n;"):
                quote = character
            elif character == "<" and before == "<":
                here_document = True
            before = character


_YAML_BEFORE = re.compile(r"(^|[:\-\[{,?][ \t]+|[\[{])[ \t]*$")
_YAML_AFTER = re.compile(r"^[ \t]*(:[ \t]|$|[\n,\]}]|#)")


def check_yaml(source: str) -> None:
    """Refuse values that are only a part of a scalar: each must be a whole one."""
    pieces = list(_pieces(source))
    line = 1
    for index, (text, is_value) in enumerate(pieces):
        if is_value:
            start = "".join(piece if not value else "x" for piece, value in pieces[:index]).rpartition("\n")[2]
            rest = "".join(piece if not value else "x" for piece, value in pieces[index + 1 :])
            if not _YAML_BEFORE.search(start) or not _YAML_AFTER.match(rest):
                raise MisplacedValue(line, f"{text} is not a whole scalar; a value brings its own quotes")
        line += text.count("\n")


def check_xml(source: str) -> None:
    """Refuse values in comments and CDATA sections, where references are not read."""
    line = 1
    inside = ""
    for text, is_value in _pieces(source):
        if is_value:
            if inside:
                raise MisplacedValue(line, f"{text} stands inside {inside}, where it cannot be quoted")
        else:
            for mark in re.findall(r"<!--|-->|<!\[CDATA\[|\]\]>", text):
                inside = {"<!--": "<!-- -->", "<![CDATA[": "a CDATA section"}.get(mark, "")
        line += text.count("\n")


LANGUAGES = (
    Language("GRUB", ".cfg", quote_grub, check_words),
    Language("XML", ".xml", quote_xml, check_xml),
    Language("shell", ".sh", quote_shell, check_words),
    Language("YAML", ".yaml", quote_yaml, check_yaml),
)


def language_of(template: str) -> Language | None:
    """The language of a template by its name: `grub/agent.cfg.j2` is GRUB. None: no language that we quote for."""
    name = template.removesuffix(".j2")
    return next((language for language in LANGUAGES if name.endswith(language.suffix)), None)
