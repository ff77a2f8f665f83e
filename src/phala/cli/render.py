"""Words and figures for people, JSON for programs, and a line that shows a wait."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from phala.errors import Invalid

PLANCKS: Final = 10**12  # in one PHA
DECIMALS: Final = 12
QUIET_S: Final = 1.0  # a wait shorter than this is not worth a word
TICK_S: Final = 0.2


def show(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print the document or the text: a command's one output."""
    click.echo(json.dumps(document) if as_json else text)


def pha(plancks: int) -> str:
    """`1.5 PHA`, every digit of it."""
    whole, rest = divmod(abs(plancks), PLANCKS)
    digits = f"{rest:0{DECIMALS}}".rstrip("0")
    sign = "-" if plancks < 0 else ""
    return f"{sign}{whole:,}{'.' + digits if digits else ''} PHA"


def plancks_of(text: str) -> int:
    """Plancks of an amount in PHA, written as digits with at most 12 behind the point.

    Raises:
        Invalid: anything else. No float is on the way, so no digit is lost.
    """
    whole, point, rest = text.replace(",", "").partition(".")
    good = whole.isascii() and whole.isdigit() and len(whole) <= 15
    if point:
        good = good and rest.isascii() and rest.isdigit() and len(rest) <= DECIMALS
    if not good:
        raise Invalid(f"{text!r} is no amount of PHA", mend="write it as 12 or 0.5")
    return int(whole) * PLANCKS + int(rest.ljust(DECIMALS, "0") or "0")


@contextlib.contextmanager
def waiting(words: str, *, quiet: bool = False) -> Iterator[None]:
    """Tell on stderr what is waited for, once it takes over a second, with the seconds."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    began = time.monotonic()

    def tick() -> None:
        if done.wait(QUIET_S):
            return
        while True:
            click.echo(f"\r{words} … {time.monotonic() - began:.0f} s ", err=True, nl=False)
            if done.wait(TICK_S):
                click.echo("\r\033[K", err=True, nl=False)
                return

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()
