"""Which bytes a request asks for: RFC 9110, sections 13 and 14."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netboot.api.ranges import Selected, Version, select

VERSION = Version(1000, '"v1"', 1_700_000_000)
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
EARLIER, LATER = "Mon, 13 Nov 2023 22:13:20 GMT", "Wed, 15 Nov 2023 22:13:20 GMT"
WHOLE = Selected(200, 0, 1000)
OUTSIDE = Selected(416)


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("bytes=0-0", Selected(206, 0, 1)),
        ("bytes=0-", Selected(206, 0, 1000)),
        ("bytes=10-19", Selected(206, 10, 20)),
        ("BYTES=10-19", Selected(206, 10, 20)),
        ("bytes=999-", Selected(206, 999, 1000)),
        ("bytes=990-99999999999", Selected(206, 990, 1000)),
        ("bytes=-1", Selected(206, 999, 1000)),
        ("bytes=-5000", Selected(206, 0, 1000)),
        ("bytes= ,10-19, ", Selected(206, 10, 20)),  # a list may have empty elements: section 5.6.1.2
        ("bytes=1000-", OUTSIDE),
        ("bytes=5000-6000", OUTSIDE),
        ("bytes=-0", OUTSIDE),
        ("bytes=0-1,5-6", WHOLE),
        ("bytes=20-10", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=+1-2", WHOLE),
        ("bytes=0x1-2", WHOLE),
        ("bytes=\u0661-\u0662", WHOLE),  # digits, but not ours
        ("bytes=1-2-3", WHOLE),
        ("bytes=--1", WHOLE),
        ("bytes=" + "9" * 5000 + "-", WHOLE),
        ("lines=1-2", WHOLE),
        ("", WHOLE),
    ],
)
def test_a_range_is_answered_as_such_and_what_is_none_with_the_whole_file(text: str, selected: Selected) -> None:
    assert select("GET", {"range": text}, VERSION) == selected


def test_a_range_is_said_of_a_get_only() -> None:
    assert select("HEAD", {"range": "bytes=1-2"}, VERSION) == WHOLE


@pytest.mark.parametrize(("text", "status"), [("bytes=0-", 416), ("bytes=-5", 200), ("bytes=-0", 416)])
def test_ranges_of_an_empty_file(text: str, status: int) -> None:
    assert select("GET", {"range": text}, Version(0, '"e"')).status == status


@pytest.mark.parametrize(
    ("if_range", "status"),
    [('"v1"', 206), (DATE, 206), ('"v0"', 200), ('W/"v1"', 200), (EARLIER, 200), (LATER, 200), ("nonsense", 200)],
)
def test_a_part_of_another_version_is_answered_with_the_whole_file(if_range: str, status: int) -> None:
    assert select("GET", {"range": "bytes=1-2", "if-range": if_range}, VERSION).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-none-match": '"v1"'}, 304),
        ({"if-none-match": '"v0", W/"v1"'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"v0"'}, 200),
        ({"if-none-match": '"v0"', "if-modified-since": LATER}, 200),
        ({"if-modified-since": DATE}, 304),
        ({"if-modified-since": EARLIER}, 200),
        ({"if-modified-since": "yesterday"}, 200),
        ({"if-match": '"v1"'}, 200),
        ({"if-match": "*"}, 200),
        ({"if-match": 'W/"v1"'}, 412),
        ({"if-match": '"v0"', "range": "bytes=1-2"}, 412),
        ({"if-unmodified-since": EARLIER}, 412),
        ({"if-unmodified-since": DATE}, 200),
        ({"if-unmodified-since": "yesterday"}, 200),
    ],
)
def test_conditions_are_weighed_before_the_range(headers: dict[str, str], status: int) -> None:
    assert select("GET", headers, VERSION).status == status


def test_answer_tells_which_part_it_is_and_where_there_is_none() -> None:
    part = Selected(206, 10, 20).headers(VERSION)
    assert part["Content-Range"] == "bytes 10-19/1000"
    assert (part["ETag"], part["Last-Modified"], part["Accept-Ranges"]) == ('"v1"', DATE, "bytes")
    assert OUTSIDE.headers(VERSION)["Content-Range"] == "bytes */1000"
    assert "Content-Range" not in WHOLE.headers(VERSION)
    assert "Last-Modified" not in WHOLE.headers(Version(5, '"rendered"'))


NAMES = ["range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.one_of(
            st.text(max_size=60),
            st.from_regex(r"(?i)bytes=[0-9, \-]{0,30}"),
            st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,6} [0-9]{1,3}:[0-9]{1,3} [+\-A-Z0-9]{1,9}"),
        ),
    ),
    st.integers(0, 2**40),
)
@example({"if-modified-since": "Tue, 14 Nov 99999 22:13:20 GMT"}, 1)
@example({"if-modified-since": "Tue, 14 Nov 2023 22:13:20 +9999999999999999999999"}, 1)
def test_whatever_headers_say_the_part_lies_in_the_file(headers: dict[str, str], size: int) -> None:
    selected = select("GET", headers, Version(size, '"v"', 1_700_000_000))
    assert selected.status in (200, 206, 304, 412, 416)
    assert 0 <= selected.start <= selected.end <= size
    if selected.status == 206:
        assert selected.start < selected.end
