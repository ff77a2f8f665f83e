"""Parameters by name: the same as by position."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.clients import chain

from phala.node.rpc.errors import RpcError
from phala.node.rpc.names import NAMES
from phala.node.rpc.params import Params, number, text


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        chain.running(tmp_path_factory.mktemp("chain")) as node,
        httpx.Client(base_url=node.http, timeout=20) as client,
    ):
        yield client


def whole(http: httpx.Client, method: str, params: Any) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return http.post("", json=request).json()


def test_names_are_of_methods_that_there_are(http: httpx.Client) -> None:
    known = whole(http, "rpc_methods", {})["result"]["methods"]

    assert set(NAMES) <= set(known)
    front = ("archive_v1_", "chainHead_v1_", "chainSpec_v1_", "transaction", "dev_")
    assert {each for each in known if each.startswith(front)} <= set(NAMES)


def test_by_name_is_as_by_position(http: httpx.Client) -> None:
    genesis = whole(http, "archive_v1_genesisHash", {})["result"]

    assert whole(http, "archive_v1_hashByHeight", {"height": 0})["result"] == [genesis]
    by_name = whole(http, "archive_v1_header", {"hash": genesis})
    assert by_name == whole(http, "archive_v1_header", [genesis])
    call = {"callParameters": "0x", "function": "Core_version", "hash": genesis}
    assert whole(http, "archive_v1_call", call)["result"]["success"]
    assert whole(http, "dev_mine", {"blocks": 2})["result"]["blocks"] == 2


def test_what_has_no_such_name_is_refused(http: httpx.Client) -> None:
    for method, params in (
        ("archive_v1_header", {"block": "0x"}),
        ("archive_v1_header", {}),
        ("chain_getHeader", {"hash": "0x"}),
        ("rpc_methods", {"x": 1}),
        ("rpc_methods", "x"),
    ):
        assert whole(http, method, params)["error"]["code"] == -32602, method


def test_one_that_is_left_out_is_absent() -> None:
    found = Params({"blocks": 3}, "dev_forward")

    assert found.optional(1, number) == 3
    assert found.optional(0, number) is None
    with pytest.raises(RpcError):
        found.needed(0, text)
    with pytest.raises(RpcError):
        Params({}, "dev_forward").needed(0, number)
