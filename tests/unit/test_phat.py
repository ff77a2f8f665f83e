"""The author's side, natively: types, state, errors. The same code runs inside the guest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import phala.phat
from phala.phat.contract import Contract
from phala.phat.entry import Call, Failed, call, compile_source, describe, load
from phala.phat.local import LocalHost
from phala.wasm.job import request_of

ALICE = bytes.fromhex("d43593c715fdd31c61141abd04a99fd6822c8557854ccde39a5684e7a56da27d")
COUNTER = Path(phala.phat.__file__).parent / "templates" / "counter.py"

LEDGER = b'''
from dataclasses import dataclass
from phat import Contract, Map, Refused, command, emit, log, query, sha2_256

@dataclass
class Note:
    text: str
    stars: int = 0

class Ledger(Contract):
    """A ledger."""

    owner: str | None = None
    names: list[str] = []
    ratio: float = 0.5
    blob: bytes = b""
    limit: int
    notes: Map[str, Note]

    def __init__(self, limit: int = 3):
        self.limit = limit
        self.owner = self.caller

    @command
    def note(self, key: str, note: Note) -> int:
        self.notes[key] = note
        return note.stars

    @command
    def star(self, key: str) -> None:
        self.notes[key].stars += 1

    @command
    def join(self, name: str) -> int:
        self.names.append(name)
        if len(self.names) > self.limit:
            raise Refused("full")
        return len(self.names)

    @command
    def put(
        self, blob: bytes, ratio: float = 1.5, *, many: dict[str, list[int]] | None = None
    ) -> bytes:
        self.blob, self.ratio = blob, ratio
        return sha2_256(blob)

    @command
    def lose(self) -> None:
        self.other = 1

    @command
    def wrong(self) -> int:
        return "text"

    @command
    def badly(self) -> None:
        self.limit = "many"

    @command
    def drop(self, key: str) -> None:
        del self.notes[key]

    @command
    def huge(self) -> None:
        self.blob = bytes(1 << 20)

    @query
    def all(self) -> dict[str, Note]:
        return dict(self.notes.items())

    @query
    def some(self, start: str, limit: int) -> list[str]:
        return [key for key, _ in self.notes.items(start, limit)]

    @query
    def sneak(self) -> None:
        self.names.append("x")

    @query
    def sneak_into_map(self) -> None:
        self.notes["x"] = Note("x")

    @query
    def who(self) -> str | None:
        return self.caller

    @query
    def height(self) -> tuple[int, int]:
        return self.block.number, self.block.time_ms

    @query
    def recurse(self) -> int:
        return self.recurse()
'''


class Deployed:
    """A contract on a host in memory, with a call's success deciding what is kept."""

    def __init__(self, source: bytes, **args: Any) -> None:
        self.owner: type[Contract] = load(compile_source(source))
        self.host = LocalHost(ALICE)
        self("instantiate", "", **args)

    def __call__(self, kind: Call, method: str, **args: Any) -> Any:
        request = json.dumps({"method": method, "args": args}).encode()
        before = dict(self.host.values)
        try:
            return json.loads(call(self.owner, self.host, kind, request))
        except Failed:
            self.host.values = before
            raise

    def raw(self, kind: Call, request: bytes) -> Any:
        return json.loads(call(self.owner, self.host, kind, request))


@pytest.fixture(autouse=True)
def guest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "phat", phala.phat)


@pytest.fixture
def ledger() -> Deployed:
    return Deployed(LEDGER)


def failed(kind: str, text: str, act: Callable[[], Any]) -> Failed:
    with pytest.raises(Failed) as caught:
        act()
    assert caught.value.kind == kind, caught.value.text
    assert text in caught.value.text
    return caught.value


def test_the_template_counts() -> None:
    counter = Deployed(COUNTER.read_bytes())

    assert counter("command", "add", n=2) == 2
    assert counter("command", "add", n=3) == 5
    assert counter("query", "value") == 5
    assert counter.host.values == {b"total": b"5"}
    assert counter.host.events[-1][0] == "Added"
    failed("refused", "n must be at least 1", lambda: counter("command", "add", n=0))


def test_arguments_typed_by_a_person_are_read_by_their_annotation() -> None:
    counter = Deployed(COUNTER.read_bytes())

    assert counter.raw("command", b'{"method":"add","texts":{"n":"2"}}') == 2
    failed(
        "argument",
        "argument n: expected int, got str 'two'",
        lambda: counter.raw("command", b'{"method":"add","texts":{"n":"two"}}'),
    )


def test_the_constructor_runs_once_with_its_arguments() -> None:
    ledger = Deployed(LEDGER, limit=1)

    assert ledger.host.values[b"limit"] == b"1"
    assert json.loads(ledger.host.values[b"owner"]).startswith("4")  # SS58 with prefix 30
    failed("argument", "constructor takes limit: int", lambda: Deployed(LEDGER, most=1))


def test_only_what_changed_is_written(ledger: Deployed) -> None:
    assert set(ledger.host.values) == {b"limit", b"owner"}

    ledger("command", "join", name="ann")

    assert ledger.host.values[b"names"] == b'["ann"]'
    assert b"ratio" not in ledger.host.values


def test_a_failed_command_writes_nothing(ledger: Deployed) -> None:
    for name in ("ann", "bob", "cid"):
        ledger("command", "join", name=name)

    failed("refused", "full", lambda: ledger("command", "join", name="dot"))
    assert ledger.host.values[b"names"] == b'["ann","bob","cid"]'


def test_dataclasses_bytes_and_floats_pass(ledger: Deployed) -> None:
    assert ledger("command", "note", key="a", note={"text": "hi"}) == 0
    assert ledger("query", "all") == {"a": {"text": "hi", "stars": 0}}
    digest = ledger("command", "put", blob="0x616263", ratio=2, many={"x": [1]})
    assert digest.startswith("0xba7816bf")
    assert ledger.host.values[b"ratio"] == b"2.0"


def test_a_map_keeps_each_item_under_its_own_key(ledger: Deployed) -> None:
    for key in ("b", "a", "c"):
        ledger("command", "note", key=key, note={"text": key})
    ledger("command", "star", key="b")

    assert ledger.host.values[b"notes/b"] == b'{"text":"b","stars":1}'
    assert ledger("query", "some", start="b", limit=1) == ["b"]
    assert ledger("query", "some", start="", limit=9) == ["a", "b", "c"]
    ledger("command", "drop", key="a")
    assert b"notes/a" not in ledger.host.values
    failed("raised", "KeyError: notes has no 'a'", lambda: ledger("command", "drop", key="a"))


def test_a_map_of_many_items_is_walked_whole(ledger: Deployed) -> None:
    for at in range(250):
        ledger.host.values[b"notes/%04d" % at] = b'{"text":"x","stars":0}'

    assert len(ledger("query", "all")) == 250


@pytest.mark.parametrize("method", ["sneak", "sneak_into_map"])
def test_a_query_cannot_write(ledger: Deployed, method: str) -> None:
    before = dict(ledger.host.values)

    failed("read_only", "a query cannot change", lambda: ledger("query", method))
    assert ledger.host.values == before


@pytest.mark.parametrize(
    ("kind", "method", "args", "says"),
    [
        ("command", "note", {"key": 1, "note": {"text": ""}}, "key: expected str, got int 1"),
        ("command", "note", {"key": "a"}, "note is missing; note takes key: str, note: Note"),
        ("command", "note", {"key": "a", "note": {}}, "expected Note, got no field 'text'"),
        ("command", "note", {"key": "a", "note": {"text": "", "x": 1}}, "an unknown field 'x'"),
        ("command", "note", {"key": "a", "note": {"text": 1}}, "argument note.text: expected str"),
        ("command", "join", {"name": "a", "age": 1}, "there is no argument 'age'"),
        ("command", "put", {"blob": "616263"}, "argument blob: expected bytes as 0x…"),
        ("command", "put", {"blob": "0xzz"}, "expected bytes as 0x…"),
        ("command", "put", {"blob": "0x", "ratio": "1"}, "expected float, got str '1'"),
        ("command", "put", {"blob": "0x", "ratio": True}, "expected float, got bool True"),
        ("command", "put", {"blob": "0x", "many": {"a": [1, "b"]}}, "many['a'][1]: expected int"),
        ("query", "join", {"name": "a"}, "Ledger.join is a command, not a query"),
        ("command", "vanish", {}, "has no command 'vanish'; it has: badly, drop"),
        ("command", "__init__", {}, "has no command '__init__'"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_told_what_is_wrong(
    ledger: Deployed, kind: Call, method: str, args: dict[str, Any], says: str
) -> None:
    failed("argument", says, lambda: ledger(kind, method, **args))


@pytest.mark.parametrize(
    "request_bytes",
    [b"", b"[]", b"{", b"\xff", b'{"method":1}', b'{"method":"join","args":3}',
     b'{"method":"join","texts":[]}', b'{"method":"put","args":{"blob":"0x","ratio":NaN}}',
     b"[" * 100_000, b'{"method":"join","texts":{"name":1}}'],
)  # fmt: skip
def test_a_request_that_is_garbage_is_refused(ledger: Deployed, request_bytes: bytes) -> None:
    with pytest.raises(Failed) as caught:
        ledger.raw("command", request_bytes)

    assert caught.value.kind == "argument"


@pytest.mark.parametrize(
    ("method", "kind", "says"),
    [
        ("lose", "raised", "self.other would be lost after the call"),
        ("wrong", "raised", "result: expected int, got str 'text'"),
        ("badly", "raised", "limit: expected int, got str 'many'"),
        ("huge", "state", "blob has 2097156 bytes"),
    ],
)
def test_an_authors_mistake_is_named_with_its_line(
    ledger: Deployed, method: str, kind: str, says: str
) -> None:
    error = failed(kind, says, lambda: ledger("command", method))

    if method in {"lose", "badly"}:
        assert "contract.py line" in error.text
        assert error.line


def test_unchecked_arguments_cannot_choose_the_method(ledger: Deployed) -> None:
    sly = request_of("join", b'{"name":"ann"},"method":"huge"')
    failed("argument", "the arguments are not JSON", lambda: ledger.raw("command", sly))

    assert ledger.raw("command", request_of("join", b'{"name":"ann"}')) == 1
    failed("argument", "name is missing", lambda: ledger.raw("command", request_of("join", b"")))


def test_recursion_is_an_answer(ledger: Deployed) -> None:
    failed("stack", "too deep", lambda: ledger("query", "recurse"))


def test_caller_and_block_are_there(ledger: Deployed) -> None:
    ledger.host.account = None
    assert ledger("query", "who") is None
    assert ledger("query", "height") == [1, 1000]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"x = 1", "found: none"),
        (b"from phat import *\nclass A(Contract): ...\nclass B(Contract): ...", "found: A, B"),
        (
            b"from phat import *\nclass A(Contract):\n x: int = 0\n @query\n def x(self): ...",
            "x is both state and a method",
        ),
        (b"def (", "invalid syntax (contract.py line 1)"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"1/0", "ZeroDivisionError: division by zero (contract.py line 1)"),
        (b"raise SystemExit(3)", "SystemExit: 3"),
        (b"import nothing_like_it", "ModuleNotFoundError"),
        (b"\0", "null bytes"),
    ],
)  # fmt: skip
def test_a_source_that_is_no_contract_is_told_why(source: bytes, says: str) -> None:
    failed("source", says, lambda: load(compile_source(source)))


def test_the_interface_is_described(ledger: Deployed) -> None:
    found = describe(ledger.owner)

    assert found["contract"] == "Ledger"
    assert found["doc"] == "A ledger."
    assert found["init"] == [{"name": "limit", "type": "int", "needed": False}]
    put = next(method for method in found["methods"] if method["name"] == "put")
    assert [(each["name"], each["type"], each["needed"]) for each in put["params"]] == [
        ("blob", "bytes as 0x…", True),
        ("ratio", "float", False),
        ("many", "dict[str, list[int]] or None", False),
    ]
    assert {field["name"] for field in found["state"]} >= {"names", "notes", "limit"}
