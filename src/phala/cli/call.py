"""`phala call`: a command to a contract."""

from pathlib import Path

import click

from phala.cli.contracts import contract_of, load_names
from phala.cli.options import (
    argument_options,
    arguments_of,
    fuel_option,
    json_option,
    network_options,
    place_of,
    receipt_option,
    signer_options,
    timeout_option,
)
from phala.cli.render import show, waiting
from phala.cli.session import (
    answered,
    connected,
    placed,
    placed_text,
    result_text,
    save_receipt,
)
from phala.cli.wallet import signer_of
from phala.errors import Invalid
from phala.sdk.calls import Answer


@click.command(short_help="Send a contract an encrypted command.")
@click.argument("contract")
@click.argument("method")
@argument_options
@signer_options
@fuel_option
@click.option("--wait/--no-wait", default=True, help="Wait for the outcome, and exit by it.")
@receipt_option
@timeout_option
@network_options
@json_option
def call(
    *,
    contract: str,
    method: str,
    pairs: tuple[str, ...],
    document: str | None,
    dev: str | None,
    account: str | None,
    fuel: int,
    wait: bool,
    receipt: Path | None,
    timeout_s: float,
    folder: Path | None,
    urls: tuple[str, ...],
    worker: str | None,
    as_json: bool,
) -> None:
    """Send an encrypted command: the chain orders it, the enclave runs it once.

    Example: phala call counter add --arg n=2
    """
    if receipt is not None and not wait:
        raise Invalid("a receipt comes with the outcome", mend="leave --no-wait or --receipt out")
    arguments = arguments_of(pairs, document)
    place = place_of(folder, urls, worker)
    signer = signer_of(place, dev, account)
    saved, value = None, None
    with waiting(f"waiting for {method}", quiet=as_json), connected(place) as phala:
        known = contract_of(contract, load_names(place.files, phala.network.trust.genesis))
        sent = phala.send_command(known, method, arguments, signer=signer, fuel=fuel)
        answer = phala.outcome_of(sent, timeout_s=timeout_s) if wait else None
        if answer is not None:
            saved = save_receipt(phala, answer, receipt)  # of a failure there is one too
            value = answer.value()
    told = {
        "contract": "0x" + sent.pending.contract.hex(),
        "method": method,
        "call": "0x" + sent.pending.call.hex(),
        "signer": signer.address,
        **placed(sent.submitted),
    }
    if answer is None:
        text = f"Sent: {placed_text(sent.submitted)}; not waiting for its outcome."
        show({**told, "waited": False}, text, as_json=as_json)
        return
    lines = [result_text(value), *(f"event {each}" for each in _events(answer))]
    if saved:
        lines.append(f"receipt {saved}")
    show(
        {**told, "waited": True, **answered(answer), "result": value, "receipt": saved},
        "\n".join(lines),
        as_json=as_json,
    )


def _events(answer: Answer) -> list[str]:
    return [
        f"{event.name} {event.data.decode(errors='replace')}" for event in answer.outcome.events
    ]
