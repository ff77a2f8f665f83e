"""All that a node can be asked for."""

from phala.node.engines.dev import is_dev
from phala.node.rpc import (
    archive,
    author,
    blocks,
    chain_head,
    child,
    dev,
    explorer,
    owner,
    payment,
    state,
    system,
    transactions,
)
from phala.node.rpc.explorer_index import Shelf
from phala.node.rpc.metrics import Metrics
from phala.node.rpc.server import Door, Methods
from phala.node.service import Node


def methods_of(node: Node, identity: system.Identity, shelf: Shelf | None = None) -> Methods:
    methods = Methods()
    blocks.register(methods, node)
    state.register(methods, node)
    child.register(methods, node)
    payment.register(methods, node)
    author.register(methods, node)
    owner.register(methods, node)
    chain_head.register(methods, node)
    archive.register(methods, node)
    transactions.register(methods, node)
    explorer.register(methods, node, shelf or Shelf(node))
    system.register(methods, node, identity)
    if is_dev(node.chain, identity.chain_type):
        dev.register(methods, node)
    return methods


def door_of(node: Node, identity: system.Identity) -> Door:
    """All of it, with what it counts."""
    shelf = Shelf(node)  # one for all: LMDB opens a folder once in a process
    methods = methods_of(node, identity, shelf)
    door = Door(methods)
    door.metrics = Metrics(node, methods, door.gauge, shelf).text
    return door
