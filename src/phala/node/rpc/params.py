"""Parameters of methods, parsed once. Whatever is not what it should be raises `RpcError`."""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from phala.node.rpc.errors import INVALID_PARAMS, RpcError
from phala.node.rpc.names import NAMES
from phala.primitives.types import Hash

T = TypeVar("T")

HEX_CHARS_MAX: Final = 12 * 1024 * 1024
KEYS_MAX: Final = 1_000  # in one request
NUMBER: Final = re.compile("0x[0-9a-fA-F]{1,16}|[0-9]{1,20}", re.ASCII)


class Params:
    """The parameters of one request, in the order that its method has them."""

    def __init__(self, found: Any, method: str = "") -> None:
        if found is None:
            found = []
        if isinstance(found, dict):
            found = by_position(found, method)
        if not isinstance(found, list):
            raise RpcError(INVALID_PARAMS, "Invalid params", "give them by position or by name")
        self._found = found

    def _at(self, index: int) -> Any:
        return self._found[index] if index < len(self._found) else None

    def optional(self, index: int, parse: Callable[[Any, int], T]) -> T | None:
        """None where the parameter is absent, null or, as some clients send, empty."""
        value = self._at(index)
        return None if value is None or value == "" else parse(value, index)

    def needed(self, index: int, parse: Callable[[Any, int], T]) -> T:
        if index >= len(self._found):
            raise RpcError(INVALID_PARAMS, "Invalid params", f"parameter {index} is missing")
        return parse(self._found[index], index)


def by_position(found: dict[str, Any], method: str) -> list[Any]:
    """What is given by name. One that is not given is null, but at the end, where it is absent."""
    names = NAMES.get(method)
    if names is None:
        raise RpcError(INVALID_PARAMS, "Invalid params", "give parameters by position")
    for name in found:
        if name not in names:
            listed = ", ".join(names) or "none"
            raise RpcError(
                INVALID_PARAMS, "Invalid params", f"no parameter is called {name[:40]!r}: {listed}"
            )
    given = [place for place, name in enumerate(names) if name in found]
    return [found.get(name) for name in names[: given[-1] + 1]] if given else []


def bad(index: int, need: str, found: Any) -> RpcError:
    if isinstance(found, list | dict):  # may nest deeper than `repr` goes
        shown = f"a {type(found).__name__} of {len(found)}"
    else:
        shown = repr(found)[:60]
    return RpcError(INVALID_PARAMS, "Invalid params", f"parameter {index} is {shown}, not {need}")


def hex_bytes(value: Any, index: int) -> bytes:
    if not isinstance(value, str) or len(value) > HEX_CHARS_MAX:
        raise bad(index, "hex", value)
    digits = value.removeprefix("0x")
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        raise bad(index, "hex", value) from None
    if 2 * len(data) != len(digits):  # `fromhex` passes over spaces
        raise bad(index, "hex", value)
    return data


def block_hash(value: Any, index: int) -> Hash:
    data = hex_bytes(value, index)
    if len(data) != 32:
        raise bad(index, "a block's hash", value)
    return Hash(data)


def number(value: Any, index: int) -> int:
    """A number, also as hex text, as some clients write block numbers."""
    if isinstance(value, str):
        if not NUMBER.fullmatch(value):
            raise bad(index, "a number", value)
        value = int(value, 16 if value.startswith("0x") else 10)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise bad(index, "a number", value)
    return value


def text(value: Any, index: int) -> str:
    if not isinstance(value, str):
        raise bad(index, "text", value)
    return value


def keys(value: Any, index: int) -> list[bytes]:
    """Keys in the order asked for, each once: an answer is never larger than the state."""
    if not isinstance(value, list) or len(value) > KEYS_MAX:
        raise bad(index, f"a list of at most {KEYS_MAX} keys", value)
    return list(dict.fromkeys(hex_bytes(key, index) for key in value))


def to_hex(data: bytes) -> str:
    return "0x" + data.hex()
