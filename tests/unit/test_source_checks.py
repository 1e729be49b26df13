"""ruff and mypy --strict find nothing, links in the documents lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
CODE = ["netboot", "imager", "tests", "vm-lab"]


def check(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    check("ruff", "check", *CODE)


def test_every_module_is_formatted() -> None:
    check("ruff", "format", "--check", *CODE)


def test_mypy_strict_finds_nothing() -> None:
    check("mypy", "--strict")


def test_no_two_modules_of_tests_have_one_name() -> None:
    """pytest takes the second for the first, and collects none."""
    names = [path.name for path in TOP.glob("tests/*/*.py")]
    assert sorted(set(names)) == sorted(names)


DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_links_of_a_document_lead_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []
