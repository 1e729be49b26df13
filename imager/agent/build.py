"""Builds what a machine boots to become an agent: a kernel and an initramfs, from the distribution's packages.

The initramfs is two archives, one behind the other, as the kernel allows: a base (Debian's part, kept in a cache and
named by what it is made of) and a thin layer (the agent itself), so that a change of the agent costs a second.
Package sources and how to reach them are the machine's own apt configuration. Needs root, and writes nothing but
below `output` and a temporary directory.
"""

import ast
import fcntl
import io
import json
import os
import py_compile
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import zstandard

import imager
from imager.agent.base import SITE, AgentBuildError, Say, base_key, build_base, replace_file
from imager.agent.cpio import ArchiveWriter

SIZE_LIMIT_BYTES = 60_000_000
"""Kernel and initramfs together: what firmware and a slow classroom network can take."""

PYTHON_MAGIC_3_11 = b"\xa7\r\r\n"
"""Of the agent's Python, which comes from contents.SUITE."""

ENTRY_MODULES = ("imager.agent.main", "imager.transport.receive_process")
"""What the agent's Python is started with; what they import comes along."""


@dataclass(frozen=True, slots=True)
class AgentBuild:
    """What was built, as agent.json tells it."""

    agent_version: str
    kernel_version: str
    built_s: int
    """Unix time."""
    build_s: float
    """How long it took."""
    kernel_bytes: int
    initramfs_bytes: int
    base_bytes: int
    """Of the initramfs: Debian's part, the same until packages change."""
    packages: dict[str, str]
    """Name and version of every Debian package and wheel that anything inside was chosen from."""


def build_agent(output: Path, *, fresh: bool = False, say: Say = lambda line: None) -> AgentBuild:
    """Make `output`/vmlinuz, initrd.img and agent.json; each is replaced whole or not at all.

    fresh: fetch packages anew although the base in `output`/cache is made of the same list. `say` gets a line for
    each step. Raises AgentBuildError or ToolError; then what was in `output` still stands.
    """
    if os.geteuid() != 0:
        raise AgentBuildError("building the agent needs root: it unpacks Debian packages with their owners; use sudo")
    cache = output / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of this agent is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(output, cache, fresh, say)


def _build(output: Path, cache: Path, fresh: bool, say: Say) -> AgentBuild:
    started = time.monotonic()
    key = base_key()
    for left in cache.glob("agent-*"):  # of a build that was killed
        shutil.rmtree(left)
    base, kernel, facts = (cache / f"{key}.{suffix}" for suffix in ("cpio.zst", "vmlinuz", "json"))
    if fresh or not (base.exists() and kernel.exists() and facts.exists()):
        build_base(base, kernel, facts, say)
        for old in cache.iterdir():
            if old.name != "lock" and not old.name.startswith(key):
                old.unlink()
    else:
        say("base: unchanged, taken from the cache")
    layer = build_layer()
    say(f"agent: {len(layer):,} bytes on a base of {base.stat().st_size:,}")
    described = json.loads(facts.read_text())
    build = AgentBuild(
        agent_version=metadata.version("roomcast"),
        kernel_version=described["kernel"],
        built_s=int(time.time()),
        build_s=round(time.monotonic() - started, 1),
        kernel_bytes=kernel.stat().st_size,
        initramfs_bytes=base.stat().st_size + len(layer),
        base_bytes=base.stat().st_size,
        packages=described["packages"],
    )
    total = build.kernel_bytes + build.initramfs_bytes
    if total > SIZE_LIMIT_BYTES:
        raise AgentBuildError(
            f"kernel and initramfs are {total:,} bytes, more than {SIZE_LIMIT_BYTES:,}: leave out modules or packages "
            "in imager/agent/contents.py"
        )
    replace_file(output / "vmlinuz", [kernel.read_bytes()])
    replace_file(output / "initrd.img", [base.read_bytes(), layer])
    replace_file(output / "agent.json", [json.dumps(asdict(build), indent=1).encode() + b"\n"])
    return build


def build_layer() -> bytes:
    """The agent itself as a compressed archive: /init and those modules of `imager` that the agent imports."""
    raw = io.BytesIO()
    archive = ArchiveWriter(raw)
    package = Path(imager.__file__).parent
    archive.file("init", (package / "agent" / "init.sh").read_bytes(), 0o755)
    archive.file("etc/roomcast-version", metadata.version("roomcast").encode())
    archive.file("etc/udhcpc.script", (package / "agent" / "udhcpc.sh").read_bytes(), 0o755)
    same_python = MAGIC_NUMBER == PYTHON_MAGIC_3_11
    made: set[str] = set()
    for path in imported_sources(ENTRY_MODULES, package.parent):
        name = f"{SITE}/{path.relative_to(package.parent)}"
        parents = [str(parent) for parent in reversed(Path(name).parents)]
        for parent in parents[parents.index(SITE) + 1 :]:
            if parent not in made:
                made.add(parent)
                archive.directory(parent)
                archive.directory(f"{parent}/__pycache__")
        archive.file(name, path.read_bytes())
        if same_python:  # else the agent compiles at each boot: a second or two of an emulated machine
            compiled = f"{Path(name).parent}/__pycache__/{path.stem}.cpython-311.pyc"
            archive.file(compiled, _compiled(path, f"/{name}"))
    archive.close()
    return zstandard.ZstdCompressor(level=19).compress(raw.getvalue())


def imported_sources(modules: Sequence[str], root: Path) -> list[Path]:
    """The files of `modules` and of every module below `root` that they import, at any depth, inside functions too."""
    found: dict[str, Path] = {}
    stack = list(modules)
    while stack:
        name = stack.pop()
        path = _source_of(name, root)
        if path is None or name in found:
            continue
        found[name] = path
        stack.extend(name.rsplit(".", 1)[:-1])
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                stack.extend(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                stack.append(node.module)
                stack.extend(f"{node.module}.{alias.name}" for alias in node.names)
    for module in modules:
        if module not in found:
            raise ValueError(f"{module} is not below {root}")
    return sorted(found.values())


def _source_of(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and path.is_relative_to(root / "imager"):
            return path
    return None


def _compiled(path: Path, shown_as: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "compiled"
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(path), str(target), dfile=shown_as, doraise=True, invalidation_mode=mode)
        return target.read_bytes()
