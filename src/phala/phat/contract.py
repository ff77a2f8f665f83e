"""The class that a contract is, and the marks on its methods."""

import hashlib
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from phala.phat.host import CURRENT
from phala.phat.state import MISSING, Field
from phala.phat.values import to_json

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["query", "command"]

SS58_PREFIX = 30
LEVEL_INFO = 2


class Refused(Exception):
    """The contract's own rule says no: `raise Refused("the vote is closed")`."""


@dataclass(frozen=True, slots=True)
class Block:
    """The block that the call sees: a command's own, for a query the newest one known."""

    number: int
    time_ms: int  # since 1970
    hash: str  # hex behind 0x


class Contract:
    """One class a file: annotated attributes are its state, marked methods its interface.

    `__init__` runs once, when the contract is deployed. `warm = True` lets queries reuse an
    instance of the guest: faster, but what a query leaves in a global the next one sees.
    """

    warm: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        for name, hint in getattr(cls, "__annotations__", {}).items():
            if typing.get_origin(hint) is ClassVar or "ClassVar" in str(hint):
                continue
            if name not in vars(cls) and isinstance(getattr(cls, name, None), Field):
                continue  # declared in a base
            default = vars(cls).get(name, MISSING)
            if kind_of(default):
                raise TypeError(f"{name} is both state and a method: rename one of them")
            if not isinstance(default, Field):
                setattr(cls, name, Field(cls, name, default))

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(getattr(type(self), name, None), Field):
            raise AttributeError(  # noqa: TRY004 - it is about a name
                f"self.{name} would be lost after the call: annotate it in the class, "
                "and it is state"
            )
        super().__setattr__(name, value)

    @property
    def block(self) -> Block:
        number, time_ms, digest = CURRENT.get().block()
        return Block(number, time_ms, "0x" + digest.hex())

    @property
    def caller(self) -> str | None:
        """The SS58 address of who sent the call; None for a query that nobody signed."""
        account = CURRENT.get().caller()
        return None if account is None else address_of(account)


def query(method: F) -> F:
    """Mark a method that answers, and changes nothing. Anybody with access may call it."""
    return _marked(method, "query")


def command(method: F) -> F:
    """Mark a method that changes state. The chain orders commands; each runs exactly once."""
    return _marked(method, "command")


def kind_of(method: object) -> Kind | None:
    return getattr(method, "phat_kind", None)


def log(*values: object) -> None:
    """A line for the contract's owner, like print."""
    CURRENT.get().log(LEVEL_INFO, " ".join(str(value) for value in values))


def emit(name: str, /, **data: Any) -> None:
    """An event, kept only if the command succeeds. Its data is whatever JSON can carry."""
    CURRENT.get().emit(name, to_json(data))


def address_of(account: bytes) -> str:
    """SS58 with the network's prefix."""
    body = bytes([SS58_PREFIX]) + account
    body += hashlib.blake2b(b"SS58PRE" + body).digest()[:2]
    digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    rest, text = int.from_bytes(body, "big"), ""
    while rest:
        rest, digit = divmod(rest, 58)
        text = digits[digit] + text
    return text


def _marked(method: F, kind: Kind) -> F:
    if not callable(method):
        raise TypeError(f"@{kind} stands on a method")
    method.phat_kind = kind  # type: ignore[attr-defined]
    return method
