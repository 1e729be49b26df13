"""Builds what a machine boots to become an agent: a kernel and an initramfs, from the distribution's packages.

The initramfs is two archives, one behind the other, as the kernel allows: a base (Debian's part, kept in a cache and
named by what it is made of) and a thin layer (the agent itself), so that a change of the agent costs a second.
Package sources and how to reach them are the machine's own apt configuration. Needs root, and writes nothing but
below `output` and a temporary directory.
"""

import ast
import hashlib
import io
import json
import os
import py_compile
import re
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import zstandard

import imager
from imager.agent import contents
from imager.agent.cpio import ArchiveWriter
from imager.errors import WorldError
from imager.programs import run

SIZE_LIMIT_BYTES = 60_000_000
"""Kernel and initramfs together: what firmware and a slow classroom network can take."""

PYTHON_MAGIC_3_11 = b"\xa7\r\r\n"
"""Of the agent's Python, which comes from contents.SUITE."""

ENTRY_MODULE = "imager.agent.main"
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
SITE = "usr/lib/python3/dist-packages"

Say = Callable[[str], None]


class AgentBuildError(WorldError):
    """The agent cannot be built here."""


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
    """Name and version of every Debian package and wheel inside."""


def build_agent(output: Path, *, fresh: bool = False, say: Say = lambda line: None) -> AgentBuild:
    """Make `output`/vmlinuz, initrd.img and agent.json; each is replaced whole or not at all.

    fresh: fetch packages anew although the base in `output`/cache is made of the same list. `say` gets a line for
    each step. Raises AgentBuildError or ToolError; then what was in `output` still stands.
    """
    if os.geteuid() != 0:
        raise AgentBuildError("building the agent needs root: it unpacks Debian packages with their owners; use sudo")
    started = time.monotonic()
    cache = output / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    key = base_key()
    base, kernel, facts = (cache / f"{key}.{suffix}" for suffix in ("cpio.zst", "vmlinuz", "json"))
    if fresh or not (base.exists() and kernel.exists() and facts.exists()):
        _build_base(base, kernel, facts, say)
        for old in cache.iterdir():
            if not old.name.startswith(key):
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
    _replace(output / "vmlinuz", [kernel.read_bytes()])
    _replace(output / "initrd.img", [base.read_bytes(), layer])
    _replace(output / "agent.json", [json.dumps(asdict(build), indent=1).encode() + b"\n"])
    return build


def base_key() -> str:
    """Names a base by everything that decides what is in it, but for the versions of the packages."""
    digest = hashlib.sha256()
    for part in (Path(contents.__file__).read_bytes(), Path(__file__).read_bytes(), *map(str.encode, _wheels())):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


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
    for path in imported_sources(ENTRY_MODULE, package.parent):
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


def imported_sources(module: str, root: Path) -> list[Path]:
    """The files of `module` and of every module below `root` that it imports, at any depth, inside functions too."""
    found: dict[str, Path] = {}
    stack = [module]
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
    if module not in found:
        raise ValueError(f"{module} is not below {root}")
    return sorted(found.values())


def apt_sources(root: Path = Path("/")) -> list[Path]:
    """The package sources of this machine, as files that mmdebstrap takes."""
    main = root / "etc/apt/sources.list"
    parts = sorted((root / "etc/apt/sources.list.d").glob("*"))
    found = [path for path in (main, *parts) if path.suffix in (".list", ".sources") and _has_sources(path)]
    if not found:
        raise AgentBuildError("apt has no package sources: write /etc/apt/sources.list for Debian 12 first")
    return found


def apt_settings() -> str:
    """How this machine's apt fetches (proxies, certificates, checks), as a configuration file for another apt."""
    settings = (re.fullmatch(r'(Acquire::[\w:./-]*\w|Acquire::[\w:./-]*::) (".*";)', line) for line in _apt_dump())
    chosen = (match for match in settings if match and match[2] != '"";' and "::IndexTargets::" not in match[1])
    return "".join(f"{match[1]} {match[2]}\n" for match in chosen)


def _apt_dump() -> list[str]:
    return run(["apt-config", "dump"]).splitlines()


def _has_sources(path: Path) -> bool:
    return path.is_file() and re.search(r"^\s*(deb\s|Types:)", path.read_text(errors="replace"), re.M) is not None


def _wheels() -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in contents.WHEELS]


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


def _build_base(base: Path, kernel: Path, facts: Path, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix="agent-", dir=base.parent) as directory:
        root, chosen = Path(directory) / "root", Path(directory) / "chosen"
        say(f"base: unpacking {len(contents.PACKAGES)} packages and what they need")
        packages = _unpack_packages(root)
        say("base: choosing programs, Python and kernel modules")
        version = _kernel_version(root)
        _choose(root, chosen, version)
        packages.update(wheel.split("==") for wheel in _wheels())
        _install_wheels(chosen / SITE)
        _compile_python(chosen)
        say("base: compressing")
        raw = io.BytesIO()
        archive = ArchiveWriter(raw)
        archive.tree(chosen)
        # The kernel opens the first console before devtmpfs is mounted.
        archive.character_device("dev/console", 5, 1)
        archive.close()
        packed = zstandard.ZstdCompressor(level=19, threads=-1).compress(raw.getvalue())
        _replace(base, [packed, bytes(-len(packed) % 4)])
        _replace(kernel, [(root / f"boot/vmlinuz-{version}").read_bytes()])
        _replace(facts, [json.dumps({"kernel": version, "packages": packages}).encode()])


def _unpack_packages(root: Path) -> dict[str, str]:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
        settings.write(apt_settings())
        settings.flush()
        run(
            [
                "mmdebstrap",
                "--mode=root",
                "--variant=extract",
                "--format=directory",
                f"--hook-dir={MERGED_USR}",
                f"--aptopt={settings.name}",
                "--skip=cleanup/apt",
                f"--include={','.join(contents.PACKAGES)}",
                contents.SUITE,
                root,
                *apt_sources(),
            ],
            timeout_s=1800,
        )
    return dict(_package_versions(root))


def _package_versions(root: Path) -> Iterable[tuple[str, str]]:
    """What was unpacked, told by the names of the archives: `name_version_arch.deb`, a colon written as %3a."""
    for archive in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        name, version, _ = archive.name.split("_", 2)
        yield name, version.replace("%3a", ":")


def _kernel_version(root: Path) -> str:
    versions = sorted(path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*"))
    if not versions:
        raise AgentBuildError("linux-image-amd64 brought no kernel: is the machine's apt set to Debian 12, amd64?")
    return versions[-1]


def _choose(root: Path, chosen: Path, kernel: str) -> None:
    """Copy what contents.py names, with what it needs, from `root` into `chosen`."""
    for name in ("dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib64", "var"):
        (chosen / name).mkdir(parents=True)
    for tree in (root, chosen):  # in both: the loader has to find the libraries where the agent will
        for name, target in contents.LINKS.items():
            link = tree / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink() and not link.exists():
                link.symlink_to(target)
    wanted = [root / name for name in (*contents.PROGRAMS, *contents.LIBRARIES, *contents.DATA)]
    missing = [f"/{path.relative_to(root)}" for path in wanted if not path.exists()]
    if missing:
        raise AgentBuildError(f"no package brought {', '.join(missing)}: see PACKAGES in imager/agent/contents.py")
    for tree in contents.PYTHON_TREES:
        wanted.extend(_python_files(root, root / tree))
    wanted.extend(_libraries(root, wanted))
    for path in wanted:
        _copy(path, chosen / path.relative_to(root))
    for name in contents.BLANKED:
        blank_constants(chosen / name)
    # Programs that ask who they run as (ssh-keygen) look here.
    (chosen / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (chosen / "etc/group").write_text("root:x:0:\n")
    for applet in run(["chroot", chosen, "/usr/bin/busybox", "--list"]).split():
        if not any((chosen / place / applet).exists() for place in ("usr/bin", "usr/sbin")):
            (chosen / "usr/bin" / applet).symlink_to("busybox")
    _choose_modules(root, chosen, kernel)


def _choose_modules(root: Path, chosen: Path, kernel: str) -> None:
    modules = Path("usr/lib/modules") / kernel
    run(["depmod", "-b", root, kernel])
    for module in contents.needed_modules((root / modules / "modules.dep").read_text()):
        _copy(root / modules / module, chosen / modules / module)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        _copy(root / modules / name, chosen / modules / name)
    run(["depmod", "-b", chosen, kernel])
    for text in ("modules.alias", "modules.dep", "modules.symbols", "modules.order", "modules.builtin.modinfo"):
        (chosen / modules / text).unlink(missing_ok=True)  # modprobe reads the .bin files
    for text in ("modules.builtin.alias.bin", "modules.symbols.bin", "modules.devname"):
        (chosen / modules / text).unlink(missing_ok=True)


def _python_files(root: Path, tree: Path) -> Iterable[Path]:
    for directory, names, files in os.walk(tree):
        below = Path(directory).relative_to(root)
        names[:] = sorted(name for name in names if contents.is_wanted_python(f"{below}/{name}"))
        yield from (root / below / name for name in sorted(files) if contents.is_wanted_python(f"{below}/{name}"))


def _libraries(root: Path, paths: Iterable[Path]) -> list[Path]:
    """What the loader of `root` would load for `paths`, and the loader."""
    found = {"/lib64/ld-linux-x86-64.so.2"}
    binaries = [path for path in paths if _is_elf(path)]
    for path in binaries:
        inside = Path("/") / path.relative_to(root)
        listed = run(["chroot", root, "/lib64/ld-linux-x86-64.so.2", "--list", inside])
        if "not found" in listed:
            raise AgentBuildError(f"a library that {inside} needs was not unpacked: {listed.strip()}")
        found.update(re.findall(r"(/\S+) \(0x", listed))
    # One library may be told by /lib and by /usr/lib: the same file since directories were merged.
    names = {re.sub(r"^/lib", "usr/lib", name).lstrip("/") for name in found}
    return sorted(root / name for name in names)


def blank_constants(library: Path) -> None:
    """Overwrite the section .rodata of a 64-bit ELF file with zeros (System V ABI, sections)."""
    data = bytearray(library.read_bytes())
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<3H", data, 0x3A)
    sections = [struct.unpack_from("<2I4Q", data, offset + i * size) for i in range(count)]
    names = sections[names_index][4]
    for name, _, _, _, start, length in sections:
        if data[names + name :].startswith(b".rodata\0"):
            data[start : start + length] = bytes(length)
    library.write_bytes(data)


def _is_elf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _copy(source: Path, target: Path) -> None:
    """The file that `source` leads to, under the name of `target`: a library is asked for by its link's name."""
    if target.is_symlink():
        target = target.parent / os.readlink(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _install_wheels(site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    platform = ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
    platform += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (36, 28, 17)]
    run([*command, *platform, "--target", site, *_wheels()], timeout_s=600)
    for metadata_directory in (*site.glob("*.dist-info"), *site.glob("bin")):
        shutil.rmtree(metadata_directory)


def _compile_python(chosen: Path) -> None:
    """Leave only compiled modules: half the size, and nothing to compile at boot. The agent's own keep their source."""
    run(
        ["chroot", chosen, "/usr/bin/python3", "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash"]
        + [f"/{tree}" for tree in contents.PYTHON_TREES]
    )
    for tree in contents.PYTHON_TREES:
        for source in (chosen / tree).rglob("*.py"):
            if source.with_suffix(".pyc").exists():
                source.unlink()


def _replace(path: Path, parts: Iterable[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
