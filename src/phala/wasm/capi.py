"""The calling layer: libwasmtime's C API by ctypes, as little of it as contracts need.

The package's own wrappers are 5 to 25 times slower, hand a host function's exception to whichever
thread asks first, and crash when it is no `Exception` (reference: wasmtime-py 50.0.1). Here a value
is read from and written to its 32 bytes, and whatever a callback raises becomes the call's error.

Who owns what, for that is where such a layer goes wrong:
  arguments of a call     ours; the engine copies
  results of a call       ours after it: `val_delete`, then zero the slot
  arguments of a callback the engine's; we copy
  results of a callback   allocated by the library's `new` functions, owned by the engine after it
"""

import ctypes
import struct
from collections.abc import Callable
from ctypes import (
    CFUNCTYPE,
    addressof,
    c_bool,
    c_char,
    c_char_p,
    c_int64,
    c_size_t,
    c_uint64,
    c_void_p,
    cast,
    memmove,
    string_at,
)
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import machine
from typing import Any, Final

from phala.errors import Unavailable

WASMTIME_VERSION: Final = "50.0.1"  # layouts and messages below are this version's

VAL_BYTES: Final = 32
INSTANCE_BYTES: Final = 16
FUNC_BYTES: Final = 32
BOOL, U8, U32, U64, STRING, LIST, RECORD, TUPLE, OPTION, RESULT = 0, 2, 6, 8, 12, 13, 14, 15, 18, 19

_VAL: Final = struct.Struct("<B7xQQ8x")  # kind, then size and pointer, or flag and pointer
_PAIR: Final = struct.Struct("<QQ")
_PAYLOAD: Final = 8  # where a value's own bytes begin
_ZERO: Final = bytes(VAL_BYTES)
_BYTE: Final = bytes([U8]) + bytes(VAL_BYTES - 1)
_BYTES_4K: Final = _BYTE * 4096


class EngineError(Exception):
    """The library refused, or the guest ended: the message is the library's own."""


def _library() -> ctypes.CDLL:
    if version("wasmtime") != WASMTIME_VERSION:
        raise Unavailable(
            f"wasmtime is {version('wasmtime')}, the calling layer is for {WASMTIME_VERSION}",
            mend="run make setup",
        )
    spec = find_spec("wasmtime")
    assert spec is not None
    assert spec.origin is not None
    name = {"x86_64": "linux-x86_64", "aarch64": "linux-aarch64"}[machine()]
    # The package itself is not imported: that alone takes longer than starting a child.
    return ctypes.CDLL(str(Path(spec.origin).parent / name / "_libwasmtime.so"))


LIBRARY: Final = _library()


def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return CFUNCTYPE(result, *arguments)((name, LIBRARY))


_P = c_void_p
_error_new = function("wasmtime_error_new", _P, c_char_p)
_error_message = function("wasmtime_error_message", None, _P, _P)
_error_delete = function("wasmtime_error_delete", None, _P)
_byte_vec_new = function("wasm_byte_vec_new", None, _P, c_size_t, c_char_p)
_byte_vec_delete = function("wasm_byte_vec_delete", None, _P)
_list_new = function("wasmtime_component_vallist_new_uninit", None, _P, c_size_t)
_tuple_new = function("wasmtime_component_valtuple_new_uninit", None, _P, c_size_t)
_record_new = function("wasmtime_component_valrecord_new_uninit", None, _P, c_size_t)
_val_new = function("wasmtime_component_val_new", _P, _P)
_val_delete = function("wasmtime_component_val_delete", None, _P)

config_new = function("wasm_config_new", _P)
engine_new = function("wasm_engine_new_with_config", _P, _P)
increment_epoch = function("wasmtime_engine_increment_epoch", None, _P)
component_new = function("wasmtime_component_new", _P, _P, c_char_p, c_size_t, _P)
component_serialize = function("wasmtime_component_serialize", _P, _P, _P)
component_open = function("wasmtime_component_deserialize_file", _P, _P, c_char_p, _P)
export_index = function("wasmtime_component_get_export_index", _P, _P, _P, c_char_p, c_size_t)
linker_new = function("wasmtime_component_linker_new", _P, _P)
linker_root = function("wasmtime_component_linker_root", _P, _P)
linker_instantiate = function("wasmtime_component_linker_instantiate", _P, _P, _P, _P, _P)
linker_instance_delete = function("wasmtime_component_linker_instance_delete", None, _P)
linker_add_instance = function(
    "wasmtime_component_linker_instance_add_instance", _P, _P, c_char_p, c_size_t, _P
)
CALLBACK: Final = CFUNCTYPE(c_size_t, _P, _P, _P, _P, c_size_t, _P, c_size_t)
linker_add_func = function(
    "wasmtime_component_linker_instance_add_func", _P, _P, c_char_p, c_size_t, CALLBACK, _P, _P
)
store_new = function("wasmtime_store_new", _P, _P, _P, _P)
store_context = function("wasmtime_store_context", _P, _P)
store_delete = function("wasmtime_store_delete", None, _P)
store_limiter = function(
    "wasmtime_store_limiter", None, _P, c_int64, c_int64, c_int64, c_int64, c_int64
)
set_fuel = function("wasmtime_context_set_fuel", _P, _P, c_uint64)
get_fuel = function("wasmtime_context_get_fuel", _P, _P, _P)
set_epoch_deadline = function("wasmtime_context_set_epoch_deadline", None, _P, c_uint64)
instance_get_func = function("wasmtime_component_instance_get_func", c_bool, _P, _P, _P, _P)
func_call = function(
    "wasmtime_component_func_call", _P, _P, _P, _P, c_size_t, _P, c_size_t
)  # fmt: skip


def ensure_ok(error: int | None) -> None:
    """Raises `EngineError` with the error's message, and frees the error."""
    if error:
        message = (c_char * 16)()
        _error_message(error, addressof(message))
        size, data = _PAIR.unpack(message)
        text = string_at(data, size).decode(errors="replace")
        _byte_vec_delete(addressof(message))
        _error_delete(error)
        raise EngineError(text)


def error_of(text: str) -> int:
    """An error for the engine to take over, from a callback."""
    return int(_error_new(text.encode()))


def configure(config: int, name: str, value: bool | int | str) -> None:  # noqa: FBT001
    match value:
        case bool():
            function(f"wasmtime_config_{name}_set", None, _P, c_bool)(config, value)
        case int():
            function(f"wasmtime_config_{name}_set", None, _P, c_size_t)(config, value)
        case str():
            ensure_ok(
                function(f"wasmtime_config_{name}_set", _P, _P, c_char_p)(config, value.encode())
            )


def serialized(component: int) -> bytes:
    out = (c_char * 16)()
    ensure_ok(component_serialize(component, addressof(out)))
    size, data = _PAIR.unpack(out)
    found = string_at(data, size)
    _byte_vec_delete(addressof(out))
    return found


# Reading a value at an address


def read_bytes(at: int) -> bytes:
    """Of a `list<u8>`."""
    _, size, data = _VAL.unpack(string_at(at, VAL_BYTES))
    return string_at(data, size * VAL_BYTES)[_PAYLOAD::VAL_BYTES] if size else b""


def read_size(at: int) -> int:
    """Items of a list, or bytes of a string, before anything of that size is copied."""
    return int.from_bytes(string_at(at + _PAYLOAD, 8), "little")


def read_text(at: int) -> str:
    _, size, data = _VAL.unpack(string_at(at, VAL_BYTES))
    return string_at(data, size).decode() if size else ""


def read_number(at: int, size: int) -> int:
    return int.from_bytes(string_at(at + _PAYLOAD, size), "little")


def read_option(at: int) -> int | None:
    """The address of what an `option` holds."""
    return read_number(at, 8) or None


def take_result(slot: int) -> tuple[bool, bytes]:
    """Of `result<list<u8>, string>`; frees it and zeroes the slot for the next call."""
    try:
        _, ok, inner = _VAL.unpack(string_at(slot, VAL_BYTES))
        if ok & 1:
            return True, read_bytes(inner)
        _, size, data = _VAL.unpack(string_at(inner, VAL_BYTES))
        return False, string_at(data, size) if size else b""
    finally:
        _val_delete(slot)
        memmove(slot, _ZERO, VAL_BYTES)


# Writing a value, owned by the engine from then on


def write_bytes(at: int, data: bytes) -> None:
    size, items = _new(_list_new, len(data))
    if data:
        memmove(items, _spread(data), len(data) * VAL_BYTES)
    memmove(at, _VAL.pack(LIST, size, items), VAL_BYTES)


def write_option_bytes(at: int, data: bytes | None) -> None:
    some = 0
    if data is not None:
        inner = (c_char * VAL_BYTES)()
        write_bytes(addressof(inner), data)
        some = _val_new(addressof(inner))
    memmove(at, _VAL.pack(OPTION, some, 0), VAL_BYTES)


def write_pairs(at: int, pairs: list[tuple[bytes, bytes]]) -> None:
    """`list<tuple<list<u8>, list<u8>>>`."""
    size, items = _new(_list_new, len(pairs))
    for index, pair in enumerate(pairs):
        count, parts = _new(_tuple_new, 2)
        for place, part in enumerate(pair):
            write_bytes(parts + place * VAL_BYTES, part)
        memmove(items + index * VAL_BYTES, _VAL.pack(TUPLE, count, parts), VAL_BYTES)
    memmove(at, _VAL.pack(LIST, size, items), VAL_BYTES)


def write_record(at: int, fields: dict[str, int | bytes]) -> None:
    """Whole numbers as u64, bytes as `list<u8>`."""
    count, entries = _new(_record_new, len(fields))
    for index, (name, value) in enumerate(fields.items()):
        entry = entries + index * (16 + VAL_BYTES)
        _byte_vec_new(entry, len(name), name.encode())
        if isinstance(value, int):
            memmove(entry + 16, _VAL.pack(U64, value, 0), VAL_BYTES)
        else:
            write_bytes(entry + 16, value)
    memmove(at, _VAL.pack(RECORD, count, entries), VAL_BYTES)


class Arguments:
    """A call's arguments in memory of ours, alive as long as this is."""

    def __init__(self, *values: bytes | bool) -> None:
        self.count = len(values)
        self._slots = (c_char * (VAL_BYTES * max(1, self.count)))()
        self._held: list[Any] = []
        for index, value in enumerate(values):
            if isinstance(value, bool):
                packed = _VAL.pack(BOOL, value, 0)
            else:
                held = c_char_p(_spread(value))
                self._held.append(held)
                packed = _VAL.pack(LIST, len(value), cast(held, c_void_p).value)
            memmove(addressof(self._slots) + index * VAL_BYTES, packed, VAL_BYTES)
        self.address = addressof(self._slots)


def _spread(data: bytes) -> bytes:
    """Each byte in a value of its own; slices do it at the speed of a copy."""
    count = len(data)
    out = bytearray(_BYTES_4K[: count * VAL_BYTES] if count <= 4096 else _BYTE * count)
    out[_PAYLOAD::VAL_BYTES] = data
    return bytes(out)


def _new(make: Callable[..., Any], count: int) -> tuple[int, int]:
    out = (c_char * 16)()
    make(addressof(out), count)
    size, data = _PAIR.unpack(out)
    return size, data
