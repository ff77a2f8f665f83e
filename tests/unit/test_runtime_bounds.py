"""Whatever bytes come in, the runtime answers with its own errors and nothing is left behind."""

import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.codec import Compact
from phala.crypto.signatures import sr25519_from_seed
from phala.errors import Invalid
from phala.frame import DispatchRefused, PalletError
from phala.frame.metadata import items
from phala.messages.calls import COMMAND_ENVELOPE, CommandEnvelope
from phala.messages.payloads.enclave import ContractFailed
from phala.messages.registration import PLATFORM_SIMULATED
from phala.messages.types import ContractId, Generation
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.extrinsic import Extrinsic
from phala.primitives.types import BALANCE, PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime import GenesisConfig, InvalidTransaction, Runtime
from phala.runtime.runtime import _ANSWERS
from phala.runtime.world import PALLETS
from phala.sdk.metadata import Metadata
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.testing.chain import MemoryChain
from phala.testing.worker import WorkerKeys, message_extrinsic

KEY = SimulatedKey(b"\1" * 32, b"\2" * 32)
ALICE = sr25519_from_seed(b"a" * 32)
RUNTIME_ID = Hash(b"r" * 32)
CONFIG = replace(
    GenesisConfig.dev(
        authority=b"g" * 32,
        simulated_root=KEY.public_root,
        measurement=measure(b"code"),
        runtime_id=RUNTIME_ID,
    ),
    balances=((AccountId(ALICE.public), Balance(1_000 * PHA)),),
)
RUNTIME = Runtime()
CHAIN = MemoryChain(CONFIG, RUNTIME)
CHAIN.block()
WORKER = WorkerKeys(
    b"w" * 32,
    CHAIN.genesis,
    SimulatedPlatform(measurement=measure(b"code"), key=KEY),
    PLATFORM_SIMULATED,
    RUNTIME_ID,
)


def transfer() -> bytes:
    dest = MULTI_ADDRESS.encode(MultiAddress.of(AccountId(b"b" * 32)))
    return bytes([5, 3]) + dest + Compact(BALANCE).encode(Balance(PHA))


def command() -> bytes:
    envelope = CommandEnvelope(2, Generation(1), None, BlockNumber(9), 28, b"sealed")
    return bytes([86, 21]) + b"c" * 32 + COMMAND_ENVELOPE.encode(envelope)


GOOD = [
    CHAIN.signed(ALICE, transfer(), 0),
    CHAIN.signed(ALICE, command(), 0),
    WORKER.register(CHAIN.header),
    message_extrinsic(WORKER.message(ContractFailed(ContractId(b"c" * 32)))),
]


def try_everywhere(data: bytes) -> None:
    with suppress(InvalidTransaction):
        CHAIN.validator().validate(data, check_signature=False)
    builder = CHAIN.open()
    before = builder._state.digest()
    try:
        builder.apply(data, check_signature=False)
    except InvalidTransaction:
        assert builder._state.digest() == before


@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    try_everywhere(data)


@given(st.binary(max_size=100), st.sampled_from(sorted(PALLETS)), st.integers(0, 30))
def test_any_bare_call_gets_an_answer(data: bytes, pallet: int, index: int) -> None:
    try_everywhere(Extrinsic(None, bytes([pallet, index]) + data).encode())


@given(st.binary(max_size=100), st.sampled_from(sorted(PALLETS)), st.integers(0, 30))
def test_any_signed_call_gets_an_answer(data: bytes, pallet: int, index: int) -> None:
    try_everywhere(CHAIN.signed(ALICE, bytes([pallet, index]) + data, 0))


@given(st.sampled_from(GOOD), st.data())
def test_any_alteration_gets_an_answer(good: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(good) - 1))
    altered = bytearray(good)
    altered[place] ^= data.draw(st.integers(1, 255))
    try_everywhere(bytes(altered))


@pytest.mark.parametrize("good", GOOD, ids=["transfer", "command", "register", "message"])
def test_every_cut_gets_an_answer(good: bytes) -> None:
    validator = CHAIN.validator()
    for size in range(0, len(good), max(1, len(good) // 200)):
        with pytest.raises(InvalidTransaction):
            validator.validate(good[:size], check_signature=False)


@given(st.sampled_from(sorted(_ANSWERS)), st.binary(max_size=200))
def test_any_question_gets_an_answer(method: str, data: bytes) -> None:
    with suppress(Invalid, InvalidTransaction):
        RUNTIME.call(CHAIN.state(), CHAIN.header.hash(), method, data)


# ---- declarations


@pytest.mark.parametrize("pallet", PALLETS.values(), ids=lambda pallet: pallet.name)
def test_every_error_and_event_of_a_pallet_has_its_number(pallet: Any) -> None:
    home = ".".join(pallet.__module__.split(".")[:3])  # its module, or its folder
    modules = [name for name in sys.modules if name == home or name.startswith(home + ".")]
    declared = {
        each
        for name in modules
        for each in vars(sys.modules[name]).values()
        if isinstance(each, type)
        and issubclass(each, PalletError)
        and each is not PalletError
        and each.__module__.startswith(home)
    }

    assert declared == set(pallet.errors.values())
    assert all(issubclass(each, DispatchRefused) for each in declared)


@pytest.mark.parametrize("version", [14, 15])
def test_an_independent_reader_finds_what_the_pallets_declare(version: int) -> None:
    read = Metadata.decode(RUNTIME.metadata(version))

    for pallet in PALLETS.values():
        for item in items(pallet):
            entry = read.storage_entry(pallet.name, item.name)
            assert entry.name == item.name
        for method in pallet.calls.values():
            assert read.call_front(pallet.name, method.__name__)
        for constant in pallet.constants:
            assert read.constant(pallet.name, constant.name) == constant.value
    assert read.constant("System", "SS58Prefix") == 30
