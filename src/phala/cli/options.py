"""Options that several commands take, and what they stand for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from phala.devnet.files import NetworkFiles, default_folder
from phala.errors import Invalid
from phala.messages.fuel import FUEL_DEFAULT, FUEL_MAX, FUEL_MIN

F = TypeVar("F", bound=Callable[..., Any])

ARGUMENTS_BYTES_MAX: Final = 65_536  # `messages.calls`: the largest that a call can carry
DEV_NAMES: Final = ("Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, for programs."
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.1, 3_600),
    help="Seconds to wait.",
)
receipt_option = click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the receipt with all that it takes to check it: see `phala verify`.",
)


def dir_option(function: F) -> F:
    return click.option(
        "--dir",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        help="The network's folder.  [default: dev in $PHALA_HOME or ~/.phala]",
    )(function)


def network_options(function: F) -> F:
    """Which network: the folder of one of this machine, or the addresses of any."""
    worker = click.option("--worker", help="A worker's address, instead of the network's own.")
    return chain_options(worker(function))


def chain_options(function: F) -> F:
    """The same for what asks no worker."""
    function = click.option(
        "--url",
        "urls",
        multiple=True,
        help="A node's address, instead of the network's own; two of them outside `dev`.",
    )(function)
    return dir_option(function)


def signer_options(function: F) -> F:
    function = click.option("--account", help="Sign with this account: see `phala account`.")(
        function
    )
    return click.option(
        "--dev",
        type=click.Choice(DEV_NAMES, case_sensitive=False),
        metavar="Alice…Ferdie",
        help="Sign with a development account.",
    )(function)


def fuel_option(function: F) -> F:
    return click.option(
        "--fuel",
        default=FUEL_DEFAULT,
        show_default=True,
        type=click.IntRange(FUEL_MIN, FUEL_MAX),
        metavar="N",
        help="It may burn 2^N, and pays for as much.",
    )(function)


def argument_options(function: F) -> F:
    function = click.option(
        "--args",
        "document",
        help="All arguments as a JSON object: '{\"n\": 2}', or @FILE that holds one.",
    )(function)
    return click.option(
        "--arg",
        "pairs",
        multiple=True,
        metavar="NAME=VALUE",
        help="An argument. The value is JSON, or else the text itself.",
    )(function)


@dataclass(frozen=True, slots=True)
class Place:
    """A network as a command reaches it."""

    files: NetworkFiles
    nodes: tuple[str, ...]  # at least one
    worker: str | None
    own: bool  # the folder's network, which this machine started


def files_at(folder: Path | None) -> NetworkFiles:
    return NetworkFiles((folder or default_folder()).expanduser().absolute())


def place_of(folder: Path | None, urls: tuple[str, ...], worker: str | None = None) -> Place:
    """Where the options lead.

    Raises:
        NotRunning: no addresses are given, and the folder's network is not running.
    """
    files = files_at(folder)
    if urls:
        return Place(files, urls, worker, own=False)
    running = files.load_running()
    return Place(files, (running["node"],), worker or running["worker"], own=True)


def arguments_of(pairs: tuple[str, ...], document: str | None) -> dict[str, Any]:
    """The arguments of a call, as JSON values by name.

    Raises:
        Invalid: a pair without `=`, a name given twice, what is no JSON object, too many bytes.
    """
    arguments = _document_of(document) if document else {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise Invalid(f"--arg {pair} names no argument", mend="write it as --arg NAME=VALUE")
        if name in arguments:
            raise Invalid(f"the argument {name} is given twice", mend="give each of them once")
        try:
            arguments[name] = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            arguments[name] = text
    size = len(json.dumps(arguments, ensure_ascii=False).encode())
    if size > ARGUMENTS_BYTES_MAX:
        raise Invalid(
            f"the arguments are {size} bytes of JSON",
            mend=f"send at most {ARGUMENTS_BYTES_MAX} in one call",
        )
    return arguments


def _document_of(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            with path.open("rb") as file:
                text = file.read(4 * ARGUMENTS_BYTES_MAX).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"{path} cannot be read: {error}", mend="name a file of JSON") from None
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Invalid(
            f"--args is not JSON: {error}", mend="write an object, as in --args '{\"n\": 2}'"
        ) from None
    if not isinstance(found, dict):
        raise Invalid("--args is not a JSON object", mend="write one, as in --args '{\"n\": 2}'")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
