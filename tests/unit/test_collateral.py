"""Vendors' collateral on the chain: who brings it, what replaces what, when it ends."""

import datetime as dt
import hashlib
import json
import random
from contextlib import suppress

import pytest
from tests.unit.attesting import ROOT
from tests.unit.hardware import DAY_MS, Ground, ground

from phala.attest.kept import ensure_plain, plain
from phala.codec import U32, Vector
from phala.frame import BadOrigin, Root, Signed
from phala.messages.collateral import (
    AMD,
    INTEL,
    ISSUE,
    AmdItems,
    CollateralKey,
    IntelItems,
    IssueKey,
    issue_key,
    items_key,
    numbers_key,
)
from phala.messages.state import (
    REASON_COLLATERAL,
    REASON_FLOOR,
    WORKER_ACTIVE,
    WORKER_STALE,
    WORKER_SUSPENDED,
)
from phala.pallets.collateral import (
    MANIFEST,
    NUMBERS_MAX,
    CollateralExpired,
    CollateralLapsed,
    CollateralPruned,
    FloorRaised,
)
from phala.pallets.collateral.errors import (
    CollateralNotFound,
    FloorNotRaised,
    GraceTooLong,
    ManifestKnown,
    ManifestNotAllowed,
)
from phala.pallets.registry.records import WorkerFresh, WorkerStale, WorkerSuspended
from phala.primitives.extrinsic import Extrinsic
from phala.primitives.types import AccountId, Hash
from phala.runtime import InvalidTransaction, Problem
from phala.runtime.world import World
from phala.testing.amd_pki import INTERMEDIATE, SimulatedAmd
from phala.testing.pallets import refused as refused_by
from phala.testing.vendors import SUBMIT_AMD, Hardware, Vendors, submit_amd, submit_intel
from phala.testing.x509 import BEGIN

REFUSED, NOT_NEWS, BELOW_FLOOR, OLDER = 0, 1, 2, 3
DAY = dt.timedelta(days=1)
START = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)  # before the chain's first block, of 28 May


@pytest.fixture
def site() -> Ground:
    return ground()


def tdx_key(site: Ground) -> CollateralKey:
    return CollateralKey(2, 1, site.vendors.tdx.fmspc)


def refused(site: Ground, extrinsic: bytes) -> int:
    with pytest.raises(InvalidTransaction) as pool:
        site.chain.validator().validate(extrinsic)
    with pytest.raises(InvalidTransaction) as block:
        site.chain.block(extrinsic)
    assert pool.value.problem == block.value.problem == Problem.CUSTOM
    assert pool.value.custom == block.value.custom
    return int(block.value.custom)


def numbers(site: Ground) -> tuple[int, ...]:
    data = site.chain.pairs.get(numbers_key(tdx_key(site)))
    return () if data is None else tuple(Vector(U32, items_max=NUMBERS_MAX).decode(data))


def test_anyone_brings_it_for_nothing_and_everyone_reads_it_by_its_key(site: Ground) -> None:
    items = site.vendors.tdx.collateral(begin=START, days=30)
    site.chain.block(submit_intel(items))

    key = IssueKey(tdx_key(site), 20)
    issue = ISSUE.decode(site.chain.pairs[issue_key(key)])
    assert issue.issued == (int(START.timestamp() * 1000),) * 4
    assert issue.expires == int((START + 30 * DAY).timestamp() * 1000)
    assert INTEL.decode(site.chain.pairs[items_key(key)]).by_name() == items
    assert numbers(site) == (20,)


def test_another_vendors_word_is_no_collateral(site: Ground) -> None:
    assert refused(site, submit_intel(Vendors().tdx.collateral())) == REFUSED


@pytest.mark.parametrize("item", sorted(IntelItems.__slots__))
def test_an_altered_item_is_no_collateral(site: Ground, item: str) -> None:
    items = site.vendors.tdx.collateral()
    middle = len(items[item]) // 2
    changed = items[item][:middle] + b"!" + items[item][middle + 1 :]

    assert refused(site, submit_intel({**items, item: changed})) == REFUSED


@pytest.mark.parametrize("vendor", ["intel", "amd"])
def test_altered_collateral_is_refused_by_a_number_or_is_the_same(
    site: Ground, vendor: str
) -> None:
    """Any byte of the extrinsic, and any cut of it: nothing but a typed refusal."""
    vendors, chance = site.vendors, random.Random(7)
    good = submit_intel(vendors.tdx.collateral()) if vendor == "intel" else submit_amd(vendors.amd)
    site.chain.validator().validate(good)
    validator = site.chain.validator()
    taken = 0
    for _ in range(400):
        changed = bytearray(good)
        changed[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        with suppress(InvalidTransaction):
            validator.validate(bytes(changed) if chance.random() < 0.9 else bytes(changed[:-5]))
            taken += 1
    assert taken < 100, "newlines and roots within chains alone are read in two forms"


@pytest.mark.parametrize("chain", ["tcb_info_issuer_chain", "pck_crl_issuer_chain"])
@pytest.mark.parametrize(
    "layout",
    [(b"\n", b"\n\n"), (b"\n", b"\r\n"), (b"-----\nMII", b"-----MII"), (b"E-----\n", b"E-----")],
)
def test_nobody_poisons_collateral_by_the_layout_of_a_chain(
    site: Ground, chain: str, layout: tuple[bytes, bytes]
) -> None:
    """Blank lines are in nobody's signature, and the library that judges quotes refuses them: kept
    here, they would keep a product's workers out until its vendor's next issue."""
    items = site.vendors.tdx.collateral()
    odd = {**items, chain: items[chain].replace(*layout)}

    assert refused(site, submit_intel(odd)) == REFUSED
    assert plain(odd) == items
    site.chain.block(submit_intel(plain(odd)))
    assert site.register(site.worker(Hardware(site.vendors.tdx))).state == WORKER_ACTIVE


def test_genuine_collateral_is_of_the_one_layout() -> None:
    for path in sorted((ROOT / "vectors" / "tee" / "intel" / "collateral").glob("*.json")):
        items = {name: text.encode() for name, text in json.loads(path.read_text()).items()}
        ensure_plain(items)


def test_what_the_chain_has_is_no_news(site: Ground) -> None:
    items = submit_intel(site.vendors.tdx.collateral())
    site.chain.block(items)

    assert refused(site, items) == NOT_NEWS


def test_a_later_issue_of_the_same_number_is_welcome(site: Ground) -> None:
    for day in (0, 1, 20):
        begin = START + day * DAY
        site.chain.block(submit_intel(site.vendors.tdx.collateral(begin=begin, days=30)))

    issue = ISSUE.decode(site.chain.pairs[issue_key(IssueKey(tdx_key(site), 20))])
    assert issue.issued[0] == int((START + 20 * DAY).timestamp() * 1000)


def test_an_older_issue_of_the_same_number_is_refused(site: Ground) -> None:
    site.chain.block(submit_intel(site.vendors.tdx.collateral(begin=START + DAY)))

    assert refused(site, submit_intel(site.vendors.tdx.collateral(begin=START))) == NOT_NEWS


@pytest.mark.parametrize(
    "older",
    [
        ("pck_crl",),
        ("root_ca_crl",),
        ("qe_identity", "qe_identity_signature", "qe_identity_issuer_chain"),
    ],
)
def test_a_later_issue_with_an_older_part_is_refused(site: Ground, older: tuple[str, ...]) -> None:
    """Else a list from before a key was revoked would bring the key back."""
    tdx = site.vendors.tdx
    site.chain.block(submit_intel(tdx.collateral(begin=START + DAY)))
    old, new = tdx.collateral(begin=START), tdx.collateral(begin=START + 2 * DAY)

    mixed = {**new, **{name: old[name] for name in older}}

    assert refused(site, submit_intel(mixed)) == NOT_NEWS


def test_an_issue_of_the_future_or_the_past_is_refused(site: Ground) -> None:
    tdx = site.vendors.tdx
    assert refused(site, submit_intel(tdx.collateral(begin=START + 300 * DAY))) == REFUSED
    assert refused(site, submit_intel(tdx.collateral(days=30))) == REFUSED


def test_numbers_coexist_as_many_as_fit(site: Ground) -> None:
    tdx = site.vendors.tdx
    for number in (20, 18, 22, 19):
        site.chain.block(submit_intel(tdx.collateral(number=number)))
    assert numbers(site) == (18, 19, 20, 22)
    assert refused(site, submit_intel(tdx.collateral(number=17))) == OLDER

    site.chain.block(submit_intel(tdx.collateral(number=21)))

    assert numbers(site) == (19, 20, 21, 22)
    assert issue_key(IssueKey(tdx_key(site), 18)) not in site.chain.pairs


@pytest.mark.parametrize("earlier_last", [False, True])
def test_a_revoked_key_finds_no_earlier_evaluation_with_an_older_list(
    site: Ground, *, earlier_last: bool
) -> None:
    """Evaluations coexist, and an earlier one is tried where a later one refuses; but lists of
    revoked keys are of no evaluation: the latest of them counts with each."""
    tdx = site.vendors.tdx
    early = submit_intel(tdx.collateral(number=19))
    late = submit_intel(
        tdx.collateral(number=20, revoked=(tdx.pck.serial_number,), begin=START, days=60)
    )
    for each in (late, early) if earlier_last else (early, late):
        site.chain.block(each)
    assert numbers(site) == (19, 20)

    with pytest.raises(InvalidTransaction, match="evidence"):
        site.register(site.worker(Hardware(tdx)))


def test_a_revoked_key_finds_no_other_product_with_an_older_list(site: Ground) -> None:
    """Who holds it must not hope that nobody brings what is new to his product."""
    tdx = site.vendors.tdx
    other = site.vendors.machine(fmspc=bytes(5) + b"\x01")
    site.chain.block(submit_intel(tdx.collateral()))
    late = other.collateral(revoked=(tdx.pck.serial_number,), begin=START, days=60)
    site.chain.block(submit_intel(late))

    with pytest.raises(InvalidTransaction, match="evidence"):
        site.register(site.worker(Hardware(tdx)))
    assert site.register(site.worker(Hardware(other), 2)).state == WORKER_ACTIVE
    site.chain.block(submit_intel(tdx.collateral(number=21)))
    with pytest.raises(InvalidTransaction, match="evidence"):
        site.register(site.worker(Hardware(tdx)))


def test_amds_later_list_counts_for_both_kinds_of_keys(site: Ground) -> None:
    """One root, one list: it comes with the chain of the one kind, and revokes the other's."""
    amd, vlek = site.vendors.amd, SimulatedAmd(signer="VLEK")
    site.chain.block(submit_amd(amd, begin=START - DAY))
    early = site.worker(Hardware(amd))
    assert site.register(early).state == WORKER_ACTIVE
    later = AmdItems(vlek.revoked((INTERMEDIATE,), begin=START), vlek.chain())
    site.chain.block(Extrinsic(None, SUBMIT_AMD + AMD.encode(later)).encode())

    early.epoch += 1
    with pytest.raises(InvalidTransaction, match="evidence"):
        site.register(early)


def test_products_and_kinds_have_collateral_of_their_own(site: Ground) -> None:
    other = site.vendors.machine(fmspc=b"\x55" * 6)
    site.chain.block(
        submit_intel(site.vendors.tdx.collateral()),
        submit_intel(site.vendors.sgx.collateral()),
        submit_intel(other.collateral()),
        submit_amd(site.vendors.amd),
        submit_amd(SimulatedAmd(signer="VLEK")),
    )
    found: list[CollateralKey] = []
    site.govern(lambda world: found.extend(world.collateral.keys.get()))
    assert found == [
        CollateralKey(2, 1, b"\xff\xff\xff\0\0\0"),
        CollateralKey(1, 1, b"\xff\xff\xff\0\0\0"),
        CollateralKey(2, 1, b"\x55" * 6),
        CollateralKey(3, 0, b"\2"),
        CollateralKey(3, 1, b"\2"),
    ]


def test_amds_list_is_refreshed_and_never_older(site: Ground) -> None:
    amd = site.vendors.amd
    site.chain.block(submit_amd(amd, begin=START))
    assert refused(site, submit_amd(amd, begin=BEGIN)) == NOT_NEWS

    site.chain.block(submit_amd(amd, begin=START + DAY))


def test_the_pool_takes_one_submission_of_an_issue_at_a_time(site: Ground) -> None:
    validator = site.chain.validator()
    first, second = (
        validator.validate(submit_intel(site.vendors.tdx.collateral(begin=begin)))
        for begin in (START, START + DAY)
    )
    assert first.provides == second.provides


def test_collateral_is_nobodys_to_sign_for(site: Ground) -> None:
    items = IntelItems(**site.vendors.tdx.collateral())

    def act(world: World) -> None:
        with pytest.raises(BadOrigin):
            world.collateral.submit_intel(Signed(AccountId(bytes(32))), items)

    site.govern(act)


# ---- governance


def test_a_raised_floor_lets_both_judge_until_its_grace_ends(site: Ground) -> None:
    tdx = site.vendors.tdx
    site.chain.block(submit_intel(tdx.collateral(number=20)))
    early, late = (site.worker(Hardware(tdx), seed) for seed in (1, 2))
    assert site.register(early).state == WORKER_ACTIVE

    events = site.govern(lambda world: world.collateral.raise_floor(Root(), 21, 5 * DAY_MS))
    assert any(isinstance(each, FloorRaised) for each in events)
    events = site.pass_time(0)
    assert WorkerStale(early.worker, REASON_FLOOR) in events
    info = site.register(late)
    assert (info.state, info.reason, info.number) == (WORKER_STALE, REASON_FLOOR, 20)

    site.chain.block(submit_intel(tdx.collateral(number=21)))
    early.epoch = 2
    assert (site.register(early).state, site.info(early.worker).number) == (WORKER_ACTIVE, 21)
    events = site.pass_time(5 * DAY_MS)

    assert CollateralPruned(tdx_key(site), 20) in events
    assert numbers(site) == (21,)
    assert WorkerSuspended(late.worker, REASON_FLOOR) in events
    assert site.info(late.worker).state == WORKER_SUSPENDED
    assert site.info(early.worker).state == WORKER_ACTIVE
    assert refused(site, submit_intel(tdx.collateral(number=20))) == BELOW_FLOOR
    late.epoch = 2
    assert site.register(late).state == WORKER_ACTIVE


def test_a_later_raise_does_not_put_off_an_earlier_one(site: Ground) -> None:
    """An urgent floor waits a day; another one must not give old platforms two weeks instead."""

    def act(world: World) -> None:
        pallet = world.collateral
        pallet.raise_floor(Root(), 21, DAY_MS)
        with refused_by(GraceTooLong, pallet.block):
            pallet.raise_floor(Root(), 22, DAY_MS + 1)
        pallet.raise_floor(Root(), 22, DAY_MS)

    site.govern(act)
    site.pass_time(DAY_MS)
    assert refused(site, submit_intel(site.vendors.tdx.collateral(number=21))) == BELOW_FLOOR
    site.govern(lambda world: world.collateral.raise_floor(Root(), 23, 14 * DAY_MS))
    site.chain.block(submit_intel(site.vendors.tdx.collateral(number=22)))


def test_a_floor_only_rises_and_governance_alone_raises_it(site: Ground) -> None:
    def act(world: World) -> None:
        pallet = world.collateral
        pallet.raise_floor(Root(), 21, 0)
        with refused_by(FloorNotRaised, pallet.block):
            pallet.raise_floor(Root(), 21, 0)
        with refused_by(GraceTooLong, pallet.block):
            pallet.raise_floor(Root(), 22, 91 * DAY_MS)
        with pytest.raises(BadOrigin):
            pallet.raise_floor(Signed(AccountId(bytes(32))), 22, 0)
        with pytest.raises(BadOrigin):
            pallet.set_grace(Signed(AccountId(bytes(32))), 0)
        with refused_by(CollateralNotFound, pallet.block):
            pallet.remove(Root(), IssueKey(tdx_key(site), 20))

    site.govern(act)


def test_expired_collateral_lets_nobody_register_and_marks_workers_stale(site: Ground) -> None:
    tdx = site.vendors.tdx
    site.chain.block(submit_intel(tdx.collateral(begin=START, days=30)))
    worker = site.worker(Hardware(tdx))
    site.register(worker)

    events = site.pass_time(4 * DAY_MS)

    assert CollateralExpired(tdx_key(site)) in events
    assert WorkerStale(worker.worker, REASON_COLLATERAL) in events
    with pytest.raises(InvalidTransaction) as refusal:
        site.chain.block(site.worker(Hardware(tdx), 2).register(site.chain.header))
    assert refusal.value.custom == 16  # CollateralMissing

    site.chain.block(submit_intel(tdx.collateral(begin=START + 29 * DAY, days=30)))
    events = site.pass_time(0)
    assert WorkerFresh(worker.worker) in events
    assert site.info(worker.worker).state == WORKER_ACTIVE


def test_expired_collateral_suspends_only_after_a_grace(site: Ground) -> None:
    tdx = site.vendors.tdx
    site.govern(lambda world: world.collateral.set_grace(Root(), 2 * DAY_MS))
    site.chain.block(submit_intel(tdx.collateral(begin=START, days=30)))
    worker = site.worker(Hardware(tdx))
    site.register(worker)
    site.pass_time(4 * DAY_MS)
    assert site.info(worker.worker).state == WORKER_STALE

    events = site.pass_time(2 * DAY_MS)

    assert CollateralLapsed(tdx_key(site)) in events
    assert WorkerSuspended(worker.worker, REASON_COLLATERAL) in events
    site.chain.block(submit_intel(tdx.collateral(begin=START + 29 * DAY, days=30)))
    site.pass_time(0)
    assert site.info(worker.worker).state == WORKER_SUSPENDED, "until it attests again"
    worker.epoch = 2
    assert site.register(worker).state == WORKER_ACTIVE


# ---- manifests of devices


def test_a_manifest_is_brought_once_governance_listed_its_hash(site: Ground) -> None:
    document = b"<manifest/>"
    named = Hash(hashlib.sha256(document).digest())
    bring = Extrinsic(None, bytes([87, 2]) + MANIFEST.encode(document)).encode()
    assert refused(site, bring) == 8  # ManifestNotAllowed
    site.govern(lambda world: world.collateral.allow_manifest(Root(), named))
    site.chain.block(bring)
    assert refused(site, bring) == 9  # ManifestKnown

    def act(world: World) -> None:
        pallet = world.collateral
        assert pallet.manifests_of((named,)) == (document,)
        with refused_by(ManifestKnown, pallet.block):
            pallet.allow_manifest(Root(), named)
        pallet.disallow_manifest(Root(), named)
        with pytest.raises(ManifestNotAllowed):
            pallet.manifests_of((named,))

    site.govern(act)
