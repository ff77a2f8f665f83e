"""`phala bench`: what this machine takes for the chain's work."""

import datetime as dt
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click

from phala.cli.options import json_option
from phala.cli.render import show
from phala.node.tools.weigh import Found, base_extrinsic, module_of, open_scale, store_costs, weigh

ACCOUNTS: Final = 10_000


@click.group(short_help="Measure what calls take.")
def bench() -> None:
    """Measure what this machine takes for the chain's work."""


@bench.command("weights", short_help="Measure the weights of calls.")
@click.option("--accounts", default=ACCOUNTS, show_default=True, help="That the state holds.")
@click.option("--repeat", default=20, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--pallet", default="", help="Only this one's calls.")
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table there: src/phala/runtime/measured.py is what the chain declares by.",
)
@json_option
def weights(*, accounts: int, repeat: int, pallet: str, write: Path | None, as_json: bool) -> None:
    """Run the worst case of each call over a state on disk, and print what it took.

    Example: phala bench weights --pallet Balances
    """
    with TemporaryDirectory(prefix="phala-weights-") as folder:
        chain = open_scale(Path(folder), accounts)
        try:
            base = base_extrinsic(chain, repeat=repeat)
            costs = store_costs(chain)
            base += costs.read + costs.write  # the signer's account
            found = weigh(chain, costs, repeat=repeat, only=pallet)
        finally:
            chain.store.close()
    if write is not None:
        day = dt.datetime.now(tz=dt.UTC).date().isoformat()
        write.write_text(module_of(found, costs, base, day=day, accounts=accounts))
    table = {"costs": asdict(costs), "base": base, "calls": [asdict(each) for each in found]}
    first = (
        f"a read {costs.read / 1e6:.1f} us, a write {costs.write / 1e6:.1f} us, "
        f"a signed extrinsic beside its call {base / 1e6:.1f} us"
    )
    show(table, "\n".join([first, *map(line_of, found)]), as_json=as_json)


def line_of(found: Found) -> str:
    """One call: microseconds, those for each of what it counts, keys and bytes."""
    values = found.measured
    name = f"{found.pallet}.{found.call}"
    each = f" + {values.each / 1e6:.3f} each" if values.each else ""
    return (
        f"{name:44} {values.ref_time / 1e6:9.1f} us{each}, {found.reads} read, "
        f"{found.writes} written, {values.proof_size + values.proof_each} bytes of proof"
    )
