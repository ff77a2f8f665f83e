"""What a running network says of itself, asked of each service."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from phala.devnet.files import NetworkFiles
from phala.errors import Unavailable
from phala.sdk.http import HttpClient

ASK_S_MAX: Final = 3.0
ANSWER_BYTES_MAX: Final = 1024 * 1024


def fetch_status(files: NetworkFiles) -> dict[str, Any]:
    """One JSON document; what does not answer stands in it as None.

    Raises:
        NotRunning: the network is not running.
    """
    document = files.load_running()
    for service in document["services"].values():
        service["alive"] = Path(f"/proc/{service['pid']}").exists()
    chain, enclave = asyncio.run(_ask(document["node"], document["worker"]))
    return {**document, "chain": chain, "enclave": enclave}


async def _ask(node: str, worker: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    return await asyncio.gather(_chain(node.replace("ws://", "http://", 1)), _enclave(worker))


async def _chain(url: str) -> dict[str, Any] | None:
    client = HttpClient(url, timeout_s=ASK_S_MAX)

    async def call(method: str, *params: object) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        body = json.dumps(request).encode()
        _, answer = await client.send("POST", "/", body, bytes_max=ANSWER_BYTES_MAX)
        return json.loads(answer)["result"]

    try:
        best = await call("chain_getHeader")
        finalized = await call("chain_getHeader", await call("chain_getFinalizedHead"))
        return {"best": int(best["number"], 16), "finalized": int(finalized["number"], 16)}
    except (Unavailable, ValueError, KeyError, TypeError):
        return None
    finally:
        await client.close()


async def _enclave(url: str) -> dict[str, Any] | None:
    try:
        return await fetch_worker(url)
    except Unavailable:
        return None


async def fetch_worker(url: str) -> dict[str, Any]:
    """What a worker says of itself: `GET /`. Raises `Unavailable`."""
    client = HttpClient(url, timeout_s=ASK_S_MAX)
    try:
        _, answer = await client.send("GET", "/", bytes_max=ANSWER_BYTES_MAX)
        found = json.loads(answer)
    except ValueError:
        found = None
    finally:
        await client.close()
    if not isinstance(found, dict):
        raise Unavailable(f"{url} answers no JSON", mend="see whether a worker runs there")
    return found
