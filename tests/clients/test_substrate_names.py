"""Our pallets beside Substrate's own, by their metadata: what bears the same name is the same."""

from collections.abc import Iterator, Mapping

import pytest
from tests.clients.test_metadata import published

from phala.runtime import Runtime
from phala.sdk.metadata import Map, Metadata, OneType
from phala.sdk.portable import Array, Compacted, Composite, Primitive, Sequence, Tuple, Variant

DEPTH_MAX = 9
# Of each chain another: of `MultiAddress`, the index.
OWN = {"RuntimeCall", "OriginCaller", "RuntimeEvent", "MultiAddress", "ProxyType", "DispatchError"}
BYTES_OF_REASONS = {"Holds", "Freezes"}  # reasons are each chain's own


@pytest.fixture(scope="module")
def ours() -> Metadata:
    return Metadata.decode(Runtime().metadata(15))


@pytest.fixture(scope="module")
def theirs() -> Metadata:
    return Metadata.decode(published("v15", "substrate"))


def form(of: Metadata, type_id: int, depth: int = 0) -> str:
    """What a type comes to in SCALE, with the names of its fields."""
    entry, deeper = of.types[type_id], depth + 1
    if depth > DEPTH_MAX or (entry.path[-1:] and entry.path[-1] in OWN):
        return entry.path[-1] if entry.path else "deeper"
    match entry.definition:
        case Primitive(index):
            return f"primitive {index}"
        case Compacted(inner):
            return f"compact {form(of, inner, deeper)}"
        case Sequence(item):
            return f"[{form(of, item, deeper)}]"
        case Array(size, item):
            return f"[{form(of, item, deeper)}; {size}]"
        case Tuple(items):
            return f"({', '.join(form(of, each, deeper) for each in items)})"
        case Composite((only,)):
            return form(of, only.type, deeper)
        case Composite(fields):
            return f"{{{', '.join(f'{f.name}: {form(of, f.type, deeper)}' for f in fields)}}}"
        case Variant(cases):
            named = (
                (case.index, case.name, tuple(form(of, f.type, deeper) for f in case.fields))
                for case in cases
            )
            return f"<{sorted(named)}>"
        case other:
            return type(other).__name__


def table(of: Metadata, one: OneType | None) -> Mapping[str, tuple[object, ...]]:
    if one is None:
        return {}
    definition = of.types[one.type].definition
    assert isinstance(definition, Variant)
    return {
        case.name: (case.index, *((f.name, form(of, f.type)) for f in case.fields))
        for case in definition.cases
    }


def shared(ours: Metadata, theirs: Metadata) -> Iterator[str]:
    return (name for name in ours.pallets if name in theirs.pallets)


@pytest.mark.parametrize("kind", ["calls", "events", "errors"])
def test_what_bears_a_name_of_substrates_has_its_number_and_its_fields(
    ours: Metadata, theirs: Metadata, kind: str
) -> None:
    compared = 0
    for pallet in shared(ours, theirs):
        mine = table(ours, getattr(ours.pallets[pallet], kind))
        other = table(theirs, getattr(theirs.pallets[pallet], kind))
        for name in mine.keys() & other.keys():
            if (pallet, name) != ("Session", "set_keys"):  # of our own keys
                assert mine[name] == other[name], (pallet, name)
                compared += 1
    assert compared > 60


def test_storage_of_substrates_names_lies_where_and_is_what_it_is_there(
    ours: Metadata, theirs: Metadata
) -> None:
    compared = 0
    for pallet in shared(ours, theirs):
        mine, other = ours.pallets[pallet].storage, theirs.pallets[pallet].storage
        if mine is None or other is None:
            continue
        known = {entry.name: entry for entry in other.entries}
        for entry in mine.entries:
            if entry.name not in known or pallet == "Session" or entry.name in BYTES_OF_REASONS:
                continue
            one, two = entry.shape, known[entry.name].shape
            assert entry.modifier == known[entry.name].modifier, (pallet, entry.name)
            assert form(ours, one.value) == form(theirs, two.value), (pallet, entry.name)
            assert isinstance(one, Map) == isinstance(two, Map)
            if isinstance(one, Map) and isinstance(two, Map):
                assert one.hashers == two.hashers, (pallet, entry.name)
                assert form(ours, one.key) == form(theirs, two.key), (pallet, entry.name)
            compared += 1
    assert compared > 30
