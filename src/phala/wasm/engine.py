"""wasmtime for contracts: one engine, one module, instances that live for a call.

Everything that decides how a command ends is fixed here: fuel, memory, stack, NaNs, CPU features.
Changing any of it changes what replicas compute, so it is part of `ENGINE_ID`.
"""

import hashlib
from collections.abc import Callable
from ctypes import addressof, byref, c_char, c_char_p, c_uint64, c_void_p
from pathlib import Path
from platform import machine
from typing import Final, Self

from phala.wasm import capi
from phala.wasm.call import Call, Ended, cut
from phala.wasm.job import VALUE_BYTES_MAX, ErrorKind, Limits

SETTINGS: Final[tuple[tuple[str, bool | int | str], ...]] = (
    ("target", f"{machine()}-unknown-linux-gnu"),  # a fixed CPU, not the one found
    ("consume_fuel", True),
    ("epoch_interruption", True),
    ("cranelift_nan_canonicalization", True),
    ("wasm_threads", False),
    ("wasm_relaxed_simd", False),
    ("wasm_memory64", False),
    ("wasm_component_model", True),
    ("max_wasm_stack", 1 << 20),
    ("memory_init_cow", True),
)
# x86-64-v2: every machine with a TEE has it, and nothing else is used where one has more.
CPU_FLAGS: Final = {
    "x86_64": ("has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"),
    "aarch64": (),
}[machine()]

ENGINE_ID: Final = hashlib.blake2b(
    repr((capi.WASMTIME_VERSION, SETTINGS, CPU_FLAGS)).encode(), digest_size=32
).hexdigest()

TABLE_ELEMENTS_MAX: Final = 100_000
INSTANCES_MAX: Final = 200  # a component-ized CPython has 38 core modules
NEVER_TICKS: Final = 1 << 62
TICK_MS: Final = 10

EXPORTS: Final = ("compile", "load", "instantiate", "query", "command")
HOST: Final = "phala:phat/host@0.1.0"


class Engine:
    """An engine with its one component. A process has one; calls come one after the other."""

    def __init__(self) -> None:
        config = capi.config_new()
        for name, value in SETTINGS:
            capi.configure(config, name, value)
        enable = capi.function("wasmtime_config_cranelift_flag_enable", None, c_void_p, c_char_p)
        for flag in CPU_FLAGS:
            enable(config, flag.encode())
        self.pointer: int = capi.engine_new(config)

    def compile(self, module: bytes) -> bytes:
        """Native code for the module, for `Component`. Takes seconds, and memory in proportion."""
        out = c_void_p()
        capi.ensure_ok(capi.component_new(self.pointer, module, len(module), byref(out)))
        assert out.value
        return capi.serialized(out.value)

    def tick(self) -> None:
        """One more `TICK_MS` has passed. From any thread."""
        capi.increment_epoch(self.pointer)


class Component:
    """Compiled code, mapped from its file: whoever names the file vouches for it."""

    def __init__(self, engine: Engine, compiled: Path) -> None:
        self.engine = engine
        out = c_void_p()
        capi.ensure_ok(capi.component_open(engine.pointer, str(compiled).encode(), byref(out)))
        assert out.value
        self.pointer = out.value
        self.exports: dict[str, int] = {}
        for name in EXPORTS:
            index = capi.export_index(self.pointer, None, name.encode(), len(name))
            if not index:
                raise capi.EngineError(f"the runtime module exports no {name}")
            self.exports[name] = index
        self.call: Call | None = None  # the running one; callbacks look here
        self._callbacks: list[object] = []  # the engine holds their addresses
        self.linker: int = capi.linker_new(engine.pointer)
        self._link()

    def _link(self) -> None:
        root = capi.linker_root(self.linker)
        instance = c_void_p()
        name = HOST.encode()
        capi.ensure_ok(capi.linker_add_instance(root, name, len(name), byref(instance)))
        for host_name, act in HOST_FUNCTIONS.items():
            callback = capi.CALLBACK(self._callback(act))
            self._callbacks.append(callback)
            encoded = host_name.encode()
            capi.ensure_ok(
                capi.linker_add_func(
                    instance.value, encoded, len(encoded), callback, None, None
                )
            )  # fmt: skip
        capi.linker_instance_delete(instance.value)
        capi.linker_instance_delete(root)

    def _callback(self, act: "HostFunction") -> Callable[..., int]:
        def run(
            _data: int, _context: int, _type: int, arguments: int, _n: int, results: int, _m: int
        ) -> int:
            try:
                call = self.call
                assert call is not None, "the guest runs, so a call does"
                if call.ended is not None:
                    raise call.ended  # noqa: TRY301
                call.count()
                act(call, arguments, results)
            except BaseException as error:  # noqa: BLE001 - what left here would end the process
                if self.call is not None and self.call.ended is None:
                    if isinstance(error, MemoryError | OSError):
                        self.call.short = error
                    self.call.ended = Ended(ErrorKind.TRAP, f"the engine failed: {error!r}")
                return capi.error_of("ended")
            return 0

        return run


class Instance:
    """A guest in its own memory. `close` it, whatever happened; after a trap use it no more."""

    def __init__(self, component: Component, limits: Limits) -> None:
        self.component = component
        self.store: int = capi.store_new(component.engine.pointer, None, None)
        self.context: int = capi.store_context(self.store)
        self._result = (c_char * capi.VAL_BYTES)()
        self._functions: dict[str, object] = {}
        capi.store_limiter(
            self.store, limits.memory_bytes, TABLE_ELEMENTS_MAX, INSTANCES_MAX, INSTANCES_MAX,
            INSTANCES_MAX,
        )  # fmt: skip
        self.refuel(limits)
        self._instance = (c_char * capi.INSTANCE_BYTES)()
        capi.ensure_ok(
            capi.linker_instantiate(
                component.linker, self.context, component.pointer, addressof(self._instance)
            )
        )

    def refuel(self, limits: Limits, *, spent: int = 0) -> None:
        """Give the next calls their measure, of which some is spent already; start their clock."""
        capi.ensure_ok(capi.set_fuel(self.context, limits.fuel - spent))
        self.fuel = limits.fuel
        ticks = NEVER_TICKS if limits.wall_ms is None else limits.wall_ms // TICK_MS + 1
        capi.set_epoch_deadline(self.context, ticks)

    def fuel_used(self) -> int:
        left = c_uint64()
        capi.ensure_ok(capi.get_fuel(self.context, byref(left)))
        return self.fuel - left.value

    def run(self, name: str, call: Call, *arguments: bytes | bool) -> tuple[bool, bytes]:
        """Whether the guest answered with its ok or its err, and the bytes of it.

        Raises:
            Ended: a limit or a trap. The instance is broken.
        """
        function = self._functions.get(name)
        if function is None:
            function = (c_char * capi.FUNC_BYTES)()
            found = capi.instance_get_func(
                addressof(self._instance), self.context, self.component.exports[name],
                addressof(function),
            )  # fmt: skip
            assert found, f"the component exports {name}"
            self._functions[name] = function
        given = capi.Arguments(*arguments)
        self.component.call = call
        try:
            capi.ensure_ok(
                capi.func_call(
                    addressof(function), self.context, given.address, given.count,  # type: ignore[arg-type]
                    addressof(self._result), 1,
                )
            )  # fmt: skip
        except capi.EngineError as error:
            raise call.ended or ended_of(str(error)) from None
        finally:
            self.component.call = None
        return capi.take_result(addressof(self._result))

    def close(self) -> None:
        if self.store:
            capi.store_delete(self.store)
            self.store = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# The library's words for a trap, wasmtime 50.0.1, and ours.
TRAPS: Final = (
    ("all fuel consumed", ErrorKind.FUEL, "the call used up its fuel: do less in one call"),
    ("wasm trap: interrupt", ErrorKind.TIME, "the query took too long"),
    ("call stack exhausted", ErrorKind.STACK, "the contract recursed too deep"),
    (
        "out of bounds memory access",
        ErrorKind.STACK,
        "the guest left its memory: its stack is full",
    ),
    ("fuel allocated for hostcalls", ErrorKind.OUTPUT, "too many bytes leave the guest at once"),
    ("rust_oom", ErrorKind.MEMORY, "the contract's memory is full"),
)


def ended_of(message: str) -> Ended:
    for words, kind, text in TRAPS:
        if words in message:
            return Ended(kind, text)
    text = "the guest broke: its memory is full, or it asked for what is not there, as files"
    return Ended(ErrorKind.TRAP, text)


# Host functions: arguments and results lie in values of `capi.VAL_BYTES` in a row.

HostFunction = Callable[[Call, int, int], None]


def _get(call: Call, arguments: int, results: int) -> None:
    value = call.get(_bounded(call, arguments))
    call.charge(len(value or b""))
    capi.write_option_bytes(results, value)


def _set(call: Call, arguments: int, _results: int) -> None:
    some = capi.read_option(arguments + capi.VAL_BYTES)
    key_bytes = capi.read_size(arguments)
    value_bytes = 0 if some is None else capi.read_size(some)
    call.check_write(key_bytes, value_bytes)
    call.charge(key_bytes + value_bytes)
    call.set(capi.read_bytes(arguments), None if some is None else capi.read_bytes(some))


def _scan(call: Call, arguments: int, results: int) -> None:
    prefix = _bounded(call, arguments)
    start = _bounded(call, arguments + capi.VAL_BYTES)
    found = call.scan(prefix, start, capi.read_number(arguments + 2 * capi.VAL_BYTES, 4))
    call.charge(sum(len(key) + len(value) + 64 for key, value in found))
    capi.write_pairs(results, found)


def _log(call: Call, arguments: int, _results: int) -> None:
    size_bytes = capi.read_size(arguments + capi.VAL_BYTES)
    if size_bytes <= call.limits.log_bytes_max:
        call.log(size_bytes, cut(capi.read_text(arguments + capi.VAL_BYTES)))


def _emit(call: Call, arguments: int, _results: int) -> None:
    name, data = arguments, arguments + capi.VAL_BYTES
    call.check_event(capi.read_size(name), capi.read_size(data))
    call.charge(capi.read_size(data))
    call.events.append((capi.read_text(name), capi.read_bytes(data)))


def _block(call: Call, _arguments: int, results: int) -> None:
    info = call.info
    capi.write_record(
        results, {"number": info.number, "time-ms": info.time_ms, "hash": info.hash}
    )  # fmt: skip


def _caller(call: Call, _arguments: int, results: int) -> None:
    capi.write_option_bytes(results, call.account)


def _seed(call: Call, _arguments: int, results: int) -> None:
    capi.write_bytes(results, call.dice)


def _blake2(call: Call, arguments: int, results: int) -> None:
    capi.write_bytes(results, call.blake2_256(_bounded(call, arguments)))


def _sha256(call: Call, arguments: int, results: int) -> None:
    capi.write_bytes(results, call.sha2_256(_bounded(call, arguments)))


def _bounded(call: Call, at: int) -> bytes:
    size_bytes = capi.read_size(at)
    if size_bytes > VALUE_BYTES_MAX:
        call.end(ErrorKind.STATE, f"{size_bytes} bytes at once; at most {VALUE_BYTES_MAX}")
    call.charge(size_bytes)
    return capi.read_bytes(at)


HOST_FUNCTIONS: Final[dict[str, HostFunction]] = {
    "get": _get,
    "set": _set,
    "scan": _scan,
    "log": _log,
    "emit": _emit,
    "block": _block,
    "caller": _caller,
    "seed": _seed,
    "blake2b256": _blake2,
    "sha256": _sha256,
}
