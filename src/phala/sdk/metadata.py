"""A chain as its metadata tells it: calls, storage, events, errors, constants by their names.

Versions 14 and 15. Source: the `frame-metadata` crate, `v14` and `v15`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias, TypeVar

from phala.codec import (
    U8,
    Bytes,
    Descriptor,
    Enum,
    Malformed,
    Option,
    Reader,
    Vector,
    descriptor_of,
    struct_of,
)
from phala.codec.compact import read_compact
from phala.crypto.hashes import blake2_128, blake2_256, twox_64, twox_128
from phala.errors import Invalid
from phala.primitives.keys import storage_prefix
from phala.sdk.portable import ENTRIES, Case, Docs, Entry, Name, TypeRef, Types, Value, Variant

T = TypeVar("T")

MAGIC: Final = b"meta"
VERSIONS: Final = (15, 14)  # best first
METADATA_BYTES_MAX: Final = 16 * 1024 * 1024
VALUE_BYTES_MAX: Final = 1024 * 1024  # of a default or a constant
PALLETS_MAX: Final = 256
ENTRIES_MAX: Final = 4_096
EVENTS_MAX: Final = 100_000  # in one block


@dataclass(frozen=True, slots=True)
class Plain:
    value: TypeRef


@dataclass(frozen=True, slots=True)
class Map:
    hashers: Annotated[tuple[int, ...], Vector(U8, 64)]
    key: TypeRef
    value: TypeRef


Shape: TypeAlias = Plain | Map
SHAPE: Final = Enum(
    ("frame_metadata", "StorageEntryType"), ((0, struct_of(Plain, {})), (1, struct_of(Map, {})))
)


@dataclass(frozen=True, slots=True)
class StorageEntry:
    name: Name
    modifier: Annotated[int, U8]  # 0: None where nothing lies, 1: the default
    shape: Annotated[Shape, SHAPE]
    default: Annotated[bytes, Bytes(VALUE_BYTES_MAX)]
    docs: Docs


@dataclass(frozen=True, slots=True)
class PalletStorage:
    prefix: Name
    entries: Annotated[
        tuple[StorageEntry, ...], Vector(descriptor_of(StorageEntry, {}), ENTRIES_MAX)
    ]


@dataclass(frozen=True, slots=True)
class Constant:
    name: Name
    type: TypeRef
    value: Annotated[bytes, Bytes(VALUE_BYTES_MAX)]
    docs: Docs


@dataclass(frozen=True, slots=True)
class OneType:
    type: TypeRef


ONE_TYPE: Final[Descriptor[OneType | None]] = Option(descriptor_of(OneType, {}))


@dataclass(frozen=True, slots=True)
class PalletInfo:
    name: Name
    storage: Annotated[PalletStorage | None, Option(descriptor_of(PalletStorage, {}))]
    calls: Annotated[OneType | None, ONE_TYPE]
    events: Annotated[OneType | None, ONE_TYPE]
    constants: Annotated[tuple[Constant, ...], Vector(descriptor_of(Constant, {}), ENTRIES_MAX)]
    errors: Annotated[OneType | None, ONE_TYPE]
    index: Annotated[int, U8]


@dataclass(frozen=True, slots=True)
class SignedExtension:
    identifier: Name
    type: TypeRef
    additional: TypeRef


EXTENSIONS: Final[Descriptor[tuple[SignedExtension, ...]]] = Vector(
    descriptor_of(SignedExtension, {}), 256
)


@dataclass(frozen=True, slots=True)
class ExtrinsicV14:
    type: TypeRef
    version: Annotated[int, U8]
    extensions: Annotated[tuple[SignedExtension, ...], EXTENSIONS]


@dataclass(frozen=True, slots=True)
class ExtrinsicV15:
    version: Annotated[int, U8]
    address: TypeRef
    call: TypeRef
    signature: TypeRef
    extra: TypeRef
    extensions: Annotated[tuple[SignedExtension, ...], EXTENSIONS]


@dataclass(frozen=True, slots=True)
class Documented:
    pallet: PalletInfo
    docs: Docs


@dataclass(frozen=True, slots=True)
class ApiInput:
    name: Name
    type: TypeRef


@dataclass(frozen=True, slots=True)
class ApiMethod:
    name: Name
    inputs: Annotated[tuple[ApiInput, ...], Vector(descriptor_of(ApiInput, {}), 256)]
    output: TypeRef
    docs: Docs


@dataclass(frozen=True, slots=True)
class Api:
    name: Name
    methods: Annotated[tuple[ApiMethod, ...], Vector(descriptor_of(ApiMethod, {}), ENTRIES_MAX)]
    docs: Docs


@dataclass(frozen=True, slots=True)
class OuterEnums:
    call: TypeRef
    event: TypeRef
    error: TypeRef


@dataclass(frozen=True, slots=True)
class Custom:
    name: Name
    type: TypeRef
    value: Annotated[bytes, Bytes(VALUE_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class BodyV14:
    types: Annotated[tuple[Entry, ...], ENTRIES]
    pallets: Annotated[tuple[PalletInfo, ...], Vector(descriptor_of(PalletInfo, {}), PALLETS_MAX)]
    extrinsic: ExtrinsicV14
    runtime: TypeRef


@dataclass(frozen=True, slots=True)
class BodyV15:
    types: Annotated[tuple[Entry, ...], ENTRIES]
    pallets: Annotated[tuple[Documented, ...], Vector(descriptor_of(Documented, {}), PALLETS_MAX)]
    extrinsic: ExtrinsicV15
    runtime: TypeRef
    apis: Annotated[tuple[Api, ...], Vector(descriptor_of(Api, {}), ENTRIES_MAX)]
    outer: OuterEnums
    custom: Annotated[tuple[Custom, ...], Vector(descriptor_of(Custom, {}), ENTRIES_MAX)]


BODY_V14: Final[Descriptor[BodyV14]] = struct_of(BodyV14, {})
BODY_V15: Final[Descriptor[BodyV15]] = struct_of(BodyV15, {})

# By their numbers in the metadata; each gives the front of what lies under a key.
HASHERS: Final[tuple[Callable[[bytes], bytes], ...]] = (
    blake2_128,
    blake2_256,
    lambda key: blake2_128(key) + key,
    twox_128,
    lambda key: twox_128(key) + twox_64(key),  # never met: Twox256 is in no pallet
    lambda key: twox_64(key) + key,
    lambda key: key,
)
TWOX_256: Final = 4
CONCAT_FRONT_BYTES: Final = {2: 16, 5: 8, 6: 0}  # what stands before the key itself


@dataclass(frozen=True, slots=True)
class EventRecord:
    """What happened in a block; `extrinsic` is None outside of extrinsics."""

    extrinsic: int | None
    pallet: str
    name: str
    fields: Value


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    pallet: str
    name: str
    docs: str


class Metadata:
    """What the names of one runtime version mean in bytes."""

    def __init__(
        self,
        version: int,
        entries: tuple[Entry, ...],
        pallets: tuple[PalletInfo, ...],
        extensions: tuple[SignedExtension, ...],
        apis: tuple[Api, ...] = (),
    ) -> None:
        self.version = version
        self.types = Types(entries)
        self.pallets: Mapping[str, PalletInfo] = {pallet.name: pallet for pallet in pallets}
        self.extensions = tuple(extension.identifier for extension in extensions)
        self._apis = apis
        self._by_index = {pallet.index: pallet for pallet in pallets}

    @classmethod
    def decode(cls, data: bytes) -> "Metadata":
        """From the bytes that a node gives, `meta` in front. Raises `Malformed`."""
        if len(data) > METADATA_BYTES_MAX:
            raise Malformed(f"{len(data)} bytes of metadata", offset=0)
        reader = Reader(data)
        if reader.take(4) != MAGIC:
            raise Malformed("metadata starts with 'meta'", offset=0)
        (version,) = reader.take(1)
        rest = data[5:]
        if version == 14:
            old = BODY_V14.decode(rest)
            return cls(14, old.types, old.pallets, old.extrinsic.extensions)
        if version == 15:
            new = BODY_V15.decode(rest)
            pallets = tuple(documented.pallet for documented in new.pallets)
            return cls(15, new.types, pallets, new.extrinsic.extensions, new.apis)
        raise Malformed(f"metadata of version {version}, 14 or 15 is read", offset=4)

    # ---- calls

    def encode_call(self, pallet: str, name: str, arguments: Mapping[str, Value]) -> bytes:
        """The call's SCALE bytes, its pallet's index in front."""
        info, case = self._call(pallet, name)
        calls = _present(info.calls, f"{pallet} has no calls")
        fields = dict(arguments) if case.fields else None
        return bytes([info.index]) + self.types.encode(calls.type, {name: fields})

    def call_front(self, pallet: str, name: str) -> bytes:
        """The two bytes in front of a call's arguments, for who has these encoded already."""
        info, case = self._call(pallet, name)
        return bytes([info.index, case.index])

    def call_fields(self, pallet: str, name: str) -> tuple[str, ...]:
        """The names of a call's arguments, in order."""
        _, case = self._call(pallet, name)
        return tuple(field.name or str(place) for place, field in enumerate(case.fields))

    def _call(self, pallet: str, name: str) -> tuple[PalletInfo, Case]:
        info = self._pallet(pallet)
        known = self._cases(_present(info.calls, f"{pallet} has no calls"))
        for case in known:
            if case.name == name:
                return info, case
        names = ", ".join(sorted(case.name for case in known))
        raise Invalid(f"{pallet} has no call {name}", mend=f"use one of {names}")

    def decode_call(self, data: bytes) -> tuple[str, str, dict[str, Value]]:
        """Pallet, call and arguments. Raises `Malformed`."""
        reader = Reader(data)
        info = self._indexed(reader)
        calls = _present(info.calls, f"{info.name} has no calls")
        name, fields = _split(self.types.read(reader, calls.type))
        reader.finish()
        return info.name, name, fields if isinstance(fields, dict) else {}

    # ---- storage

    def storage_key(self, pallet: str, item: str, *keys: Value) -> bytes:
        """Where an item lies; with fewer keys than it has, the front of several."""
        entry = self.storage_entry(pallet, item)
        prefix = _present(self._pallet(pallet).storage, f"{pallet} stores nothing").prefix
        kinds = self._key_types(entry)
        if len(keys) > len(kinds):
            raise Invalid(
                f"{pallet}.{item} has {len(kinds)} keys, not {len(keys)}", mend="pass fewer"
            )
        key = storage_prefix(prefix, item)
        for (hasher, kind), value in zip(kinds, keys, strict=False):
            if not 0 <= hasher < len(HASHERS) or hasher == TWOX_256:
                raise Invalid(f"hasher {hasher} is unknown", mend="update this client")
            key += HASHERS[hasher](self.types.encode(kind, value))
        return key

    def decode_key(self, pallet: str, item: str, key: bytes) -> list[Value]:
        """The keys inside a map's whole key; `Invalid` where a hasher hides them."""
        reader = Reader(key)
        reader.take(32)
        found: list[Value] = []
        for hasher, kind in self._key_types(self.storage_entry(pallet, item)):
            if hasher not in CONCAT_FRONT_BYTES:
                raise Invalid(
                    f"keys of {pallet}.{item} are hashed", mend="ask for one key at a time"
                )
            reader.take(CONCAT_FRONT_BYTES[hasher])
            found.append(self.types.read(reader, kind))
        reader.finish()
        return found

    def decode_storage(self, pallet: str, item: str, data: bytes | None) -> Value:
        """A stored value; for None the item's default, or None where it has none."""
        entry = self.storage_entry(pallet, item)
        if data is None:
            if not entry.modifier:
                return None
            data = entry.default
        return self.types.decode(entry.shape.value, data)

    def storage_entry(self, pallet: str, item: str) -> StorageEntry:
        storage = _present(self._pallet(pallet).storage, f"{pallet} stores nothing")
        for entry in storage.entries:
            if entry.name == item:
                return entry
        names = ", ".join(sorted(entry.name for entry in storage.entries))
        raise Invalid(f"{pallet} stores no {item}", mend=f"use one of {names}")

    def _key_types(self, entry: StorageEntry) -> list[tuple[int, int]]:
        match entry.shape:
            case Plain():
                return []
            case Map(hashers, key, _):
                if len(hashers) == 1:
                    return [(hashers[0], key)]
                parts = getattr(self.types[key].definition, "items", ())
                if len(parts) != len(hashers):
                    raise Invalid(
                        f"{entry.name} has {len(hashers)} hashers", mend="ask another node"
                    )
                return list(zip(hashers, parts, strict=True))

    # ---- what a block did

    def decode_events(self, data: bytes | None) -> list[EventRecord]:
        """`System.Events` of a block."""
        found = self.decode_storage("System", "Events", data)
        if not isinstance(found, list) or len(found) > EVENTS_MAX:
            raise Invalid("System.Events is no list of events", mend="ask another node")
        return [_event(record) for record in found]

    def error(self, pallet_index: int, error: bytes) -> ErrorInfo:
        """What a dispatch error `{Module: {index, error}}` is called."""
        info = self._by_index.get(pallet_index)
        cases = self._cases(info.errors) if info and info.errors else ()
        for case in cases:
            if error[:1] == bytes([case.index]) and info:
                return ErrorInfo(info.name, case.name, " ".join(case.docs).strip())
        return ErrorInfo(
            info.name if info else f"pallet {pallet_index}", f"error 0x{error.hex()}", ""
        )

    def constant(self, pallet: str, name: str) -> Value:
        for constant in self._pallet(pallet).constants:
            if constant.name == name:
                return self.types.decode(constant.type, constant.value)
        raise Invalid(f"{pallet} has no constant {name}", mend="look it up in the metadata")

    def decode_api(self, api: str, method: str, data: bytes) -> Value:
        """What the runtime API `Api_method` answered (version 15 only)."""
        for each in self._apis:
            for known in each.methods:
                if (each.name, known.name) == (api, method):
                    return self.types.decode(known.output, data)
        raise Invalid(f"there is no runtime API {api}_{method}", mend="use a node with metadata 15")

    # ---- parts

    def _pallet(self, name: str) -> PalletInfo:
        if name not in self.pallets:
            names = ", ".join(sorted(self.pallets))
            raise Invalid(f"the chain has no pallet {name}", mend=f"use one of {names}")
        return self.pallets[name]

    def _indexed(self, reader: Reader) -> PalletInfo:
        (index,) = reader.take(1)
        if index not in self._by_index:
            raise Malformed(f"the chain has no pallet {index}", offset=reader.offset - 1)
        return self._by_index[index]

    def _cases(self, kind: OneType) -> tuple[Case, ...]:
        definition = self.types[kind.type].definition
        return definition.cases if isinstance(definition, Variant) else ()


def _present(found: T | None, what: str) -> T:
    if found is None:
        raise Invalid(what, mend="look the name up in the metadata")
    return found


def _split(value: Value) -> tuple[str, Value]:
    """A variant's name and its fields."""
    if isinstance(value, str):
        return value, None
    if isinstance(value, dict) and len(value) == 1:
        ((name, fields),) = value.items()
        return str(name), fields
    raise Invalid("a variant has one name", mend="ask a node whose metadata is whole")


def _event(record: Value) -> EventRecord:
    try:
        phase, event = record["phase"], record["event"]
    except (TypeError, KeyError):
        raise Invalid("an event record has phase and event", mend="ask another node") from None
    pallet, inner = _split(event)
    name, fields = _split(inner)
    at = phase.get("ApplyExtrinsic") if isinstance(phase, dict) else None
    return EventRecord(at, pallet, name, fields)


def opaque(data: bytes) -> bytes:
    """What a runtime API wraps in `Vec<u8>`."""
    reader = Reader(data)
    inner = reader.take(read_compact(reader))
    reader.finish()
    return inner


def optional_opaque(data: bytes) -> bytes | None:
    """What `Metadata_metadata_at_version` answers: `Option<Vec<u8>>`."""
    return opaque(data[1:]) if data[:1] == b"\1" else None
