"""`system_*`, `chainSpec_v1_*` and `rpc_methods`: what this node is."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from phala.node.rpc.params import Params, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Node
from phala.node.writer import authorities_after
from phala.primitives.address import SS58_PREFIX, encode_base58


@dataclass(frozen=True, slots=True)
class Identity:
    """What a spec calls its chain."""

    name: str
    chain_type: str  # Substrate's: Development, Local, Live


def register(methods: Methods, node: Node, identity: Identity) -> None:
    def fixed(name: str, answer: Any) -> None:
        methods.add(name)(lambda _params: answer)

    fixed("system_chain", identity.name)
    fixed("system_chainType", identity.chain_type)
    fixed("system_name", "Phala")
    fixed("system_version", version("phala"))
    properties = {"ss58Format": SS58_PREFIX, "tokenDecimals": 12, "tokenSymbol": "PHA"}
    fixed("system_properties", properties)
    fixed("chainSpec_v1_chainName", identity.name)
    fixed("chainSpec_v1_genesisHash", to_hex(node.chain.genesis))
    fixed("chainSpec_v1_properties", properties)
    fixed("system_nodeRoles", ["Authority"])
    fixed("system_peers", [])
    fixed("system_localPeerId", peer_id(node))
    fixed("system_localListenAddresses", [])

    @methods.add("system_health")
    def health(_params: Params) -> Any:
        return {"peers": 0, "isSyncing": False, "shouldHavePeers": False}

    @methods.add("system_syncState")
    def sync_state(_params: Params) -> Any:
        head = node.chain.head.number
        return {"startingBlock": 0, "currentBlock": head, "highestBlock": head}

    @methods.add("rpc_methods")
    def rpc_methods(_params: Params) -> Any:
        return {"methods": methods.names()}


def peer_id(node: Node) -> str:
    """The authority's key in libp2p's form: nobody is at its other end as yet.

    Source: libp2p's peer ids; a key of 36 bytes as protobuf has the identity as its multihash.
    """
    first = authorities_after(node.chain, node.chain.head.number).authorities[0]
    return encode_base58(b"\0\x24\x08\1\x12\x20" + first.key)
