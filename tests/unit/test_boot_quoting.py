import ast
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from netboot.boot.quoting import (
    LANGUAGES,
    MisplacedValue,
    check_words,
    check_xml,
    check_yaml,
    language_of,
    quote_grub,
    quote_shell,
    quote_xml,
    quote_yaml,
)

HOSTILE = (
    "",
    "'",
    "''; reboot; '",
    '" ; reboot ; "',
    "$(reboot)",
    "`reboot`",
    "${root}",
    "$root",
    "a\nreboot\n",
    "a\r\nb\tc",
    "}\n{",
    "{{ server }}{% raw %}",
    "\\",
    "\\'",
    "a\\\nb",
    "# not a comment",
    "-n",
    "--help",
    "<a>&amp;]]>-->",
    "\x1b[2J\x07\x00\x7f\x9b",
    "\u2028\ufffe\ud800",
    "Zoë 教室 🖥",
)
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60), st.text("'\"\\$(){}`;\n# a", max_size=30))


def read_grub_word(script: str) -> str:
    """One word as GRUB's manual reads it (section 6.1, Quoting), written apart from the code under test."""
    word, quote, i = "", "", 0
    while i < len(script):
        character = script[i]
        if quote == "'":
            quote, word = ("", word) if character == "'" else (quote, word + character)
        elif character == "\\":
            i += 1
            word += script[i]
        elif character == "'":
            quote = "'"
        else:
            assert character not in ' \t\n"$;{}|&<>#', f"{character!r} ends the word or starts another meaning"
            word += character
        i += 1
    assert quote == "", "the quote is left open"
    return word


@given(texts)
def test_a_grub_value_reads_back_as_the_same_text_without_control_characters(text: str) -> None:
    read = read_grub_word(quote_grub(text))
    assert len(read) == len(text)
    for before, after in zip(text, read, strict=True):
        assert after == before or (after == " " and not before.isprintable()) or after == "\ufffd"
    assert "\n" not in read and "\x1b" not in read


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="grub-common is not installed")
def test_grub_itself_parses_every_hostile_value() -> None:
    script = "".join(f"echo 'x'{quote_grub(text)}'y'\n" for text in HOSTILE)
    done = subprocess.run(["grub-script-check"], input=script.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    # and it would have noticed
    assert subprocess.run(["grub-script-check"], input=b"echo 'x", capture_output=True, check=False).returncode != 0


@settings(max_examples=60, deadline=None)
@given(texts)
def test_a_shell_value_reads_back_as_the_same_text(text: str) -> None:
    expected = "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)
    done = subprocess.run(["sh", "-c", f"printf %s {quote_shell(text)}"], capture_output=True, check=True)
    assert done.stdout.decode() == expected
    assert done.stderr == b""


@given(texts)
def test_a_yaml_value_is_one_ascii_scalar_that_reads_back(text: str) -> None:
    scalar = quote_yaml(text)
    assert scalar.isascii() and scalar.isprintable()
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert ast.literal_eval(scalar) == expected  # these escapes are Python's too


@given(texts)
def test_an_xml_value_reads_back_as_text_and_as_attribute(text: str) -> None:
    tree = etree.fromstring(f'<a b="{quote_xml(text)}">{quote_xml(text)}</a>'.encode())
    expected = "".join(
        c if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff") else "\ufffd"
        for c in text
    )
    assert (tree.text or "") == expected
    assert tree.get("b") == expected
    assert len(tree) == 0


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('echo "{{ x }}"\n', 1),
        ("set a=1\necho 'hello {{ x }}'\n", 2),
        ('echo "a\\"{{ x }}"\n', 1),
        ("echo 'a'\n\necho \\{{ x }}\n", 3),
        ("cat <<EOF\n{{ x }}\nEOF\n", 2),
        ("{# a\ncomment #}\necho '{{ x }}'\n", 3),
        ("echo 'two\nlines {{ x }}'\n", 2),
        ("echo $'{{ x }}'\n", 1),
    ],
)
def test_a_value_inside_quotes_is_refused_with_its_line(source: str, line: int) -> None:
    with pytest.raises(MisplacedValue) as caught:
        check_words(source)
    assert caught.value.line == line


@pytest.mark.parametrize(
    "source",
    [
        "echo 'name: '{{ x }}'.'\n",
        "# don't mind\necho {{ x }}\n",
        'echo "a"{{ x }}"b" # it\'s\necho {{ y }}\n',
        "linux{% for w in words %} {{ w }}{% endfor %}\n",
        "echo a\\'{{ x }}\n",
        "echo a#'{{'\n",
    ],
)
def test_a_value_outside_quotes_is_allowed(source: str) -> None:
    check_words(source)


@pytest.mark.parametrize(
    "source", ["a: b {{ x }}\n", 'a: "{{ x }}"\n', "a: {{ x }} b\n", "a: {{ x }}{{ y }}\n", "{{ x }}y: 1\n"]
)
def test_a_value_that_is_a_part_of_a_yaml_scalar_is_refused(source: str) -> None:
    with pytest.raises(MisplacedValue):
        check_yaml(source)


@pytest.mark.parametrize(
    "source", ["a: {{ x }}\n", "- {{ x }}\n", "a: [{{ x }}, {{ y }}]\n", "{{ x }}: {{ y }} # why\n", "a: {{ x }}"]
)
def test_a_value_that_is_a_whole_yaml_scalar_is_allowed(source: str) -> None:
    check_yaml(source)


@pytest.mark.parametrize("source", ["<a><!-- {{ x }} --></a>", "<a>\n<![CDATA[{{ x }}]]></a>"])
def test_a_value_where_xml_reads_no_references_is_refused(source: str) -> None:
    with pytest.raises(MisplacedValue):
        check_xml(source)


def test_the_language_follows_the_suffix() -> None:
    assert {language.suffix: language.name for language in LANGUAGES} == {
        ".cfg": "GRUB",
        ".xml": "XML",
        ".sh": "shell",
        ".yaml": "YAML",
    }
    found = language_of("unattend/windows-11.xml.j2")
    assert found is not None and found.name == "XML"
    assert language_of("pages/index.html.j2") is None
