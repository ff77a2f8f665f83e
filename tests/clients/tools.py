"""Where the clients are, and how they are run."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.request import Request, urlopen

import pytest

Script: TypeAlias = subprocess.Popen[str]

HERE = Path(__file__).parent
SECONDS_MAX = 180


def node_js() -> str:
    """The program, where the clients of npm are installed; the test is skipped where it is not."""
    program = shutil.which("node")
    if program is None or shutil.which("npm") is None:
        pytest.skip("there is no Node.js on this machine: install Node.js 20 with npm")
    assert (HERE / "node_modules").exists(), "`make test` installs the clients; run that"
    return program


def python_of(client: str) -> str:
    """The Python that has a client: both of PyPI bring a `scalecodec`, so each has its own."""
    python = HERE / "venvs" / client / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no {python.parent.parent}: `make test` makes it")
    return str(python)


@contextmanager
def running(*command: str, folder: Path = HERE) -> Iterator[Script]:
    """A client's script, until the body ends."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    ) as script:  # fmt: skip
        try:
            yield script
        finally:
            script.kill()


def told(script: Script) -> Any:
    """What a script printed last, read as JSON; it must end well."""
    try:
        out, errors = script.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        script.kill()
        out, errors = script.communicate()
        pytest.fail(
            f"{script.args!r} took over {SECONDS_MAX} s; it said {out[-500:]} {errors[-3000:]}"
        )
    assert script.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


def rpc(url: str, method: str, *params: Any) -> Any:
    """The result of one request, by nobody's client."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    request = Request(url, body.encode(), {"content-type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        found = json.load(answer)
    assert "result" in found, found
    return found["result"]
