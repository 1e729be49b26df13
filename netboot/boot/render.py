"""Rendering of templates with the facts of one machine.

Jinja2 with strict variables. Values are quoted for the language of the template that puts them out; Jinja2's own ways
around that (`safe`, `escape` and their kin) are not available. Reads template files; writes nothing.
"""

import dataclasses
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import jinja2
import jinja2.ext
import jinja2.runtime
import jinja2.utils
from markupsafe import Markup

import templates
from netboot.boot.contexts import CONTEXTS, GrubContext, TemplateContext
from netboot.boot.quoting import MisplacedValue, language_of
from netboot.errors import TemplateError, UnknownError

OVERRIDES = Path("/etc/roomcast/templates")
"""Where an administrator's own templates are looked for first, under the same names."""

_BYPASSES = ("safe", "e", "escape", "forceescape", "tojson", "xmlattr", "urlize")


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """A template that can be rendered."""

    name: str
    """Its path below the directory of templates."""
    file: Path
    overridden: bool
    """The file is the administrator's, not ours."""
    variables: tuple[str, ...]


class Renderer:
    """Renders templates; a changed file takes effect with the next request."""

    def __init__(self, overrides: Path | None = OVERRIDES) -> None:
        self._ours = Path(templates.__file__).parent
        self._overrides = overrides
        searched = [self._ours] if overrides is None else [overrides, self._ours]
        self._environment = jinja2.Environment(
            loader=_Loader(searched),
            undefined=jinja2.StrictUndefined,
            autoescape=True,
            finalize=_quoted,
            extensions=[_PlacementCheck],
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        for name in _BYPASSES:
            del self._environment.filters[name]

    def render_grub(self, context: GrubContext) -> bytes:
        """The GRUB configuration of `context`, as it is sent to a machine. Raises TemplateError."""
        return self.render_template(context.template, context).encode()

    def render_template(self, name: str, context: TemplateContext) -> str:
        """Render the template `name` with the fields and properties of `context`.

        Raises UnknownError when there is no such template, TemplateError when it cannot be rendered: both name what to
        change. XML is well-formed when this returns.
        """
        variables = _variables(context)
        try:
            text = self._environment.get_template(name).render(variables)
        except jinja2.TemplateNotFound as error:
            if error.name == name:
                known = ", ".join(info.name for info in self.list_templates())
                raise UnknownError(f"no template {name}; there are: {known}") from error
            raise TemplateError(f"{name} wants the template {error.name}, which does not exist") from error
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{error.filename or name}, line {error.lineno}: {error.message}") from error
        except jinja2.UndefinedError as error:
            raise TemplateError(
                f"{self._place(name, error)}: {error.message}; write one of {', '.join(sorted(variables))}"
            ) from error
        except Exception as error:  # a template is a program: a filter or a test in it may raise anything
            raise TemplateError(f"{self._place(name, error)}: {error or type(error).__name__}") from error
        if name.removesuffix(".j2").endswith(".xml"):
            try:
                expat.ParserCreate().Parse(text, True)
            except expat.ExpatError as error:
                raise TemplateError(f"{self.file(name)}: what it renders is not XML: {error}") from error
        return text

    def list_templates(self) -> tuple[TemplateInfo, ...]:
        """Every template that has a context."""
        listed = []
        for context in CONTEXTS:
            file = self.file(context.template)
            listed.append(
                TemplateInfo(context.template, file, not file.is_relative_to(self._ours), _variable_names(context))
            )
        return tuple(listed)

    def file(self, name: str) -> Path:
        """The file that the template `name` is read from: the administrator's when there is one."""
        if self._overrides is not None and (self._overrides / name).is_file():
            return self._overrides / name
        return self._ours / name

    def _place(self, name: str, error: BaseException) -> str:
        """File and line of the template where `error` was raised."""
        roots = tuple(str(root) for root in (self._ours, self._overrides) if root is not None)
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename.startswith(roots):
                return f"{frame.filename}, line {frame.lineno}"
        return str(self.file(name))


class _Loader(jinja2.FileSystemLoader):
    """Notices a file that came in front of the one it read, too: a new one of the administrator's."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        source, filename, unchanged = super().get_source(environment, template)
        before = [Path(root) / template for root in self.searchpath]
        before = before[: before.index(Path(filename))]
        return source, filename, lambda: unchanged() and not any(file.is_file() for file in before)


class _PlacementCheck(jinja2.ext.Extension):
    """Refuses a template that sets a value where its quotes would not hold."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        language = language_of(name or "")
        if language is None:
            raise jinja2.TemplateSyntaxError(
                "no language is known for this name; use .cfg.j2, .xml.j2, .sh.j2 or .yaml.j2", 1, name, filename
            )
        try:
            language.check(source)
        except MisplacedValue as error:
            raise jinja2.TemplateSyntaxError(str(error), error.line, name, filename) from error
        return source


@jinja2.pass_context
def _quoted(context: jinja2.runtime.Context, value: object) -> Markup:
    """`value` as data of the language of the template that puts it out."""
    if isinstance(value, Markup):  # the output of a macro or a block: quoted where it was put out
        return value
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises UndefinedError
    language = language_of(context.name or "")
    assert language is not None  # or the template would not have loaded
    if isinstance(value, bool):
        return Markup("true" if value else "false")
    if isinstance(value, int):
        return Markup(value)
    if isinstance(value, str):
        return Markup(language.quote(str(value)))
    raise TypeError(f"{value!r} is neither text nor a number; write its parts one by one")


def _variable_names(context: type[TemplateContext]) -> tuple[str, ...]:
    fields = [field.name for field in dataclasses.fields(context)]
    properties = [name for name, member in vars(context).items() if isinstance(member, property)]
    return tuple(fields + properties)


def _variables(context: TemplateContext) -> Mapping[str, Any]:
    return {name: getattr(context, name) for name in _variable_names(type(context))}
