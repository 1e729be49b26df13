"""`roomcast`: the command line. Heavy parts are imported by the command that needs them, so that each starts fast."""

import gc
import sys
from typing import Annotated

import typer

from imager.errors import ImagerError, ManifestError, SourceError, TargetError, UnknownImage
from netboot.errors import NetbootError, UserError

ASKED_WRONG = 2
"""Exit code: what was asked for cannot be done."""
FAILED = 1
"""Exit code: it failed."""
_CASTS = ("send", "receive")
"""Commands for whose start others wait, and which are soon done."""


def build_app(command: str = "") -> typer.Typer:
    """All commands; for one of a file cast no others, as their options take longer to read than all it imports."""
    app = typer.Typer(
        name="roomcast",
        help="Boots the machines of a room from the network and writes one image to all of them at once.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="First: [bold]roomcast agent build[/bold], [bold]roomcast image capture[/bold], "
        "[bold]roomcast serve --interface IF[/bold]; then boot the machines and [bold]roomcast deploy[/bold].",
    )
    app.callback(invoke_without_command=True)(_roomcast)
    if command in _CASTS:
        from netboot.cli import casting

        casting.register(app)
    else:
        _register_all(app)
    return app


def _roomcast(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and end.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"roomcast {installed('roomcast')}")
        raise typer.Exit


def _register_all(app: typer.Typer) -> None:
    from netboot.cli import (
        agent,
        boot,
        boot_programs,
        casting,
        config,
        database,
        doctor,
        images,
        leases,
        machines,
        reload,
        serve,
        sessions,
        tasks,
        templates,
    )

    serve.register(app)
    reload.register(app)
    agent.register(app)
    boot.register(app)
    boot_programs.register(app)
    images.register(app)
    leases.register(app)
    sessions.register(app)
    tasks.register(app)
    machines.register(app)
    templates.register(app)
    casting.register(app)
    config.register(app)
    database.register(app)
    doctor.register(app)


def main() -> None:
    """Run a command. Our own errors are one line on standard error, without a traceback."""
    try:
        build_app(*sys.argv[1:2])()
    except UserError as error:
        for line in error.lines():
            _tell(line)
        sys.exit(ASKED_WRONG)
    except (SourceError, TargetError, UnknownImage, ManifestError) as error:
        _tell(error)
        sys.exit(ASKED_WRONG)
    except (NetbootError, ImagerError) as error:
        _tell(error)
        sys.exit(FAILED)
    except BrokenPipeError:
        sys.exit(FAILED)
    finally:
        gc.freeze()  # the process's memory goes as a whole: to look for garbage in it first takes 25 ms


def _tell(error: Exception | str) -> None:
    from netboot.bootlog.words import shown

    line = shown(" ".join(str(error).split()))
    print(f"roomcast: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
