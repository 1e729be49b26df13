"""docs/configuration.md has every key of the code, and no other."""

import re
from pathlib import Path

from netboot.config.keys import KEYS, RESERVATION_KEYS, SUBNET_KEYS

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_page_tells_what_a_reload_does_not_take() -> None:
    (told,) = re.findall("These wait for the next start: (.*?)\\.", PAGE.read_text(), re.DOTALL)
    assert re.findall("`([a-z-]+)`", told) == [key.name for key in KEYS if not key.live]


def test_page_lists_the_keys_of_the_code_in_their_order() -> None:
    text = PAGE.read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| `(.*?)` \| (.*) \|$", text, re.MULTILINE)
    expected = [
        (key.name, " ".join(key.example.split("\n")), key.meaning.replace("|", "\\|"))
        for keys in (KEYS, SUBNET_KEYS, RESERVATION_KEYS)
        for key in keys
    ]
    assert rows == expected
