"""`phala logs`: what a service of a network of this machine wrote down."""

import json
import time
from pathlib import Path
from typing import Final

import click

from phala.cli.options import dir_option, files_at, json_option
from phala.devnet.files import SERVICES
from phala.devnet.process import last_lines
from phala.errors import Invalid

FOLLOW_S: Final = 0.2


@click.command(short_help="Print the end of a service's log.")
@click.argument("service", type=click.Choice(SERVICES))
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0, 1_000_000))
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@dir_option
@json_option
def logs(*, service: str, lines: int, follow: bool, folder: Path | None, as_json: bool) -> None:
    """Print the end of a service's log; with --json, one object a line.

    Example: phala logs worker -f
    """
    path = files_at(folder).log(service)
    if not path.exists():
        raise Invalid(f"{path} is missing", mend="start the network with: phala up")
    position = path.stat().st_size
    for line in last_lines(path, lines):
        _print(service, line, as_json=as_json)
    while follow:
        if path.stat().st_size < position:
            position = 0  # a fresh log took its place
        with path.open("rb") as file:
            file.seek(position)
            # A line without its end is still being written.
            whole = file.read().rpartition(b"\n")
        position += len(whole[0]) + len(whole[1])
        for line in whole[0].decode(errors="replace").splitlines():
            _print(service, line, as_json=as_json)
        time.sleep(FOLLOW_S)


def _print(service: str, line: str, *, as_json: bool) -> None:
    click.echo(json.dumps({"service": service, "line": line}) if as_json else line)
