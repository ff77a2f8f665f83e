"""`phala up`: a network on this machine, until Ctrl-C."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any, Final, assert_never

import click

from phala.cli.options import dir_option, files_at
from phala.cli.render import waiting
from phala.devnet.files import NetworkFiles
from phala.devnet.genesis import ensure_written
from phala.devnet.supervisor import (
    Died,
    News,
    Ports,
    Serving,
    Started,
    Starting,
    Stopping,
    Supervisor,
)

NODE_PORT: Final = 9944
WORKER_PORT: Final = 8000


@click.command(short_help="Start a network here, until Ctrl-C.")
@dir_option
@click.option("--reset", is_flag=True, help="Forget the network that is there: begin at genesis.")
@click.option(
    "--port",
    default=NODE_PORT,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="The node's, HTTP and WebSocket; 0 for any.",
)
@click.option(
    "--worker-port",
    default=WORKER_PORT,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="The worker's; 0 for any.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON line when ready, for programs."
)
def up(*, folder: Path | None, reset: bool, port: int, worker_port: int, as_json: bool) -> None:
    """Start a network on this machine and keep it running until Ctrl-C.

    Its workers are simulated: no hardware protects what they compute.

    Example: phala up --dir ./mynet --port 0 --worker-port 0
    """
    files = files_at(folder)
    with files.locked():
        if reset:
            files.reset()
        with waiting("writing genesis", quiet=as_json):
            about = ensure_written(files)
        asyncio.run(_run(files, Ports(port, worker_port), about, as_json=as_json))


async def _run(files: NetworkFiles, ports: Ports, about: dict[str, Any], *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def tell(news: News) -> None:
        if as_json:
            if isinstance(news, Serving):
                click.echo(json.dumps({**news.document, "seconds": round(news.seconds, 3)}))
            elif isinstance(news, Died):
                click.echo(words_of(news), err=True)
        elif text := words_of(news):
            click.echo(text)

    await Supervisor(files, ports, tell, about=about).run(stop)


def words_of(news: News) -> str:
    match news:
        case Starting(service):
            return f"starting {service}"
        case Started(service, port, seconds):
            where = f" on port {port}" if port else ""
            return f"  {service} serves{where} ({seconds:.1f} s)"
        case Died(service, code, again_in_s):
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return f"{service} ended ({how}); it starts again in {again_in_s:g} s"
        case Stopping():
            return "stopping"
        case Serving(document, seconds):
            return _usage(document, seconds)
        case _:
            assert_never(news)


def _usage(document: dict[str, Any], seconds: float) -> str:
    folder = Path(document["dir"])
    where = "" if folder == files_at(None).folder else f" --dir {folder}"
    return f"""
The network is up ({seconds:.1f} s). Its TEE is simulated: no hardware protection.

  node     {document["node"]}  (HTTP on the same port)
  worker   {document["worker"]}  (TLS into its enclave: {document.get("worker_tls")})
  genesis  {document["genesis"]}
  folder   {folder}

A contract of your own, in another terminal:

  phala new counter
  phala deploy counter.py{where}
  phala call counter add --arg n=2{where}
  phala query counter value{where}

  phala status{where}        how it stands
  phala logs worker -f{where}

Ctrl-C stops it; the next phala up goes on where it was."""
