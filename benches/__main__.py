"""`python -m benches [NAME ...]`: what `make bench` runs."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from phala.node.compiled import use_compiled

use_compiled()  # before anything of it is imported

from benches import attest, engine, execution, query, registrations, transfers  # noqa: E402
from benches.report import Figure, line_of, machine, placed, table  # noqa: E402

README = Path(__file__).parents[1] / "README.md"
BENCHES: dict[str, Callable[..., Iterator[Figure]]] = {
    "attest": attest.run,
    "engine": engine.run,
    "execution": execution.run,
    "query": query.run,
    "registrations": registrations.run,
    "transfers": transfers.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="fewer calls: to see that it runs")
    parser.add_argument("--markdown", action="store_true", help="print the table alone")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench is called {unknown[0]}: name some of {', '.join(BENCHES)}")
    on = machine()
    figures: list[Figure] = []
    for name in given.names or BENCHES:
        say(f"{name} ...")
        for figure in BENCHES[name](quick=given.quick):
            figures.append(figure)
            if not given.markdown:
                print(line_of(figure, on), flush=True)
    if not given.markdown:
        print()
    print(table(figures, on))
    if given.readme:
        README.write_text(placed(README.read_text(), table(figures, on)))
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
