"""What is generated from a descriptor does what the descriptor does, errors and all."""

import pickle
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.codec import (
    BOOL,
    U8,
    U16,
    U32,
    U64,
    U128,
    UNIT,
    Array,
    Bytes,
    Compact,
    Descriptor,
    Enum,
    Err,
    FixedBytes,
    Malformed,
    Newtype,
    Ok,
    Option,
    OutOfRange,
    Recursive,
    Registry,
    Result,
    Text,
    Truncated,
    Tuple,
    UInt,
    Vector,
    struct_of,
)
from phala.codec.registry import TypeDefCompact, TypeDefPrimitive, TypeDefSequence, TypeDefVariant
from phala.errors import Invalid, PhalaError


@dataclass(frozen=True, slots=True)
class Point:
    x: Annotated[int, U32]
    from_: Annotated[int, Compact(U64)]


@dataclass(frozen=True, slots=True)
class Even:
    """A record that refuses some of what its fields allow."""

    number: Annotated[int, U8]

    def __post_init__(self) -> None:
        if self.number & 1:
            raise Invalid(f"{self.number} is odd", mend="pass an even number")


@dataclass(frozen=True, slots=True)
class Leaf:
    value: Annotated[int, U8]


def _node() -> Descriptor[Any]:
    return TREE


INSIDE = Recursive(("Tree",), _node)


@dataclass(frozen=True, slots=True)
class Fork:
    branches: Annotated[tuple[object, ...], Vector(INSIDE, items_max=3)]


TREE = Enum(("Tree",), ((0, struct_of(Leaf, {})), (1, struct_of(Fork, {}))))

LEAVES: list[tuple[Descriptor[Any], st.SearchStrategy[Any]]] = [
    *(
        (UInt(bits), st.integers(0, (1 << bits) - 1).map(int))
        for bits in (8, 16, 32, 64, 128)
    ),
    *((Compact(kind), st.integers(0, (1 << kind.bits) - 1)) for kind in (U8, U16, U32, U128)),
    (Compact(U32), st.sampled_from([0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30])),
    (BOOL, st.booleans()),
    (UNIT, st.just(())),
    (Bytes(bytes_max=70), st.binary(max_size=70)),
    (FixedBytes(4), st.binary(min_size=4, max_size=4)),
    (Text(bytes_max=40), st.text(max_size=10)),
    (struct_of(Even, {}), st.integers(0, 127).map(lambda half: Even(2 * half))),
    (TREE, st.recursive(st.integers(0, 255).map(Leaf),
                        lambda inner: st.lists(inner, max_size=3).map(tuple).map(Fork))),
]  # fmt: skip


@st.composite
def typed(draw: st.DrawFn, depth: int = 3) -> tuple[Descriptor[Any], st.SearchStrategy[Any]]:
    """A random type, and its values."""
    if depth == 0:
        leaf: tuple[Descriptor[Any], st.SearchStrategy[Any]] = draw(st.sampled_from(LEAVES))
        return leaf
    inner, values = draw(typed(depth=depth - 1))
    match draw(st.integers(0, 7)):
        case 0:
            return Vector(inner, items_max=3), st.lists(values, max_size=3).map(tuple)
        case 1:
            return Array(inner, 2), st.tuples(values, values)
        case 2 if not isinstance(inner, Option):
            return Option(inner), st.none() | values
        case 3:
            return Newtype(("N",), inner), values
        case 4:
            other, others = draw(typed(depth=0))
            return Tuple((inner, other)), st.tuples(values, others)
        case 5:
            other, others = draw(typed(depth=0))
            return Result(inner, other), values.map(Ok) | others.map(Err)
        case 6:
            record: Any = dataclass(frozen=True)(
                type(
                    "Record",
                    (),
                    {"__annotations__": {"a": Annotated[object, inner], "b": Annotated[int, U8]}},
                )
            )
            return struct_of(record, {}), st.tuples(values, st.integers(0, 255)).map(
                lambda parts: record(*parts)
            )
        case _:
            return inner, values


def outcome(function: Any, *arguments: object) -> object:
    try:
        return function(*arguments)
    except PhalaError as error:
        return type(error), str(error)


@given(st.data())
def test_values_and_errors_agree(data: st.DataObject) -> None:
    descriptor, values = data.draw(typed())
    value = data.draw(values)

    encoded = descriptor.encode(value)

    assert encoded == descriptor.encode_plainly(value)
    assert descriptor.decode(encoded) == value
    cut = data.draw(st.integers(0, len(encoded)))
    at = data.draw(st.integers(0, max(len(encoded) - 1, 0)))
    flipped = bytearray(encoded)
    if flipped:
        flipped[at] ^= data.draw(st.integers(1, 255))
    for found in (encoded[:cut], encoded + b"\0", bytes(flipped), encoded[cut:]):
        expected = outcome(descriptor.decode_plainly, found)
        assert outcome(descriptor.decode, found) == expected
        for at in (0, 1, 3):
            expected = outcome(descriptor.decode_from_plainly, found, at)
            assert outcome(descriptor.decode_from, found, at) == expected


@given(st.data(), st.binary(max_size=60))
def test_garbage_meets_the_same_end(data: st.DataObject, garbage: bytes) -> None:
    descriptor, _ = data.draw(typed())

    assert outcome(descriptor.decode, garbage) == outcome(descriptor.decode_plainly, garbage)


@pytest.mark.parametrize(
    ("descriptor", "value"),
    [
        (U16, -1),
        (U16, 1 << 16),
        (Compact(U8), 256),
        (Compact(U8), -1),
        (Compact(U64), 1 << 64),
        (FixedBytes(2), b"abc"),
        (Bytes(bytes_max=2), b"abc"),
        (Text(bytes_max=2), "abc"),
        (Vector(U8, items_max=1), (1, 2)),
        (Array(U8, 2), (1,)),
        (Tuple((U8, U8)), (1,)),
        (Tuple((U8,)), (1, 2)),
        (TREE, Even(2)),
    ],
)
def test_what_does_not_fit_is_out_of_range(descriptor: Descriptor[Any], value: object) -> None:
    with pytest.raises(OutOfRange):
        descriptor.encode(value)
    with pytest.raises(OutOfRange):
        descriptor.encode_plainly(value)


def test_a_record_that_refuses_is_heard() -> None:
    with pytest.raises(Invalid, match="3 is odd"):
        struct_of(Even, {}).decode(b"\3")


def test_a_count_without_items_ends_at_once() -> None:
    huge = Vector(U8, items_max=2**29).encode_plainly  # the type allows what the bytes lack
    assert huge((1,)) == b"\4\1"

    with pytest.raises(Truncated):
        Vector(U8, items_max=2**29).decode(b"\xfe\xff\xff\x7f")


def test_a_result_and_an_option_of_a_third_kind_are_refused() -> None:
    for descriptor in (Result(U8, U8), Option(U8), TREE):
        with pytest.raises(Malformed):
            descriptor.decode(b"\2\0")


def nested(levels: int) -> bytes:
    return b"\1\4" * levels + b"\0\7"


def test_nesting_has_a_limit() -> None:
    assert TREE.encode(TREE.decode(nested(64))) == nested(64)
    for levels in (65, 10_000):
        with pytest.raises(Malformed, match="more than 64 values, one inside the other"):
            TREE.decode(nested(levels))


def test_many_beside_each_other_are_not_deep() -> None:
    wide = Fork((Fork((Leaf(1),) * 3),) * 3)

    many = Vector(TREE, items_max=100)

    assert many.decode(many.encode((wide,) * 100)) == (wide,) * 100


def test_a_recursive_type_describes_itself_by_its_own_id() -> None:
    registry = Registry()

    tree = registry.id_of(TREE)

    assert registry.id_of(INSIDE) == tree
    definition = registry[tree].definition
    assert isinstance(definition, TypeDefVariant)
    (branches,) = definition.variants[1].fields
    assert registry[branches.type].definition == TypeDefSequence(tree)
    assert len(registry.types()) == 3  # u8, the tree, its list


def test_plain_types_describe_themselves_under_rusts_names() -> None:
    registry = Registry()

    described = {
        name: registry[registry.id_of(each)].definition
        for name, each in (("bool", BOOL), ("str", Text(bytes_max=1)))
    }
    compact = registry[registry.id_of(Compact(U32))].definition
    option = registry[registry.id_of(Option(U8))]

    assert described == {name: TypeDefPrimitive(name) for name in ("bool", "str")}
    assert compact == TypeDefCompact(registry.id_of(U32))
    assert option.path == ("Option",)
    with pytest.raises(AssertionError, match="asks for the whole"):
        INSIDE.type_info(registry)


def test_results_and_arrays_describe_themselves() -> None:
    registry = Registry()

    result = registry[registry.id_of(Result(UNIT, Array(U16, 3)))]

    assert result.path == ("Result",)
    assert [name for name, _ in result.params] == ["T", "E"]


def test_a_descriptor_that_has_generated_still_compares_and_pickles() -> None:
    point = struct_of(Point, {})
    assert point.decode(point.encode(Point(1, 2))) == Point(1, 2)

    other = pickle.loads(pickle.dumps(point))

    assert other == struct_of(Point, {})
    assert other.encode(Point(1, 2)) == b"\1\0\0\0\x08"
