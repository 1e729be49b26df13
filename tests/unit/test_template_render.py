import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from netboot.boot.contexts import (
    CONTEXTS,
    AgentContext,
    FirstStageContext,
    GrubContext,
    LocalContext,
    TemplateContext,
)
from netboot.boot.render import Renderer
from netboot.errors import TemplateError, UnknownError

KEY = "5c" * 32
HOSTILE = "x'; reboot; \"$(reboot)`reboot`${root}{{ server }}\n# }\x1b[2J"


@dataclass(frozen=True, slots=True)
class Note(TemplateContext):
    """A context for templates of the tests."""

    template: ClassVar[str] = "note.cfg.j2"

    name: str = "pc-01"
    count: int = 3
    flag: bool = True
    words: tuple[str, ...] = ("a", "b c")
    nothing: None = None


def an_agent(**changes: object) -> AgentContext:
    values: dict[str, object] = {
        "server": "10.77.0.1",
        "http_port": 80,
        "key": KEY,
        "mac": "52:54:00:00:00:01",
        "machine": "pc-01",
        "reason": "deploy debian-12 version 3",
    }
    return AgentContext(**{**values, **changes})  # type: ignore[arg-type]


def render(directory: Path, source: str, name: str = "note.cfg.j2") -> str:
    (directory / name).write_text(source)
    return Renderer(directory).render_template(name, Note())


def test_values_are_quoted_by_default(tmp_path: Path) -> None:
    assert render(tmp_path, "echo {{ name }} {{ count }} {{ flag }}\n") == "echo 'pc-01' 3 true\n"


def test_the_quotes_are_those_of_the_template_that_puts_the_value_out(tmp_path: Path) -> None:
    (tmp_path / "part.sh.j2").write_text("x={{ name }}\n")
    assert render(tmp_path, '{{ name }}: {{ count }}\n{% include "part.sh.j2" %}', "note.yaml.j2") == (
        "\"pc-01\": 3\nx='pc-01'\n"
    )


def test_a_macro_and_a_block_keep_their_syntax(tmp_path: Path) -> None:
    source = (
        "{% macro say(what) %}echo {{ what }}{% endmacro %}\n"
        "{% set kept %}set a={{ name }}{% endset %}\n{{ say(name) }}\n{{ kept }}\n"
    )
    assert render(tmp_path, source).split("\n") == ["echo 'pc-01'", "set a='pc-01'", ""]


@pytest.mark.parametrize("bypass", ["safe", "e", "escape", "forceescape", "tojson", "xmlattr", "urlize"])
def test_no_filter_gets_around_the_quotes(tmp_path: Path, bypass: str) -> None:
    with pytest.raises(TemplateError, match=bypass):
        render(tmp_path, f"echo {{{{ name|{bypass} }}}}\n")


def test_filters_that_change_text_still_give_data(tmp_path: Path) -> None:
    source = "echo {{ (name ~ \"'; reboot; '\")|upper }} {{ words|join(' ') }} {{ name|replace('p', '$') }}\n"
    assert render(tmp_path, source) == "echo 'PC-01'\\''; REBOOT; '\\''' 'a b c' '$c-01'\n"


def test_an_undefined_variable_names_template_line_variable_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TemplateError) as caught:
        render(tmp_path, "echo {{ name }}\necho {{ hostname }}\n")
    message = str(caught.value)
    assert f"{tmp_path}/note.cfg.j2, line 2" in message
    assert "'hostname' is undefined" in message
    assert "write one of" in message and "name" in message
    assert "\n" not in message


def test_an_undefined_variable_in_an_included_template_names_that_template(tmp_path: Path) -> None:
    (tmp_path / "part.cfg.j2").write_text("\n\necho {{ missing }}\n")
    with pytest.raises(TemplateError, match=r"part\.cfg\.j2, line 3: 'missing' is undefined"):
        render(tmp_path, '{% include "part.cfg.j2" %}\n')


@pytest.mark.parametrize("expression", ["nothing", "words", "missing", "missing.part", "name()", "1 / 0"])
def test_what_is_no_text_is_an_error_with_its_place(tmp_path: Path, expression: str) -> None:
    with pytest.raises(TemplateError, match=r"note\.cfg\.j2, line 2"):
        render(tmp_path, f"echo\necho {{{{ {expression} }}}}\n")


def test_an_undefined_variable_in_a_condition_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"line 1: 'missing' is undefined"):
        render(tmp_path, "{% if missing %}x{% endif %}\n")


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"note\.cfg\.j2, line 2"):
        render(tmp_path, "echo\n{% if %}\n")


def test_a_value_inside_quotes_is_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"note\.cfg\.j2, line 2: \{\{ name \}\} stands inside quotes"):
        render(tmp_path, 'echo\necho "{{ name }}"\n')


def test_a_template_without_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="no language is known"):
        render(tmp_path, "{{ name }}", "note.txt.j2")


def test_xml_that_is_not_well_formed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="not XML"):
        render(tmp_path, "<a>{{ name }}</b>", "note.xml.j2")


def test_an_unknown_template_lists_those_that_exist() -> None:
    with pytest.raises(UnknownError, match=r"no template grub/nothing\.cfg\.j2; there are: .*grub/agent\.cfg\.j2"):
        Renderer(None).render_template("grub/nothing.cfg.j2", FirstStageContext())


def test_a_missing_included_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"wants the template gone\.cfg\.j2"):
        render(tmp_path, '{% include "gone.cfg.j2" %}\n')


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "grub/../../secret.cfg.j2"])
def test_no_template_name_leaves_the_directories(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.cfg.j2").write_text("secret\n")
    (tmp_path / "own").mkdir()
    with pytest.raises(UnknownError):
        Renderer(tmp_path / "own").render_template(name, FirstStageContext())


def test_an_administrators_template_takes_the_place_of_ours_at_once(tmp_path: Path) -> None:
    renderer = Renderer(tmp_path)
    ours = renderer.render_grub(FirstStageContext())
    assert ours == Renderer(None).render_grub(FirstStageContext())
    own = tmp_path / "grub" / "first-stage.cfg.j2"
    own.parent.mkdir()
    own.write_text("echo mine\n")
    assert renderer.render_grub(FirstStageContext()) == b"echo mine\n"
    listed = {info.name: info for info in renderer.list_templates()}
    assert listed["grub/first-stage.cfg.j2"].overridden and listed["grub/first-stage.cfg.j2"].file == own
    assert not listed["grub/agent.cfg.j2"].overridden


def test_every_context_has_its_template_and_its_variables_are_listed() -> None:
    listed = Renderer(None).list_templates()
    assert [info.name for info in listed] == [context.template for context in CONTEXTS]
    assert all(info.file.is_file() for info in listed)
    agent = next(info for info in listed if info.name == "grub/agent.cfg.j2")
    assert {"server", "machine", "reason", "command_line"} <= set(agent.variables)


def grub_contexts(text: str) -> list[GrubContext]:
    return [
        FirstStageContext(),
        an_agent(machine=text, reason=text),
        an_agent(machine=text, reason=text, serial=True, mac=""),
        LocalContext(machine=text, reason=text, loaders=(text, "/EFI/" + text)),
    ]


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="grub-common is not installed")
@pytest.mark.parametrize("text", ["", "pc-01", HOSTILE, "'", '"', "\\", "$", "#", "{", "}", "\n", "--help"])
def test_grub_parses_every_configuration_whatever_the_values_are(text: str) -> None:
    for context in grub_contexts(text):
        rendered = Renderer(None).render_grub(context)
        done = subprocess.run(["grub-script-check"], input=rendered, capture_output=True, check=False)
        assert done.returncode == 0, f"{done.stderr.decode()}\n{rendered.decode()}"


@pytest.mark.parametrize("text", [HOSTILE, "a\nreboot\nb", "}\nfi\nreboot\n"])
def test_a_value_adds_no_line_to_a_grub_configuration(text: str) -> None:
    for hostile, plain in zip(grub_contexts(text), grub_contexts("plain"), strict=True):
        lines = Renderer(None).render_grub(hostile).decode().split("\n")
        assert len(lines) == len(Renderer(None).render_grub(plain).decode().split("\n"))
        assert [line for line in lines if line.strip() == "reboot"] == ["reboot"]


def test_the_agents_command_line_is_the_contracts() -> None:
    assert an_agent(arguments=("debug",)).command_line == (
        "quiet",
        "roomcast.server=http://10.77.0.1:80",
        f"roomcast.key={KEY}",
        "BOOTIF=01-52-54-00-00-00-01",
        "debug",
        "console=tty0",
        "console=ttyS0",
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"mac": "52:54:00:00:00"},
        {"mac": "52-54-00-00-00-01"},
        {"mac": "52:54:00:00:00:01\n"},
        {"key": "5C" * 32},
        {"key": KEY + "\n"},
        {"arguments": ("a b",)},
        {"arguments": ("",)},
        {"arguments": ("a\n",)},
    ],
)
def test_what_cannot_be_one_word_of_the_command_line_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        an_agent(**wrong)
