"""What strangers name as a file leads nowhere: no dots, encodings, links or lengths reach what is not the tree's."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile_scene import SECRET, Scene, a_hostile_scene, assert_fit_to_show, assert_nothing_happened
from netns import INTERFACE

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with a_hostile_scene(tmp_path_factory.mktemp("hostile")) as scene:
        yield scene


def test_hostile_names_of_files_are_not_found_and_stay_text(scene: Scene) -> None:
    for text in scene.texts:
        name = text.replace(b"\0", b"\1")[:400]
        assert scene.tftp(name)[:4] in (b"\0\5\0\1", b""), text
        quoted = b"".join(b"%%%02x" % byte for byte in text)
        for target in (b"/boot/" + quoted, b"/boot/agent/" + quoted, b"/" + quoted, b"/agent/v1/" + quoted):
            answer = scene.http(target)
            assert answer.split(b" ", 2)[1] in (b"404", b"400", b"405"), (target, answer)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"OWNED" not in head and b"FORGED" not in head
            assert b"<script>" not in body or b"application/json" in head
    for header in (
        b"X: \x1b[2J\r\n",
        b"Range: bytes=$(x)-{{7}}\r\n",
        b"Authorization: Bearer 1.\x1b[2J\r\n",
        b"Cookie: %n\r\n",
    ):
        assert scene.http(b"/boot/agent/vmlinuz", header).startswith((b"HTTP/1.1 2", b"HTTP/1.1 4"))
    assert_nothing_happened(scene)
    assert_fit_to_show(scene.shown("boot", "log", "--ignored"))


UPWARDS = """
../keys/secret ../../keys/secret boot/../keys/secret agent/../keys/secret agent/vmlinuz/../../keys/secret /keys/secret
//keys/secret {data}/keys/secret /{data}/keys/secret /etc/passwd //etc/passwd ~root/.ssh/id_ed25519
../../../../../../etc/passwd ..//..//..//etc//passwd ....//....//etc/passwd ..././..././etc/passwd file:///etc/passwd
./../keys/secret agent/./../../keys/secret ..\\keys\\secret ..\\..\\etc\\passwd agent\\..\\..\\keys\\secret
C:\\etc\\passwd %2e%2e/keys/secret %2e%2e%2fkeys%2fsecret ..%2fkeys/secret %252e%252e/keys/secret ..;/keys/secret
%2E%2E/keys/secret .%2e/keys/secret ..%5ckeys%5csecret %252e%252e%252fkeys%252fsecret %%32%65%%32%65/keys/secret
..%00/keys/secret ..%0d%0a/keys/secret ..%c0%af..%c0%afetc/passwd %c0%ae%c0%ae/keys/secret %uff0e%uff0e/keys/secret
%e0%80%ae%e0%80%ae/keys/secret %f0%80%80%ae%f0%80%80%ae/keys/secret http://10.99.0.1/boot/../keys/secret
agent/vmlinuz%00../../keys/secret agent/vmlinuz/../../../../etc/passwd%00.img ../keys/secret%00.cfg
grub/machine-../../keys/secret.cfg grub/grub.cfg-01-../../../keys/secret uefi/http-../../../keys/secret.img
keys/secret keys roomcast.db leases.db images serve.lock agent agent/
"""


@pytest.mark.parametrize("path", UPWARDS.split(), ids=itertools.count())
def test_no_path_leads_out_of_the_tree(scene: Scene, path: str) -> None:
    name = path.replace("{data}", str(scene.served.data))
    for plain in {name.encode(), re.sub(r"%([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), name).encode("latin-1")}:
        answer = scene.tftp(plain.split(b"\0")[0] if b"\0" in plain else plain)
        # What is cut at the NUL may name a file of the tree.
        assert answer[:2] == b"\0\5" or plain.startswith(b"agent/vmlinuz\0") or not plain.isascii(), answer
        assert SECRET not in answer and b"root:" not in answer
    for target in (f"/boot/{name}", f"/{name}", f"/boot/agent/{name}", f"/agent/v1/{name}", name):
        answer = scene.http(target.encode())
        assert SECRET not in answer and b"root:" not in answer, target
        assert answer.split(b" ", 2)[1] in (b"400", b"401", b"404", b"405") or not answer, (target, answer)
    assert_nothing_happened(scene)


@pytest.mark.parametrize("length", [255, 256, 480, 4_000, 60_000, 200_000])
def test_names_of_any_length_are_refused(scene: Scene, length: int) -> None:
    for name in ("a" * length, "agent/" * (length // 6), "../" * (length // 3), "/" * (length - 20) + "../keys/secret"):
        if length < 500:
            assert scene.tftp(name.encode())[:4] == b"\0\5\0\1"
        try:
            answer = scene.http(b"/boot/" + name.encode())
        except ConnectionError:
            continue  # it did not read so much
        assert answer.split(b" ", 2)[1] in (b"400", b"404", b"414", b"431") and SECRET not in answer
    assert_nothing_happened(scene)


@contextmanager
def replaced(path: Path, target: Path) -> Iterator[None]:
    """A link in its place."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    path.symlink_to(target)
    try:
        yield
    finally:
        path.unlink()
        kept.rename(path)


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("agent/vmlinuz", "agent/vmlinuz"),
        (f"boot/{INTERFACE}/bios/core.0", "bios/core.0"),
        (f"boot/{INTERFACE}/bios", "bios/core.0"),
        (f"boot/{INTERFACE}/uefi/shimx64.efi", "uefi/shimx64.efi"),
        (f"boot/{INTERFACE}/uefi", "uefi/shimx64.efi"),
    ],
)
def test_links_that_lead_out_of_the_tree_are_not_followed(scene: Scene, tmp_path: Path, link: str, name: str) -> None:
    path = scene.served.data / link
    assert scene.tftp(name.encode())[:4] == b"\0\3\0\1"
    (tmp_path / Path(name).name).write_bytes(SECRET)
    for target in (scene.served.data / "keys" / "secret", tmp_path / Path(name).name, tmp_path):
        with replaced(path, target):
            assert scene.tftp(name.encode())[:4] == b"\0\5\0\1"
            answer = scene.http(f"/boot/{name}".encode())
            assert b" 404 " in answer and SECRET not in answer
    assert_nothing_happened(scene)
