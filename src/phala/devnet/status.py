"""What a running network says of itself, asked of each service."""

import asyncio
from pathlib import Path
from typing import Any, Final

import httpx

from phala.devnet.files import NetworkFiles

ASK_S_MAX: Final = 3.0


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
    async with httpx.AsyncClient(timeout=ASK_S_MAX, trust_env=False) as client:
        return await asyncio.gather(
            _chain(client, node.replace("ws://", "http://", 1)), _enclave(client, worker)
        )


async def _chain(client: httpx.AsyncClient, url: str) -> dict[str, Any] | None:
    async def call(method: str, *params: object) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return (await client.post(url, json=request)).json()["result"]

    try:
        best = await call("chain_getHeader")
        finalized = await call("chain_getHeader", await call("chain_getFinalizedHead"))
        return {"best": int(best["number"], 16), "finalized": int(finalized["number"], 16)}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


async def _enclave(client: httpx.AsyncClient, url: str) -> dict[str, Any] | None:
    try:
        found = (await client.get(url)).json()
    except (httpx.HTTPError, ValueError):
        return None
    return found if isinstance(found, dict) else None
