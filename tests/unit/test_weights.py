"""What calls weigh: every worst case runs, what is declared covers what was measured."""

from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from phala.cli.bench import bench
from phala.frame import Block
from phala.frame.pallet import dispatch_info
from phala.node.tools.weigh import line_over
from phala.runtime.attestation import AttestVerifier
from phala.runtime.measured import MEASURED
from phala.runtime.version import BLOCK_REF_TIME_MAX, NORMAL_REF_TIME_MAX
from phala.runtime.weighing import CASE_HEIGHT, CASES, FUNDS, bench_account, call_of, encode_call
from phala.runtime.world import CALLS, PALLETS, World

# Their pallets say what they weigh: evidence and upgrades are judged by what they hold.
BY_THEIR_PALLET = {"PhalaMq", "PhalaRegistry", "PhalaPhatContracts", "PhalaCollateral", "Dev"}
UNMEASURED = {
    *(("System", name) for name in ("set_code", "set_code_without_checks")),
    *(("System", name) for name in ("authorize_upgrade", "authorize_upgrade_without_checks")),
    ("System", "apply_authorized_upgrade"),
    ("Balances", "upgrade_accounts"),
    ("Preimage", "ensure_updated"),
}


def fresh() -> World:
    world = World(Block(CASE_HEIGHT, phase=1), AttestVerifier())
    for number in range(150):
        world.balances.endow(bench_account(number), FUNDS)
    return world


@pytest.mark.parametrize(("pallet", "name"), CASES)
def test_a_worst_case_is_a_call_that_goes_well(pallet: str, name: str) -> None:
    case = CASES[pallet, name]
    for count in (case.counts[0], case.counts[-1]):
        world = fresh()
        origin, arguments = case.make(world, count)
        events = len(world.block.events)
        state = world.block.state.digest()

        call = CALLS.decode(encode_call(pallet, name, arguments))
        call.dispatch(world.pallets[call.pallet], origin)

        did = world.block.state.digest() != state or len(world.block.events) > events
        silent = name in ("remark", "poke_deposit", "as_multi_threshold_1", "as_derivative")
        assert did or silent or name == "with_weight" or count == 0


def test_the_table_holds_calls_of_this_chain_and_lacks_none() -> None:
    known = {
        (pallet.name, method.__name__)
        for pallet in PALLETS.values()
        for method in pallet.calls.values()
    }

    assert set(MEASURED) == set(CASES)
    assert set(MEASURED) <= known
    assert {each for each in known - set(MEASURED) if each[0] not in BY_THEIR_PALLET} == UNMEASURED


@pytest.mark.parametrize(("pallet", "name"), MEASURED)
def test_what_is_declared_is_more_than_what_was_measured(pallet: str, name: str) -> None:
    found, case = MEASURED[pallet, name], CASES[pallet, name]
    weights = []
    for count in case.counts:
        _, arguments = case.make(fresh(), count)
        call = CALLS.decode(encode_call(pallet, name, arguments))
        weights.append(call.info.weight)
        assert call.info.weight.ref_time * 100 >= (found.ref_time + found.each * count) * 149
        assert call.info.weight.proof_size >= found.proof_size + found.proof_each * count

    assert all(few.ref_time <= more.ref_time for few, more in pairwise(weights))
    assert weights[0].ref_time < NORMAL_REF_TIME_MAX


def test_a_call_that_was_not_measured_weighs_what_its_pallet_says() -> None:
    call = call_of("System", "set_code", b"")

    assert call.info == dispatch_info(call.method)


def test_a_count_makes_a_call_too_heavy_for_any_block() -> None:
    call = call_of("System", "kill_prefix", b"k", 2**32 - 1)

    assert call.info.weight.ref_time > BLOCK_REF_TIME_MAX


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**12)), min_size=2, max_size=8))
def test_a_line_lies_over_all_that_was_found(points: list[tuple[int, int]]) -> None:
    counts, values = zip(*sorted(dict(points).items()), strict=True)

    least, each = line_over(counts, values)

    assert least >= 0
    assert each >= 0
    assert all(least + each * count >= value for count, value in zip(counts, values, strict=True))


def test_the_command_measures_and_writes_what_the_chain_declares_by(tmp_path: Path) -> None:
    table = tmp_path / "measured.py"
    done = CliRunner().invoke(
        bench, ["weights", "--pallet", "TransactionPayment", "--repeat", "1", "--write", str(table)]
    )

    assert done.exit_code == 0, done.output
    assert "TransactionPayment.set_fee_burn_share" in done.output
    scope: dict[str, object] = {}
    exec(table.read_text(), scope)
    written = scope["MEASURED"]
    assert isinstance(written, type(MEASURED))
    assert list(written) == [("TransactionPayment", "set_fee_burn_share")]
