"""Debian's part of the agent: packages unpacked, what the agent needs chosen, one compressed archive made of it.

No script of a package runs. Package sources and how to reach them are the machine's own apt configuration. Needs root.
"""

import hashlib
import io
import json
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import zstandard

from imager.agent import contents
from imager.agent.cpio import ArchiveWriter
from imager.errors import WorldError
from imager.programs import run

MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
SITE = "usr/lib/python3/dist-packages"

LEVEL = 12
"""zstd: 34 MB in 4 s. Level 19 makes 31 MB of it and takes two minutes, which the first build of a room has to wait."""

Say = Callable[[str], None]


class AgentBuildError(WorldError):
    """The agent cannot be built here."""


def base_key() -> str:
    """Names a base by everything that decides what is in it, but for the versions of the packages."""
    digest = hashlib.sha256()
    for part in (Path(contents.__file__).read_bytes(), Path(__file__).read_bytes(), *map(str.encode, _wheels())):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def build_base(base: Path, kernel: Path, facts: Path, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix="agent-", dir=base.parent) as directory:
        root, chosen = Path(directory) / "root", Path(directory) / "chosen"
        say(f"base: unpacking {len(contents.PACKAGES)} packages and what they need")
        packages = _unpack_packages(root)
        say("base: choosing programs, Python and kernel modules")
        version = _kernel_version(root)
        _install_wheels(root / SITE)
        _choose(root, chosen, version)
        packages.update((name, metadata.version(name)) for name in contents.WHEELS)
        _compile_python(chosen)
        run(["chroot", chosen, "/usr/bin/python3", "-c", f"import {', '.join(contents.CHECKED_IMPORTS)}"])
        say("base: compressing")
        raw = io.BytesIO()
        archive = ArchiveWriter(raw)
        archive.tree(chosen)
        # The kernel opens the first console before devtmpfs is mounted.
        archive.character_device("dev/console", 5, 1)
        archive.close()
        packed = zstandard.ZstdCompressor(level=LEVEL, threads=-1).compress(raw.getvalue())
        replace_file(base, [packed, bytes(-len(packed) % 4)])
        replace_file(kernel, [(root / f"boot/vmlinuz-{version}").read_bytes()])
        replace_file(facts, [json.dumps({"kernel": version, "packages": packages}).encode()])


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
    for top in (root, chosen):  # in both: the loader has to find the libraries where the agent will
        for name, target in contents.LINKS.items():
            link = top / name
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
        target = target.parent / target.readlink()
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
    compileall = ["/usr/bin/python3", "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash"]
    run(["chroot", chosen, *compileall, *(f"/{tree}" for tree in contents.PYTHON_TREES)])
    for tree in contents.PYTHON_TREES:
        for source in (chosen / tree).rglob("*.py"):
            if source.with_suffix(".pyc").exists():
                source.unlink()


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


def replace_file(path: Path, parts: Iterable[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
