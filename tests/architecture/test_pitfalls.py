"""The table of pitfalls names tests that exist, and all that were written as such."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "reference" / "pitfalls.md"
FOLDERS = ("architecture", "e2e", "sim", "unit")
NAMED = re.compile(r"`(test_\w+)`")


def written() -> dict[str, str]:
    """Every test's name, and its file."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / "tests" / folder).glob("test_*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[node.name] = path.name
    return found


def test_each_named_test_exists() -> None:
    tests = written()
    named = NAMED.findall(TABLE.read_text())

    assert len(named) > 80
    assert [name for name in named if name not in tests] == []


def test_each_row_of_a_table_names_a_test() -> None:
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    plain = [row for row in rows if not NAMED.search(row) and "---" not in row]

    assert [row.split("|")[1].strip() for row in plain] == ["finding", "of"], "the heads alone"


def test_all_tests_of_pitfalls_are_named() -> None:
    named = NAMED.findall(TABLE.read_text())
    tests = [
        name
        for name, file in written().items()
        if file == "test_attest_pitfalls.py" and name[:5] == "test_"
    ]

    assert tests
    assert [name for name in tests if name not in named] == []
