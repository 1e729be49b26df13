"""Messages as JSON documents in a column: the same codec as on the wire, so an old row is checked like a new body."""

import json
from typing import Any, TypeVar

from imager.wire.messages import decode, encode

Message = TypeVar("Message")


def to_document(message: Any) -> dict[str, Any]:
    """The message as a tree for a JSON column."""
    tree: dict[str, Any] = json.loads(encode(message))
    return tree


def from_document(kind: type[Message], tree: dict[str, Any]) -> Message:
    """The message of a JSON column. Raises MessageError when the row is not one."""
    return decode(kind, json.dumps(tree).encode())
