"""Metadata as bytes, versions 14 and 15.

Source: the `frame-metadata` crate, `v14.rs` and `v15.rs`; the `scale-info` crate, `portable.rs`.
"""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar, assert_never

from phala.codec import encode_compact
from phala.codec.registry import (
    Field,
    Type,
    TypeDef,
    TypeDefArray,
    TypeDefCompact,
    TypeDefComposite,
    TypeDefPrimitive,
    TypeDefSequence,
    TypeDefTuple,
    TypeDefVariant,
    TypeId,
    Variant,
)
from phala.frame.metadata import Metadata, PalletMetadata
from phala.frame.storage import StorageEntry

T = TypeVar("T")

MAGIC: Final = b"meta"
VERSIONS: Final = (14, 15)

PRIMITIVES: Final = ("bool", "char", "str", "u8", "u16", "u32", "u64", "u128", "u256")
HASHERS: Final = (
    "Blake2_128",
    "Blake2_256",
    "Blake2_128Concat",
    "Twox128",
    "Twox256",
    "Twox64Concat",
    "Identity",
)


def encode(metadata: Metadata, version: int) -> bytes:
    assert version in VERSIONS
    modern = version == 15
    out = bytearray(MAGIC)
    out.append(version)
    vector(out, list(enumerate(metadata.types)), _portable_type)
    vector(out, metadata.pallets, _pallet_v15 if modern else _pallet)
    if modern:
        out.append(metadata.version)
        for each in (metadata.address, metadata.call, metadata.signature, metadata.extra):
            type_id(out, each)
    else:
        type_id(out, metadata.extrinsic)
        out.append(metadata.version)
    vector(out, metadata.extensions, _extension)
    type_id(out, metadata.runtime)
    if modern:
        vector(out, metadata.apis, _api)
        for each in (metadata.call, metadata.event, metadata.error):
            type_id(out, each)
        out += encode_compact(0)  # nothing custom
    return bytes(out)


def vector(out: bytearray, items: Iterable[T], write: Callable[[bytearray, T], None]) -> None:
    listed = list(items)
    out += encode_compact(len(listed))
    for item in listed:
        write(out, item)


def option(out: bytearray, item: T | None, write: Callable[[bytearray, T], None]) -> None:
    out.append(item is not None)
    if item is not None:
        write(out, item)


def text(out: bytearray, value: str) -> None:
    data = value.encode()
    out += encode_compact(len(data)) + data


def type_id(out: bytearray, value: TypeId) -> None:
    out += encode_compact(value)


def blob(out: bytearray, value: bytes) -> None:
    out += encode_compact(len(value)) + value


# ---- types


def _portable_type(out: bytearray, numbered: tuple[int, Type]) -> None:
    number, described = numbered
    out += encode_compact(number)
    vector(out, described.path, text)
    vector(out, described.params, _param)
    _definition(out, described.definition)
    vector(out, described.docs, text)


def _param(out: bytearray, param: tuple[str, TypeId | None]) -> None:
    text(out, param[0])
    option(out, param[1], type_id)


def _definition(out: bytearray, definition: TypeDef) -> None:
    match definition:
        case TypeDefComposite(fields):
            out.append(0)
            vector(out, fields, _field)
        case TypeDefVariant(variants):
            out.append(1)
            vector(out, variants, _variant)
        case TypeDefSequence(item):
            out.append(2)
            type_id(out, item)
        case TypeDefArray(size, item):
            out.append(3)
            out += size.to_bytes(4, "little")
            type_id(out, item)
        case TypeDefTuple(items):
            out.append(4)
            vector(out, items, type_id)
        case TypeDefPrimitive(name):
            out += bytes([5, PRIMITIVES.index(name)])
        case TypeDefCompact(inner):
            out.append(6)
            type_id(out, inner)
        case _:
            assert_never(definition)


def _field(out: bytearray, field: Field) -> None:
    option(out, field.name, text)
    type_id(out, field.type)
    option(out, field.type_name, text)
    out += encode_compact(0)  # no docs


def _variant(out: bytearray, variant: Variant) -> None:
    text(out, variant.name)
    vector(out, variant.fields, _field)
    out.append(variant.index)
    vector(out, variant.docs, text)


# ---- pallets


def _pallet(out: bytearray, pallet: PalletMetadata) -> None:
    text(out, pallet.name)
    out.append(bool(pallet.storage))
    if pallet.storage:
        text(out, pallet.name)
        vector(out, pallet.storage, _entry)
    option(out, pallet.calls, type_id)
    option(out, pallet.events, type_id)
    out += encode_compact(len(pallet.constants))
    for constant, kind in pallet.constants:
        text(out, constant.name)
        type_id(out, kind)
        blob(out, constant.descriptor.encode(constant.value))
        vector(out, (constant.doc,), text)
    option(out, pallet.errors, type_id)
    out.append(pallet.index)


def _pallet_v15(out: bytearray, pallet: PalletMetadata) -> None:
    _pallet(out, pallet)
    vector(out, pallet.docs, text)


def _entry(out: bytearray, item: tuple[StorageEntry, TypeId | None]) -> None:
    entry, keys = item
    text(out, entry.name)
    out.append(("Optional", "Default").index(entry.modifier))
    if keys is None:
        out.append(0)
    else:
        out.append(1)
        out += encode_compact(len(entry.hashers))
        out += bytes(HASHERS.index(hasher) for hasher in entry.hashers)
        type_id(out, keys)
    type_id(out, entry.value)
    blob(out, entry.default)
    vector(out, entry.docs, text)


# ---- extrinsics and questions


def _extension(out: bytearray, extension: tuple[str, TypeId, TypeId]) -> None:
    name, extra, additional = extension
    text(out, name)
    type_id(out, extra)
    type_id(out, additional)


def _api(
    out: bytearray,
    api: tuple[str, tuple[tuple[str, tuple[tuple[str, TypeId], ...], TypeId], ...]],
) -> None:
    name, methods = api
    text(out, name)
    vector(out, methods, _method)
    out += encode_compact(0)  # no docs


def _method(out: bytearray, method: tuple[str, tuple[tuple[str, TypeId], ...], TypeId]) -> None:
    name, inputs, output = method
    text(out, name)
    vector(out, inputs, _input)
    type_id(out, output)
    out += encode_compact(0)  # no docs


def _input(out: bytearray, named: tuple[str, TypeId]) -> None:
    text(out, named[0])
    type_id(out, named[1])
