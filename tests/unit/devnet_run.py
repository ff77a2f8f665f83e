"""A supervisor over small services of our own, as a process to signal: see test_devnet.py."""

import asyncio
import functools
import http.server
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from phala.devnet.files import NetworkFiles
from phala.devnet.supervisor import News, Ports, Supervisor
from phala.errors import PhalaError

say = functools.partial(print, flush=True)


class Door(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"ready": true}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def serve(name: str, port: int, mode: str) -> None:
    if mode == f"{name}-fails":
        sys.exit("the disk is made of cheese")
    # A grandchild in a session of its own, which nobody but its adopter can end.
    grandchild = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = http.server.HTTPServer(("127.0.0.1", port), Door)
    say(json.dumps({"ready": True, "port": server.server_port}))
    say(grandchild.pid, file=sys.stderr)
    server.serve_forever()


async def supervise(folder: Path, port: int, mode: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def tell(news: News) -> None:
        say(repr(news))

    def command(name: str, ports: dict[str, int]) -> list[str]:
        return [sys.executable, __file__, "serve", name, str(ports.get(name, 0)), mode]

    files = NetworkFiles(folder)
    with files.locked():
        await Supervisor(files, Ports(port, 0), tell, commands=command).run(stop)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "serve":
        serve(rest[0], int(rest[1]), rest[2])
    else:
        try:
            asyncio.run(supervise(Path(rest[0]), int(rest[1]), rest[2]))
        except PhalaError as error:
            sys.exit(f"{type(error).__name__}: {error.what} / {error.mend}")
