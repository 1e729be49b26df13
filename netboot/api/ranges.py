"""What part of a file a GET asks for, by its Range and its conditions (RFC 9110, sections 13 and 14). [P]

One range is answered as such. Several in one request get the whole file, as section 14.2 allows: nothing that boots
asks for them, and each of them would cost the appliance work that its sender chooses.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

WHOLE, PART, NOT_MODIFIED, FAILED, UNSATISFIABLE = 200, 206, 304, 412, 416

_RANGES = re.compile(r"bytes=(?P<ranges>.*)", re.IGNORECASE)
_RANGE = re.compile(r"(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Version:
    """A file at this moment: what its bytes are told apart by."""

    size: int
    """Bytes."""
    tag: str
    """Strong entity tag, with its quotes."""
    modified_s: int | None = None
    """Unix time; None: it has none, as what is rendered for each request."""

    @property
    def last_modified(self) -> str | None:
        return None if self.modified_s is None else formatdate(self.modified_s, usegmt=True)


@dataclass(frozen=True, slots=True)
class Selected:
    """The answer: bytes `start` to `end` (not counted) of the file. Nothing of it unless the status is 200 or 206."""

    status: int
    start: int = 0
    end: int = 0

    def headers(self, version: Version) -> dict[str, str]:
        """What the answer says of the file and of its part."""
        headers = {"Accept-Ranges": "bytes", "ETag": version.tag, "Cache-Control": "no-cache"}
        if version.last_modified is not None:
            headers["Last-Modified"] = version.last_modified
        if self.status == PART:
            headers["Content-Range"] = f"bytes {self.start}-{self.end - 1}/{version.size}"
        if self.status == UNSATISFIABLE:
            headers["Content-Range"] = f"bytes */{version.size}"
        return headers


def select(method: str, headers: Mapping[str, str], version: Version) -> Selected:
    """`headers` is asked with names in lower case; what is not valid in them is as if it was not there."""
    whole = Selected(WHOLE, 0, version.size)
    if (failed := _precondition(headers, version)) is not None:
        return Selected(failed)
    asked = headers.get("range")
    if method != "GET" or asked is None or not _may_be_partial(headers.get("if-range"), version):
        return whole
    ranges = _RANGES.fullmatch(asked.strip())
    parts = [part.strip() for part in ranges["ranges"].split(",") if part.strip()] if ranges else []
    match = _RANGE.fullmatch(parts[0]) if len(parts) == 1 else None
    if match is None or not (match["first"] or match["last"]):
        return whole
    if not match["first"]:
        length = min(int(match["last"]), version.size)
        if int(match["last"]) and not version.size:
            return whole  # the last bytes of nothing: a range cannot say that
        start, end = version.size - length, version.size
    else:
        start = int(match["first"])
        last = int(match["last"]) if match["last"] else version.size - 1
        if match["last"] and last < start:
            return whole
        end = min(last + 1, version.size)
    return Selected(PART, start, end) if start < end else Selected(UNSATISFIABLE)


def _precondition(headers: Mapping[str, str], version: Version) -> int | None:
    """The order of section 13.2.2."""
    modified_s = version.modified_s
    if (tags := headers.get("if-match")) is not None:
        if not _names(tags, version.tag):
            return FAILED
    elif modified_s is not None and modified_s > _date_s(headers.get("if-unmodified-since"), math.inf):
        return FAILED
    if (tags := headers.get("if-none-match")) is not None:
        if _names(tags.replace("W/", ""), version.tag):
            return NOT_MODIFIED
    elif modified_s is not None and modified_s <= _date_s(headers.get("if-modified-since"), -math.inf):
        return NOT_MODIFIED
    return None


def _names(tags: str, tag: str) -> bool:
    """Whether a list of entity tags, or "*", names this one; tags of ours hold no comma."""
    return tags.strip() == "*" or tag in (part.strip() for part in tags.split(","))


def _may_be_partial(if_range: str | None, version: Version) -> bool:
    """Section 13.1.5: only when the client has a part of this very file."""
    if if_range is None:
        return True
    return if_range.strip() in (version.tag, version.last_modified)


def _date_s(text: str | None, otherwise: float) -> float:
    """Unix time of a date, or `otherwise` without one that can be read."""
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, OverflowError):
        return otherwise
