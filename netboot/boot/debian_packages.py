"""Boot programs of other architectures: Debian's packages of IA32 and ARM64, fetched by this machine's own apt.

They are unpacked, not installed, and none of their scripts runs; the machine's own list of architectures stays.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from imager.agent.base import apt_settings, apt_sources
from imager.errors import ImagerError, ToolError
from imager.programs import run
from netboot.boot.grub_images import DebianFiles
from netboot.boot.selection import UefiArch
from netboot.errors import ServiceError

_FETCH_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class _Packages:
    arch: str
    """As Debian names it."""
    names: tuple[str, ...]


_PACKAGES = {
    UefiArch.IA32: _Packages("i386", ("shim-signed", "grub-efi-ia32-signed", "grub-efi-ia32-bin")),
    UefiArch.ARM64: _Packages("arm64", ("shim-signed", "grub-efi-arm64-signed", "grub-efi-arm64-bin")),
}
FETCHABLE = tuple(_PACKAGES)


def debian_files(directory: Path) -> DebianFiles:
    """Where the files of all architectures are; `directory` is where `fetch_packages` unpacks."""
    return DebianFiles(others={arch: directory / arch.value for arch in FETCHABLE})


def fetch_packages(directory: Path, arch: UefiArch, *, sources: Path = Path("/")) -> None:
    """Fetch and unpack what boots UEFI of `arch`, in place of what was there. Raises ServiceError with apt's words.

    `sources`: root of the package sources.
    """
    packages = _PACKAGES[arch]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory) as temporary:
            work = Path(temporary)
            apt = _apt(work, packages.arch, sources)
            names = " ".join(packages.names)
            refused = _update(apt)
            try:
                run(["sh", "-c", f'cd "$0" && exec "$@" download {names}', work, *apt], timeout_s=_FETCH_TIMEOUT_S)
            except ToolError as error:
                raise refused or error from error
            root = work / "root"
            for archive in sorted(work.glob("*.deb")):
                run(["dpkg-deb", "--extract", archive, root])
            needed = DebianFiles(others={arch: root}).needed_for(arch)
            missing = sorted(str(file.relative_to(root)) for file, _ in needed if not file.is_file())
            if missing:
                raise ServiceError(f"Debian's packages for {packages.arch} do not bring /{missing[0]}")
            place = directory / arch.value
            shutil.rmtree(place, ignore_errors=True)
            root.rename(place)
    except ImagerError as error:
        raise ServiceError(f"boot programs for {arch.name.lower()} cannot be fetched: {error}") from error
    except OSError as error:
        raise ServiceError(f"{directory}: {error.strerror}") from error


def _update(apt: list[str | Path]) -> ToolError | None:
    """What went wrong, if anything did: it may have been a source that has nothing for this architecture."""
    try:
        run([*apt, "--quiet=2", "update"], timeout_s=_FETCH_TIMEOUT_S)
    except ToolError as error:
        return error
    return None


def _apt(work: Path, arch: str, sources: Path) -> list[str | Path]:
    """apt-get with lists and status of its own below `work`, and the machine's sources and ways to reach them."""
    for name in ("lists/partial", "archives/partial", "sources.list.d"):
        (work / name).mkdir(parents=True)
    for file in apt_sources(sources):
        (work / "sources.list.d" / file.name).symlink_to(file)
    (work / "apt.conf").write_text(
        apt_settings()
        + f'APT::Architecture "{arch}"; APT::Architectures {{ "{arch}"; }};\n'
        + f'Dir::State::lists "{work}/lists"; Dir::State::status "/dev/null"; Dir::Cache "{work}";\n'
        + f'Dir::Cache::archives "{work}/archives"; Dir::Etc::sourcelist "/dev/null";\n'
        + f'Dir::Etc::sourceparts "{work}/sources.list.d"; APT::Sandbox::User "root";\n'
    )
    return ["env", f"APT_CONFIG={work / 'apt.conf'}", "apt-get"]
