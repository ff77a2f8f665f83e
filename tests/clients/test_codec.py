"""Our codec beside four others: random values of every type of the runtime, byte for byte.

The values are made by `arbitrary.py` from the specification alone. Each implementation decodes them
and encodes what it understood; so do ours, the consensus' descriptors and the SDK's types. More of
them, or others: `PHALA_CODEC_ROUNDS=200 PHALA_CODEC_SEED=7`.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tests.clients import metadata_forms as forms
from tests.clients import tools
from tests.clients.arbitrary import Arbitrary, compact, edges

from phala.codec import Descriptor, Malformed, Reader, encode_compact
from phala.codec.compact import read_compact
from phala.frame import metadata as described
from phala.primitives.address import MULTI_ADDRESS, MULTI_SIGNATURE
from phala.primitives.extrinsic import Era, decode_extrinsic, read_era
from phala.runtime import Runtime
from phala.runtime.runtime import own_metadata
from phala.runtime.world import CALLS
from phala.sdk import metadata as sdk

pytestmark = pytest.mark.timeout(240)

ROUNDS = int(os.environ.get("PHALA_CODEC_ROUNDS", "5"))  # values of each type
CALLS_PER_ROUND = 60
SEED = int(os.environ.get("PHALA_CODEC_SEED", "1"))

OTHERS = {
    "@polkadot/types": ("codec.mjs", "@polkadot/types"),
    "substrate-bindings": ("codec.mjs", "substrate-bindings"),
    "scalecodec": ("substrate-interface",),
    "cyscale": ("async-substrate-interface",),
}
# What others decode, but do not encode as they decoded it. Calls by themselves they all do.
EVENTS_AND_KIN = {"RuntimeEvent", "RuntimeCall", "Call", "Data", "Era"}
CANNOT: dict[str, set[str]] = {
    "@polkadot/types": set(),
    "substrate-bindings": {"ModuleError"},
    "scalecodec": EVENTS_AND_KIN,
    "cyscale": EVENTS_AND_KIN,
}
# By way of JSON @polkadot/types says less than it read: a call's number is text, Some(empty) none.
NOT_PLAIN = {"RuntimeEvent", "RuntimeCall", "Call", "Option"}
# Bounds are no part of the metadata; neither is that no call is kept as it was of old.
BOUNDS = ("at most", "a kept call has no variant 0")


class Captured(described.ChainRegistry):
    """Keeps what describes each type, by the type's number."""

    descriptors: dict[int, Any] = {}  # noqa: RUF012 - the only one there is

    def id_of(self, descriptor: Any) -> Any:
        number = super().id_of(descriptor)
        Captured.descriptors[number] = descriptor
        return number


@pytest.fixture(scope="module")
def raw() -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(described, "ChainRegistry", Captured)
        own_metadata.cache_clear()  # others may have had it made
        return Runtime().metadata(14)


@pytest.fixture(scope="module")
def form(raw: bytes) -> Any:
    return forms.from_ours(sdk.BODY_V14.decode(raw[5:]))


@pytest.fixture(scope="module")
def values(form: Any) -> Arbitrary:
    types = {each["id"]: each for each in form["types"]}
    errors = [
        (pallet["index"], error["index"])
        for pallet in form["pallets"]
        if pallet["errors"] is not None
        for error in types[pallet["errors"]]["definition"][1]
    ]
    return Arbitrary(form["types"], errors, random.Random(SEED))


@pytest.fixture(scope="module")
def call(form: Any) -> int:
    """The number of `RuntimeCall`."""
    (number,) = (each["id"] for each in form["types"] if each["path"][-1:] == ["RuntimeCall"])
    assert isinstance(number, int)
    return number


@pytest.fixture(scope="module")
def cases(values: Arbitrary, call: int) -> list[tuple[int, bytes]]:
    """Values of every type, then calls."""
    units = [each for each in values.types if values.types[each]["definition"] == ["tuple", []]]
    found = [
        (number, values.value(number))
        for number, each in values.types.items()
        if each["path"][-1:] != ["UncheckedExtrinsic"]
        and each["definition"] not in [["compact", unit] for unit in units]
        for _ in range(ROUNDS)
    ]
    found += [(call, values.value(call)) for _ in range(ROUNDS * CALLS_PER_ROUND)]
    assert len(found) > 1_500
    return found


def left_out(values: Arbitrary, number: int, other: str) -> bool:
    """One reads addresses of all five kinds: `Compact<()>` and short ones confuse the rest."""
    if values.types[number]["path"][-1:] == ["MultiAddress"]:
        return other != "substrate-bindings"
    return any(values.holds(number, each) for each in CANNOT[other])


@pytest.mark.parametrize("other", OTHERS)
def test_others_read_and_write_the_same_bytes(
    other: str,
    raw: bytes,
    cases: list[tuple[int, bytes]],
    values: Arbitrary,
    call: int,
    tmp_path: Path,
) -> None:
    asked = [
        (
            "Call" if number == call and other != "substrate-bindings" else number,
            data.hex(),
            not any(values.holds(number, each) for each in NOT_PLAIN),
        )
        for number, data in cases
        if number == call or not left_out(values, number, other)
    ]
    assert len(asked) > len(cases) * 4 // 5
    (tmp_path / "metadata.scale").write_bytes(raw)
    (tmp_path / "cases.json").write_text(json.dumps(asked))
    files = str(tmp_path / "metadata.scale"), str(tmp_path / "cases.json")
    first, *rest = OTHERS[other]
    command = (
        (tools.node_js(), first, *rest, *files)
        if rest
        else (tools.python_of(first), "python/codec.py", *files)
    )
    with tools.running(*command) as script:
        answers = tools.told(script)
    wrong = [
        (number, data, answer)
        for (number, data, _), answer in zip(asked, answers, strict=True)
        if data != answer
    ]
    assert wrong == [], f"seed {SEED}"


def test_the_descriptors_of_consensus_read_and_write_the_same_bytes(
    cases: list[tuple[int, bytes]],
) -> None:
    """By what is generated and by the definition; some types are in metadata for others alone."""
    done, refused = set(), []
    for number, data in cases:
        descriptor = Captured.descriptors[number]
        if not isinstance(descriptor, Descriptor):
            continue
        try:
            value = descriptor.decode(data)
        except AssertionError:
            continue  # a type for the metadata alone
        except Malformed as error:
            refused.append(error.what)
            continue
        assert descriptor.encode(value) == data
        assert descriptor.decode_plainly(data) == value
        assert descriptor.encode_plainly(value) == data
        done.add(number)
    assert len(done) > 200
    assert [each for each in refused if not any(bound in each for bound in BOUNDS)] == []
    assert len(refused) < len(cases) // 20


def test_the_calls_of_consensus_read_and_write_the_same_bytes(
    cases: list[tuple[int, bytes]], call: int
) -> None:
    done, refused = 0, []
    for number, data in cases:
        if number != call:
            continue
        try:
            read = CALLS.decode(data)
        except Malformed as error:
            refused.append(error.what)
            continue
        assert (read.pallet, read.index) == (data[0], data[1])
        _, arguments, *_ = CALLS._table[data[:2]]
        assert data[:2] + arguments.encode(read.arguments) == data
        done += 1
    assert [each for each in refused if not any(bound in each for bound in BOUNDS)] == []
    assert done > ROUNDS * CALLS_PER_ROUND * 3 // 4


def test_the_sdk_reads_and_writes_the_same_bytes(
    raw: bytes, cases: list[tuple[int, bytes]]
) -> None:
    types = sdk.Metadata.decode(raw).types
    for number, data in cases:
        if types[number].path[-1:] == ("Era",):
            continue  # by hand, like extrinsics
        assert types.encode(number, types.decode(number, data)) == data


# ---- what a decoder must refuse


def test_every_number_has_one_compact_form() -> None:
    for number in edges(128):
        assert encode_compact(number) == compact(number)
        reader = Reader(compact(number))
        assert read_compact(reader) == number
        reader.finish()
        for longer in longer_forms(number):
            with pytest.raises(Malformed):
                read_compact(Reader(longer))


def longer_forms(number: int) -> list[bytes]:
    """The number in the modes of greater ones."""
    forms_of = [
        (number << 2 | mode).to_bytes(size, "little")
        for mode, size in ((1, 2), (2, 4))
        if number < 1 << 8 * size - 2
    ]
    forms_of += [
        bytes([size - 4 << 2 | 3]) + number.to_bytes(size, "little")
        for size in range(4, 67)
        if number < 1 << 8 * size
    ]
    return [each for each in forms_of if each != compact(number)]


def test_bytes_behind_a_value_are_refused(cases: list[tuple[int, bytes]]) -> None:
    for number, data in cases[::ROUNDS]:
        descriptor = Captured.descriptors[number]
        if isinstance(descriptor, Descriptor):
            with pytest.raises((Malformed, AssertionError)):
                descriptor.decode(data + b"\0")
    with pytest.raises(Malformed):
        CALLS.decode(cases[-1][1] + b"\0")


def test_what_ends_too_early_is_refused(cases: list[tuple[int, bytes]], call: int) -> None:
    for number, data in cases:
        if number == call and len(data) < 200:
            for cut in range(len(data)):
                with pytest.raises(Malformed):
                    CALLS.decode(data[:cut])


@pytest.mark.parametrize("depth", [100, 10_000, 1_000_000])
def test_calls_inside_calls_end_somewhere(depth: int, form: Any) -> None:
    (utility,) = (each["index"] for each in form["pallets"] if each["name"] == "Utility")
    remark = bytes([0, 0, 0])
    with pytest.raises(Malformed):
        CALLS.decode(bytes([utility, 0, 4]) * depth + remark)  # batch([batch([…])])


def test_eras_of_two_bytes_are_all_of_their_forms_and_no_other(raw: bytes, tmp_path: Path) -> None:
    read: dict[str, Era] = {}
    for number in range(1 << 16):
        data = number.to_bytes(2, "little")
        if data[0] == 0:
            continue  # immortal, of one byte
        try:
            reader = Reader(data)
            era = read_era(reader)
            reader.finish()
        except Malformed:
            continue
        assert era.encode() == data
        assert era.period in {1 << each for each in range(2, 17)}
        assert era.phase < era.period
        read[data.hex()] = era
    # Of a period of 2^n blocks, n from 2 on, there are 2^n phases, at most 2^12.
    assert len(read) == sum(min(1 << each, 1 << 12) for each in range(2, 17))

    (tmp_path / "metadata.scale").write_bytes(raw)
    (tmp_path / "eras.json").write_text(json.dumps(list(read)))
    with tools.running(tools.node_js(), "eras.mjs", str(tmp_path / "eras.json")) as script:
        said = tools.told(script)
    assert said == [[era.period, era.phase] for era in read.values()]


# ---- extrinsics


def test_signed_extrinsics_are_the_same_to_others(
    values: Arbitrary, raw: bytes, call: int, tmp_path: Path
) -> None:
    """Each part as an other reads it, and the whole as it writes it."""
    made = [signed(values, call) for _ in range(ROUNDS * 20)]
    (tmp_path / "metadata.scale").write_bytes(raw)
    (tmp_path / "extrinsics.json").write_text(json.dumps([each.hex() for each in made]))
    files = str(tmp_path / "metadata.scale"), str(tmp_path / "extrinsics.json")
    with tools.running(tools.node_js(), "extrinsics.mjs", *files) as script:
        said = tools.told(script)
    for data, other in zip(made, said, strict=True):
        ours = decode_extrinsic(data)
        assert ours.signature is not None
        assert ours.encode() == data
        assert other == {
            "whole": data.hex(),
            "signer": MULTI_ADDRESS.encode(ours.signature.signer).hex(),
            "signature": MULTI_SIGNATURE.encode(ours.signature.signature).hex(),
            "era": ours.signature.era.encode().hex(),
            "nonce": ours.signature.nonce,
            "tip": str(ours.signature.tip),
            "call": ours.call.hex(),
        }


def signed(values: Arbitrary, call: int) -> bytes:
    """Source: substrate's `generic::UncheckedExtrinsic`, version 4, with the classic extensions."""
    chance = values.chance
    kind, size = chance.choice(((0, 64), (1, 64), (2, 65)))
    era = values.variant(["Era"], [], 0)
    body = (
        b"\x84\0" + chance.randbytes(32) + bytes([kind]) + chance.randbytes(size)
        + era + compact(chance.choice(edges(32))) + compact(chance.choice(edges(128)))
        + values.value(call)
    )  # fmt: skip
    return compact(len(body)) + body
