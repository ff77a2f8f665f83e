"""Reads XML, and writes the one canonical form in which manifests are signed.

Canonical XML 1.1 without comments (W3C, https://www.w3.org/TR/xml-c14n11/), of a whole document or
of one element in it, for documents in UTF-8 without document type, processing instructions and
`xml:` attributes: manifests have none. What was hashed is read again, never what was given: so a
mistake here may refuse a manifest, and cannot make another of it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from phala.attest.errors import EvidenceMalformed

XML_BYTES_MAX: Final = 128 * 1024  # NVIDIA's have 20 to 26 KB
DEPTH_MAX: Final = 16
ELEMENTS_MAX: Final = 4096
PREFIXES_MAX: Final = 16  # in one scope: each element may have a scope of its own
_TEXT: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"}
_QUOTED: Final = {
    "&": "&amp;",
    "<": "&lt;",
    '"': "&quot;",
    "\t": "&#x9;",
    "\n": "&#xA;",
    "\r": "&#xD;",
}
_IN_TEXT: Final = re.compile("[&<>\r]")
_IN_QUOTES: Final = re.compile('[&<"\t\n\r]')


@dataclass(frozen=True, slots=True)
class Scope:
    """The prefixes that are declared for an element, by itself or outside."""

    prefixes: Mapping[str, str]
    # A manifest's elements are of a few shapes: what follows from names alone is found once.
    orders: dict[tuple[str, ...], list[str]] = field(default_factory=dict)

    def ordered(self, names: tuple[str, ...]) -> list[str]:
        """Names of attributes in canonical order: by namespace, then local part; those in none come
        first. No two are the same.
        """
        if names not in self.orders:
            resolved = {name: self.resolved(name) for name in names if ":" in name}
            if len(resolved) != len(frozenset(resolved.values())):
                raise malformed(f"an attribute twice: {', '.join(resolved)}")
            if any(not uri for uri, _ in resolved.values()):
                raise malformed(f"an attribute of no namespace: {', '.join(resolved)}")
            self.orders[names] = sorted(names, key=lambda name: resolved.get(name, ("", name)))
        return self.orders[names]

    def resolved(self, name: str) -> tuple[str, str]:
        """Namespace and local part of a name with a prefix, or of an element's."""
        prefix, _, local = name.rpartition(":")
        if ":" in prefix or prefix not in self.prefixes or not local or name[:1] == ":":
            raise malformed(f"the name {name}")
        return self.prefixes[prefix], local


_OUTSIDE: Final = {"": ""}


@dataclass(slots=True)
class Element:
    """Names are of a namespace and a local part: `{uri}local`, or `local` in none."""

    name: str
    written: str  # with the document's prefix
    attributes: dict[str, str]  # by names as they are written, with the document's prefixes
    scope: Scope
    children: "list[Element | str]" = field(default_factory=list)

    def elements(self) -> "Iterator[Element]":
        """This one and all in it."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.elements()

    @property
    def text(self) -> str:
        """What stands directly in it."""
        return "".join(child for child in self.children if isinstance(child, str))


class _Builder:
    def __init__(self) -> None:
        self.open: list[Element] = []
        self.root: Element | None = None
        self.count = 0

    def start(self, written: str, given: list[str]) -> None:
        self.count += 1
        if len(self.open) == DEPTH_MAX or self.count > ELEMENTS_MAX:
            raise malformed(f"more than {ELEMENTS_MAX} elements, or {DEPTH_MAX} deep")
        scope = self.open[-1].scope if self.open else Scope(_OUTSIDE)
        attributes = dict(zip(given[::2], given[1::2], strict=True))  # no name comes twice
        special = [name for name in attributes if name[:5] == "xmlns"]
        declared = {name: attributes.pop(name) for name in special if name[5:6] in ("", ":")}
        if declared:
            scope = Scope({**scope.prefixes, **_declared(declared)})
            if len(scope.prefixes) > PREFIXES_MAX:
                raise malformed(f"more than {PREFIXES_MAX} prefixes")
        scope.ordered(tuple(attributes))
        element = Element(_name(*scope.resolved(written)), written, attributes, scope)
        if self.open:
            self.open[-1].children.append(element)
        else:
            self.root = element
        self.open.append(element)

    def end(self, _written: str) -> None:
        self.open.pop()

    def data(self, text: str) -> None:
        if self.open:
            self.open[-1].children.append(text)


def _declared(given: Mapping[str, str]) -> dict[str, str]:
    """Prefixes, from attributes that declare them."""
    for name, value in given.items():
        if name == "xmlns:xml" or (name != "xmlns" and not value):
            raise malformed(f"the declaration of {name}")
    return {name[6:]: value for name, value in given.items()}


def decode(data: bytes) -> Element:
    """The root of the document that `data` is."""
    if len(data) > XML_BYTES_MAX:
        raise malformed(f"{len(data)} bytes, at most {XML_BYTES_MAX} are allowed")
    builder = _Builder()
    parser = expat.ParserCreate("UTF-8")
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    parser.ProcessingInstructionHandler = _refuse
    try:
        parser.Parse(data, True)  # noqa: FBT003
    except (expat.ExpatError, ValueError) as error:
        raise malformed(str(error)) from None
    if builder.root is None:
        raise malformed("no element")
    return builder.root


def elements(data: bytes) -> list[tuple[str, dict[str, str]]]:
    """Names and attributes of a canonical document's elements, in order: `uri}local`, or `local` in
    no namespace. Where they stand does not show.
    """
    found: list[tuple[str, dict[str, str]]] = []
    parser = expat.ParserCreate("UTF-8", "}")
    parser.StartElementHandler = lambda name, attributes: found.append((name, attributes))
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)  # noqa: FBT003
    except (expat.ExpatError, ValueError) as error:
        raise malformed(str(error)) from None
    return found


def canonical(element: Element, *, without: Element | None = None) -> bytes:
    """The element's canonical bytes, with the namespaces of what it stands in; one element in it
    may be left out.
    """
    out: list[str] = []
    _write(element, Scope(_OUTSIDE), without, out)
    return "".join(out).encode()


def _write(element: Element, rendered: Scope, without: Element | None, out: list[str]) -> None:
    out.append(f"<{element.written}")
    if element.scope is not rendered:
        for prefix in sorted(element.scope.prefixes):
            uri = element.scope.prefixes[prefix]
            if rendered.prefixes.get(prefix) != uri:
                name = f"xmlns:{prefix}" if prefix else "xmlns"
                out.append(f' {name}="{_quoted(uri)}"')
    for name in element.scope.ordered(tuple(element.attributes)):
        value = element.attributes[name]
        out.append(f' {name}="{value if value.isalnum() else _quoted(value)}"')
    out.append(">")
    for child in element.children:
        if isinstance(child, str):
            out.append(_IN_TEXT.sub(lambda match: _TEXT[match[0]], child))
        elif child is not without:
            _write(child, element.scope, without, out)
    out.append(f"</{element.written}>")


def _quoted(value: str) -> str:
    return _IN_QUOTES.sub(lambda match: _QUOTED[match[0]], value)


def _name(uri: str, local: str) -> str:
    return f"{{{uri}}}{local}" if uri else local


def _refuse(*_what: object) -> None:
    raise malformed("a document type, or a processing instruction")


def malformed(what: str) -> EvidenceMalformed:
    """The error that the bytes are no such document."""
    return EvidenceMalformed(
        f"no manifest in XML: {what}", check=4, mend="give the manifest as its vendor published it"
    )
