"""From a request's bytes to a contract's method and back: what the guest's exports call."""

import inspect
import json
import sys
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from phala.phat.contract import Contract, Refused, kind_of
from phala.phat.host import CURRENT, Host, TooLarge
from phala.phat.state import ReadOnly, fields_of, hints_of, save
from phala.phat.values import Shape, from_json, shape_of, to_json

FILE = "contract.py"
TEXT_MAX = 1_000  # characters of a message that a caller is shown

Call = Literal["instantiate", "query", "command"]


class Failed(Exception):
    """A call that did not succeed, in the words its caller gets."""

    def __init__(self, kind: str, text: str, *, name: str = "", line: int = 0) -> None:
        super().__init__(text)
        self.kind = kind  # a word of `phala.wasm.job.ErrorKind`
        self.name = name  # the exception's type
        self.text = text
        self.line = line  # in the contract's source; 0 where there is none

    def encode(self) -> str:
        text = self.text if len(self.text) <= TEXT_MAX else self.text[:TEXT_MAX] + "…"
        record = {"kind": self.kind, "type": self.name, "text": text, "line": self.line}
        return json.dumps(record)  # in ASCII: whatever the text holds, it can be encoded


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    shape: Shape
    needed: bool
    where: str  # in the words of an error


@dataclass(frozen=True, slots=True)
class Plan:
    """What calling a method takes."""

    method: Any
    parameters: dict[str, Parameter]
    returns: Shape


def compile_source(source: bytes) -> types.CodeType:
    """Raises `Failed` with the line for whatever is no Python."""
    try:
        return compile(source.decode(), FILE, "exec", dont_inherit=True)
    except UnicodeDecodeError as error:
        raise Failed("source", f"the source is not UTF-8 at byte {error.start}") from None
    except SyntaxError as error:
        where = f" ({FILE} line {error.lineno})" if error.lineno else ""
        name, line = type(error).__name__, error.lineno or 0
        raise Failed("source", error.msg + where, name=name, line=line) from None
    except (ValueError, MemoryError, RecursionError, OverflowError) as error:
        raise Failed("source", f"the source cannot be compiled: {error}") from None


def load(code: types.CodeType) -> type[Contract]:
    """Run the module; its one contract class. Raises `Failed`."""
    module = types.ModuleType("contract")
    module.__file__ = FILE
    sys.modules["contract"] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - the guest exists to run this
    except BaseException as error:  # noqa: BLE001 - whatever it raises, its caller must be told
        failed = failure_of(error)
        kind = failed.kind if failed.kind in {"memory", "stack"} else "source"
        raise Failed(kind, failed.text, name=failed.name, line=failed.line) from None
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Contract) and item.__module__ == "contract"
    ]
    leaves = [item for item in found if not any(item in other.__mro__[1:] for other in found)]
    if len(leaves) != 1:
        names = ", ".join(item.__name__ for item in leaves) or "none"
        raise Failed(
            "source", f"a contract's file has one class of `phat.Contract`, found: {names}"
        )
    return leaves[0]


def call(owner: type[Contract], host: Host, kind: Call, request: bytes) -> bytes:
    """Run one call; its result as JSON. State reaches the host's `set` only after success.

    Raises:
        Failed: the only exception that leaves.
    """
    CURRENT.host = host
    CURRENT.writable = kind != "query"
    try:
        name, given, texts = _request(request, kind)
        contract = object.__new__(owner)
        plan = _plan(owner, kind, name)
        result = plan.method(contract, **_arguments(plan, given, texts))
        if type(result) is types.CoroutineType:
            result.close()
            raise Failed("raised", f"{name} is async: write a plain `def`")  # noqa: TRY301
        if kind == "instantiate":
            result = None
        encoded = to_json(plan.returns.dump(result, "result"))
        save(contract)
    except BaseException as error:  # noqa: BLE001 - an exception that left would kill the guest
        raise failure_of(error) from None
    finally:
        CURRENT.host = None
        CURRENT.writable = False
    return encoded


def failure_of(error: BaseException) -> Failed:
    """Any exception as what its caller is told, with the line of the contract's that raised it."""
    if isinstance(error, Failed):
        return error
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    name = type(error).__name__
    match error:
        case MemoryError():
            return Failed("memory", "the contract's memory is full", name=name, line=line)
        case RecursionError():
            return Failed("stack", "the contract recursed too deep", name=name, line=line)
        case Refused():
            return Failed("refused", _message(error), name=name, line=line)
        case ReadOnly():
            return Failed("read_only", _message(error), name=name, line=line)
        case TooLarge():
            return Failed("state", _message(error), name=name, line=line)
        case _:
            where = f" ({FILE} line {line})" if line else ""
            text = f"{name}: {_message(error)}".removesuffix(": ")
            return Failed("raised", text + where, name=name, line=line)


def describe(owner: type[Contract]) -> dict[str, Any]:
    """The interface, for people and for tools that read arguments from a command line."""
    return {
        "contract": owner.__name__,
        "doc": _doc(owner),
        "warm": owner.warm is True,
        "init": [_describe(each) for each in parameters_of(_method(owner, "instantiate", ""))],
        "methods": [
            {
                "name": name,
                "kind": kind,
                "doc": _doc(method),
                "params": [_describe(parameter) for parameter in parameters_of(method)],
                "returns": shape_of(_hints(method).get("return", Any)).name,
            }
            for name in dir(owner)
            for method in [getattr(owner, name)]
            for kind in [kind_of(method)]
            if kind
        ],
        "state": [
            {"name": field.name, "type": _hint_name(hints_of(field.owner)[field.name])}
            for field in fields_of(owner)
        ],
    }  # fmt: skip


def parameters_of(method: Any) -> list[Parameter]:
    # By the code object: `inspect.signature` takes longer than a whole call.
    while hasattr(method, "__wrapped__"):
        method = method.__wrapped__
    code = method.__code__
    if code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        raise TypeError(f"{method.__name__}: * and ** have no types; name each argument")
    hints = _hints(method)
    count = code.co_argcount
    needed_until = count - len(method.__defaults__ or ())
    with_default = method.__kwdefaults__ or {}
    return [
        Parameter(
            name,
            shape_of(hints.get(name, Any)),
            at < needed_until if at < count else name not in with_default,
            f"argument {name}",
        )
        for at, name in enumerate(code.co_varnames[: count + code.co_kwonlyargcount])
        if at
    ]


def _request(request: bytes, kind: Call) -> tuple[str, Any, dict[str, str]]:
    """The method's name, its arguments as JSON values, and those that are a person's text."""
    try:
        record = from_json(request)
    except (ValueError, RecursionError) as error:
        raise Failed("argument", f"the request is not JSON: {error}") from None
    if type(record) is not dict:
        raise Failed("argument", "the request is not a JSON object")
    name = record.get("method", "")
    given = record.get("args", {})
    if "arguments" in record:  # JSON within a string: whoever framed it had not to trust it
        try:
            given = from_json(str(record["arguments"]).encode() or b"{}")
        except (ValueError, RecursionError) as error:
            raise Failed("argument", f"the arguments are not JSON: {error}") from None
    if type(name) is not str or (not name and kind != "instantiate"):
        raise Failed("argument", "the request names no method")
    if type(given) not in (dict, list):
        raise Failed("argument", "args is an object by name, or a list by place")
    texts = record.get("texts")
    if texts is None:
        return name, given, {}
    if type(texts) is not dict or not {*map(type, texts.values())} <= {str}:
        raise Failed("argument", "texts is an object of strings")
    return name, given, texts


def _method(owner: type[Contract], kind: Call, name: str) -> Any:
    if kind == "instantiate":
        return owner.__init__ if owner.__init__ is not object.__init__ else _no_init
    method = getattr(owner, name, None)
    found = kind_of(method)
    if found == kind:
        return method
    if found:
        raise Failed("argument", f"{owner.__name__}.{name} is a {found}, not a {kind}")
    names = ", ".join(each for each in dir(owner) if kind_of(getattr(owner, each)) == kind)
    raise Failed("argument", f"{owner.__name__} has no {kind} {name!r}; it has: {names or 'none'}")


def _no_init(self: Contract) -> None:
    """A contract without `__init__` takes no arguments."""


_plans: dict[tuple[type, Call, str], Plan] = {}  # a warm instance calls its methods again


def _plan(owner: type[Contract], kind: Call, name: str) -> Plan:
    plan = _plans.get((owner, kind, name))
    if plan is None:
        method = _method(owner, kind, name)
        returns = shape_of(_hints(method).get("return", Any))
        plan = _plans[owner, kind, name] = Plan(
            method, {each.name: each for each in parameters_of(method)}, returns
        )
    return plan


def _arguments(plan: Plan, given: Any, texts: dict[str, str]) -> dict[str, Any]:
    names = plan.parameters
    if type(given) is list:
        if len(given) > len(names):
            takes = _takes(plan.method)
            raise Failed("argument", f"{len(given)} arguments were given; {takes}")
        given = dict(zip(names, given, strict=False))
    for name in (*given, *texts):
        if name not in names:
            raise Failed("argument", f"there is no argument {name!r}; {_takes(plan.method)}")
    arguments = {}
    try:
        for name, parameter in names.items():
            if name in given:
                arguments[name] = parameter.shape.load(given[name], parameter.where)
            elif name in texts:
                arguments[name] = parameter.shape.parse(texts[name], parameter.where)
            elif parameter.needed:
                raise Failed(  # noqa: TRY301
                    "argument", f"argument {name} is missing; {_takes(plan.method)}"
                )
    except (Failed, MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - a dataclass may check its fields as it likes
        raise Failed("argument", _message(error), name=type(error).__name__) from None
    return arguments


def _takes(method: Any) -> str:
    name = "the constructor" if method.__name__ in {"__init__", "_no_init"} else method.__name__
    wanted = [f"{each.name}: {each.shape.name}" for each in parameters_of(method)]
    return f"{name} takes {', '.join(wanted) or 'no arguments'}"


def _hints(method: Any) -> dict[str, Any]:
    hints: dict[str, Any] = getattr(method, "__annotations__", {})
    if any(type(hint) is str for hint in hints.values()):
        return typing.get_type_hints(method)
    return hints


def _message(error: BaseException) -> str:
    try:
        return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    except BaseException:  # noqa: BLE001 - the author's own __str__ may fail
        return "(its message cannot be shown)"


def _doc(item: Any) -> str:
    return inspect.cleandoc(item.__doc__ or "")


def _describe(parameter: Parameter) -> dict[str, Any]:
    return {"name": parameter.name, "type": parameter.shape.name, "needed": parameter.needed}


def _hint_name(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)) if not typing.get_args(hint) else str(hint)
