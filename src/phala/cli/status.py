"""`phala status`: how a network of this machine stands."""

from pathlib import Path
from typing import Any

import click

from phala.cli.options import dir_option, files_at, json_option
from phala.cli.render import show
from phala.devnet.status import fetch_status


@click.command(short_help="Show how a running network stands.")
@dir_option
@json_option
def status(*, folder: Path | None, as_json: bool) -> None:
    """Show the services, the chain and the worker of a running network.

    Example: phala status
    """
    found = fetch_status(files_at(folder))
    show(found, _text(found), as_json=as_json)


def _text(found: dict[str, Any]) -> str:
    chain, enclave = found["chain"], found["enclave"]
    lines = [
        f"network  {found.get('name', '')} {found.get('genesis', '')}",
        f"folder   {found['dir']}",
    ]
    for name, service in found["services"].items():
        state = "running" if service["alive"] else "ended, is being started again"
        restarts = f", restarted {service['restarts']} times" if service["restarts"] else ""
        where = found.get(name, "")
        lines.append(f"{name:8} {state}{restarts}  pid {service['pid']}  {where}".rstrip())
    lines.append(
        f"chain    block {chain['best']}, finalized {chain['finalized']}"
        if chain
        else "chain    the node does not answer"
    )
    if enclave:
        ready = "answers" if enclave.get("ready") else "is not ready"
        lines.append(f"enclave  {ready}, at block {enclave.get('height')}")
        lines.append(f"platform {enclave.get('platform')}")
    else:
        lines.append("enclave  the worker does not answer")
    return "\n".join(lines)
