"""`phala new`: a contract to begin with."""

import re
from importlib import resources
from pathlib import Path
from typing import Final

import click

from phala.cli.options import json_option
from phala.cli.render import show
from phala.errors import Invalid, Refused

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


def templates() -> list[str]:
    """The names of the templates that come with the package."""
    folder = resources.files("phala.phat") / "templates"
    return sorted(
        item.name.removesuffix(".py")
        for item in folder.iterdir()
        if item.name.endswith(".py") and not item.name.startswith("_")
    )


@click.command(short_help="Write a contract to begin with.")
@click.argument("name")
@click.option("--template", help="What to begin with.  [default: the name, or else counter]")
@json_option
def new(*, name: str, template: str | None, as_json: bool) -> None:
    """Write NAME.py, a contract that works, into this folder.

    Example: phala new counter
    """
    if not NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} is no contract's name",
            mend="use small letters, digits and _, at most 48, a letter first",
        )
    known = templates()
    chosen = template or (name if name in known else "counter")
    if chosen not in known:
        raise Invalid(f"there is no template {chosen!r}", mend=f"use one of {', '.join(known)}")
    source = (resources.files("phala.phat") / "templates" / f"{chosen}.py").read_text()
    if name != chosen:
        source = source.replace(f"{chosen}.py", f"{name}.py")
        source = re.sub(rf"\b(call|query) {chosen}\b", rf"\1 {name}", source)
        old = "".join(part.capitalize() for part in chosen.split("_"))
        fresh = "".join(part.capitalize() for part in name.split("_"))
        source = re.sub(rf"\bclass {old}\b", f"class {fresh}", source)
    path = Path(f"{name}.py")
    try:
        with path.open("x") as file:
            file.write(source)
    except FileExistsError:
        raise Refused(f"{path} exists already", mend="choose another name, or move it") from None
    show(
        {"name": name, "path": str(path.absolute()), "template": chosen},
        f"Wrote {path}. Next: phala deploy {path}",
        as_json=as_json,
    )
