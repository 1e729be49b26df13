"""Rules 1 and 2 of the design hold in the imports: imager never imports netboot, pure packages do no I/O."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

PURE = [
    "netboot/model.py",
    "netboot/querier.py",
    "netboot/wire",
    "netboot/dhcp",
    "netboot/tftp",
    "netboot/boot/selection.py",
    "netboot/bootlog",
    "netboot/deployment/states.py",
    "imager/wire",
    "imager/multicast",
    "imager/image/manifest.py",
    "imager/image/plan.py",
]

# Modules that bring sockets, files, threads, an event loop, logs or a clock.
IMPURE = {
    *("asyncio", "asyncio_dgram", "concurrent", "fcntl", "glob", "http", "httpx", "io", "logging", "mmap"),
    *("multiprocessing", "os", "pathlib", "queue", "sched", "select", "selectors", "shutil", "signal", "socket"),
    *("socketserver", "sqlalchemy", "sqlite3", "ssl", "structlog", "subprocess", "tempfile", "threading", "time"),
    *("urllib.request", "uvicorn", "fastapi"),
}
# A pure module may call C code that only computes, and must say so here.
COMPUTES_IN_C = {"imager/multicast/erasure.py": {"ctypes"}, "imager/wire/seal.py": {"ctypes"}}
# A program over pure modules tells a person what it found.
PRINTS = {"imager/multicast/simulate.py"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def modules(place: str) -> list[Path]:
    path = TOP / place
    assert path.exists(), f"{place} is listed here and does not exist"
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def test_imager_never_imports_netboot() -> None:
    found = [
        f"{path.relative_to(TOP)}:{line}"
        for path in modules("imager")
        for line, name in imports(path)
        if name.split(".")[0] == "netboot"
    ]
    assert found == []


@pytest.mark.parametrize("place", PURE)
def test_a_pure_package_imports_nothing_that_does_io(place: str) -> None:
    found = [
        f"{path.relative_to(TOP)}:{line} imports {name}"
        for path in modules(place)
        for line, name in imports(path)
        if name.split(".")[0] in IMPURE or name in IMPURE
    ]
    assert found == []


@pytest.mark.parametrize("place", PURE)
def test_a_pure_package_opens_no_file_and_reaches_into_no_shell(place: str) -> None:
    shells = (
        "imager.transport",
        "imager.disk",
        "imager.agent",
        "netboot.services",
        "netboot.api",
        "netboot.persistence",
    )
    found: list[str] = []
    for path in modules(place):
        name = str(path.relative_to(TOP))
        found += [f"{name}:{line} imports {module}" for line, module in imports(path) if module.startswith(shells)]
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("open", "print", "input")
                and not (node.func.id == "print" and name in PRINTS)
            ):
                found.append(f"{name}:{node.lineno} calls {node.func.id}")
        if "ctypes" in {module for _, module in imports(path)} - COMPUTES_IN_C.get(name, set()):
            found.append(f"{name} imports ctypes")
    assert found == []
