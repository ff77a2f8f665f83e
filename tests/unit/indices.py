"""The numbers of pallets, calls, events and errors, as wire format: `python -m tests.unit.indices`
adds to the table what is new. It never changes a line that is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from phala.frame import Pallet
from phala.runtime.world import PALLETS

TABLE: Final = Path(__file__).with_name("indices.txt")


def tables(pallet: type[Pallet]) -> tuple[tuple[str, Mapping[int, Any]], ...]:
    return ("call", pallet.calls), ("event", pallet.events), ("error", pallet.errors)


def present() -> list[str]:
    """One line each: `pallet index kind number name`."""
    return [
        f"{pallet.name} {index} {kind} {number} {what.__name__}"
        for index, pallet in sorted(PALLETS.items())
        for kind, table in tables(pallet)
        for number, what in sorted(table.items())
    ]


def frozen() -> list[str]:
    return TABLE.read_text().splitlines()


if __name__ == "__main__":
    known = frozen() if TABLE.exists() else []
    TABLE.write_text("\n".join([*known, *(line for line in present() if line not in known)]) + "\n")
