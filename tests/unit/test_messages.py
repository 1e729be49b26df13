"""Messages between agent and appliance: what is encoded comes back, what is not a message is a MessageError."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inventories import an_inventory

from imager.errors import MessageError
from imager.wire.messages import (
    Admission,
    After,
    CastAddress,
    DeployTask,
    Identity,
    Inventory,
    Proof,
    Task,
    TaskKind,
    TaskResult,
    decode,
    encode,
)

INVENTORY = an_inventory(system_uuid="11111111-2222-3333-4444-555555555555")
DEPLOY = Task(
    id=7,
    kind=TaskKind.DEPLOY,
    deploy=DeployTask(
        image="golden",
        version=1,
        manifest_hash="00" * 32,
        target="",
        identity=Identity("pc-01"),
        after=After.REBOOT,
    ),
)


ADMISSION = Admission(
    CastAddress(1, 2, "239.77.1.1", 7100, "10.77.0.1", 7101, 1472, cast_key="ab" * 32, control_key="cd" * 32)
)


def test_the_keys_of_a_cast_are_not_told_in_its_picture() -> None:
    assert "ab" * 32 not in repr(ADMISSION) and "cd" * 32 not in repr(ADMISSION)


@pytest.mark.parametrize(
    "message", [INVENTORY, DEPLOY, ADMISSION, Admission()], ids=lambda message: type(message).__name__
)
def test_a_message_comes_back_as_it_was(message: object) -> None:
    assert decode(type(message), encode(message)) == message


def test_a_result_without_a_proof_comes_back_as_it_was() -> None:
    failed = TaskResult(ok=False, error="disk full", log=("one", "two"))
    assert decode(TaskResult, encode(failed)) == failed


def test_fields_of_a_newer_version_are_passed_over() -> None:
    tree = json.loads(encode(DEPLOY)) | {"colour": "blue"}
    assert decode(Task, json.dumps(tree).encode()) == DEPLOY


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"memory_bytes": "much"}, "Inventory.memory_bytes"),
        ({"memory_bytes": True}, "Inventory.memory_bytes"),
        ({"firmware": "coreboot"}, "Inventory.firmware"),
        ({"disks": {}}, "Inventory.disks"),
        ({"disks": [3]}, "Inventory.disks[0]"),
        ({"nics": [{}]}, "Inventory.nics[0].name"),
        ({"boot_s": None}, "Inventory.boot_s"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], named: str) -> None:
    tree = json.loads(encode(INVENTORY)) | change
    with pytest.raises(MessageError) as caught:
        decode(Inventory, json.dumps(tree).encode())
    assert named in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from([*json.loads(encode(INVENTORY)), *json.loads(encode(DEPLOY)), "ok", "error", "log", "proof"])


@given(st.binary(max_size=64) | st.dictionaries(fields, json_values).map(lambda tree: json.dumps(tree).encode()))
def test_any_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    for kind in (Inventory, Task, TaskResult, Proof):
        try:
            assert isinstance(decode(kind, data), kind)
        except MessageError:
            pass
