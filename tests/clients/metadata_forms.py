"""Metadata as each decoder tells it, brought to one form that can be compared field by field.

The form: plain dicts and lists; a type is its number; bytes are hex; a definition is
`[kind, what]` with the kinds of the `scale-info` crate.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from phala.sdk import metadata as ours
from phala.sdk import portable

Json: TypeAlias = Any
HASHERS = (
    "Blake2_128", "Blake2_256", "Blake2_128Concat",
    "Twox128", "Twox256", "Twox64Concat", "Identity",
)  # fmt: skip
PRIMITIVES = (
    "bool", "char", "str", "u8", "u16", "u32", "u64", "u128", "u256",
    "i8", "i16", "i32", "i64", "i128", "i256",
)  # fmt: skip
POLKADOT_JS_EXTRINSIC = ("addressType", "callType", "signatureType", "extraType")
SCALECODEC_EXTRINSIC = ("address_ty", "call_ty", "signature_ty", "extra_ty")


# ---- @polkadot/types


def from_polkadot_types(body: Json) -> Json:
    return {
        "types": [
            _type(each["id"], each["type"], _polkadot_definition(each["type"]["def"]))
            for each in body["lookup"]["types"]
        ],
        "pallets": [
            {
                "name": each["name"],
                "index": each["index"],
                "storage": each["storage"] and {
                    "prefix": each["storage"]["prefix"],
                    "items": [
                        {
                            "name": item["name"],
                            "modifier": item["modifier"],
                            "type": _polkadot_storage(item["type"]),
                            "default": item["fallback"],
                            "docs": item["docs"],
                        }
                        for item in each["storage"]["items"]
                    ],
                },
                "calls": each["calls"] and each["calls"]["type"],
                "events": each["events"] and each["events"]["type"],
                "errors": each["errors"] and each["errors"]["type"],
                "constants": [_constant(one) for one in each["constants"]],
            }
            for each in body["pallets"]
        ],
        "extensions": [
            [each["identifier"], each["type"], each["additionalSigned"]]
            for each in body["extrinsic"]["signedExtensions"]
        ],
        "extrinsic": _ids(body["extrinsic"], ("type",), POLKADOT_JS_EXTRINSIC),
        "runtime": body["type"],
        "apis": _apis(body.get("apis", []), "type"),
        "outer": _ids(body.get("outerEnums"), ("callType", "eventType", "errorType")),
    }  # fmt: skip


def _polkadot_definition(definition: Json) -> Json:
    ((kind, what),) = definition.items()
    match kind:
        case "composite":
            return [kind, [_field(each) for each in what["fields"]]]
        case "variant":
            return [kind, [_case(each) for each in what["variants"]]]
        case "sequence" | "compact":
            return [kind, what["type"]]
        case "array":
            return [kind, [what["len"], what["type"]]]
        case "primitive":
            return [kind, what.lower()]
        case "tuple":
            return [kind, what]
        case _:
            return ["bits", list(what.values())]


def _polkadot_storage(kind: Json) -> Json:
    if "plain" in kind:
        return ["plain", kind["plain"]]
    return ["map", kind["map"]["hashers"], kind["map"]["key"], kind["map"]["value"]]


# ---- @polkadot-api/substrate-bindings


def from_bindings(body: Json) -> Json:
    return {
        "types": [
            _type(each["id"], each, _bindings_definition(each["def"])) for each in body["lookup"]
        ],
        "pallets": [
            {
                "name": each["name"],
                "index": each["index"],
                "storage": each.get("storage") and {
                    "prefix": each["storage"]["prefix"],
                    "items": [
                        {
                            "name": item["name"],
                            "modifier": ("Optional", "Default")[item["modifier"]],
                            "type": _bindings_storage(item["type"]),
                            "default": item["fallback"],
                            "docs": item["docs"],
                        }
                        for item in each["storage"]["items"]
                    ],
                },
                "calls": _bindings_id(each.get("calls")),
                "events": _bindings_id(each.get("events")),
                "errors": _bindings_id(each.get("errors")),
                "constants": [_constant(one) for one in each["constants"]],
            }
            for each in body["pallets"]
        ],
        "extensions": [
            [each["identifier"], each["type"], each["additionalSigned"]]
            for each in body["extrinsic"]["signedExtensions"]
        ],
        "extrinsic": _ids(body["extrinsic"], ("type",), ("address", "call", "signature", "extra")),
        "runtime": body["type"],
        "apis": _apis(body.get("apis", []), "type"),
        "outer": _ids(body.get("outerEnums"), ("call", "event", "error")),
    }  # fmt: skip


def _bindings_id(kind: Json) -> Json:
    return kind["type"] if isinstance(kind, dict) else kind


def _bindings_definition(definition: Json) -> Json:
    kind, what = definition["tag"], definition["value"]
    match kind:
        case "composite":
            return [kind, [_field(each) for each in what]]
        case "variant":
            return [kind, [_case(each) for each in what]]
        case "array":
            return [kind, [what["len"], what["type"]]]
        case "primitive":
            return [kind, what["tag"]]
        case "sequence" | "compact" | "tuple":
            return [kind, what]
        case _:
            return ["bits", list(what.values())]


def _bindings_storage(kind: Json) -> Json:
    what = kind["value"]
    if kind["tag"] == "plain":
        return ["plain", what]
    hashers = [each["tag"].replace("Blake2", "Blake2_") for each in what["hashers"]]
    return ["map", hashers, what["key"], what["value"]]


# ---- scalecodec, cyscale


def from_scalecodec(body: Json) -> Json:
    return {
        "types": [
            _type(each["id"], each["type"], _scalecodec_definition(each["type"]["def"]))
            for each in body["types"]["types"]
        ],
        "pallets": [
            {
                "name": each["name"],
                "index": each["index"],
                "storage": each["storage"] and {
                    "prefix": each["storage"]["prefix"],
                    "items": [
                        {
                            "name": item["name"],
                            "modifier": item["modifier"],
                            "type": _scalecodec_storage(item["type"]),
                            "default": _scalecodec_bytes(item["default"]),
                            "docs": item["documentation"],
                        }
                        for item in each["storage"]["entries"]
                    ],
                },
                "calls": each["calls"] and each["calls"]["ty"],
                "events": each["event"] and each["event"]["ty"],
                "errors": each["error"] and each["error"]["ty"],
                "constants": [
                    {
                        "name": one["name"],
                        "type": one["type"],
                        "value": _scalecodec_bytes(one["value"]),
                        "docs": one["documentation"],
                    }
                    for one in each["constants"]
                ],
            }
            for each in body["pallets"]
        ],
        "extensions": [
            [each["identifier"], each["ty"], each["additional_signed"]]
            for each in body["extrinsic"]["signed_extensions"]
        ],
        "extrinsic": _ids(body["extrinsic"], ("ty",), SCALECODEC_EXTRINSIC),
        "runtime": body["runtime_type"],
        "apis": _apis(body.get("apis", []), "ty"),
        "outer": _ids(body.get("outer_enums"), ("call_enum_ty", "event_enum_ty", "error_enum_ty")),
    }  # fmt: skip


def _scalecodec_bytes(text: str) -> str:
    """It shows bytes as text where they are UTF-8."""
    return text if text.startswith("0x") else "0x" + text.encode().hex()


def _scalecodec_definition(definition: Json) -> Json:
    if "bitsequence" in definition:
        return ["bits", list(definition["bitsequence"].values())]
    return _polkadot_definition(definition)


def _scalecodec_storage(kind: Json) -> Json:
    if "Plain" in kind:
        return ["plain", kind["Plain"]]
    return ["map", kind["Map"]["hashers"], kind["Map"]["key"], kind["Map"]["value"]]


# ---- our own reader


def from_ours(body: ours.BodyV14 | ours.BodyV15) -> Json:
    pallets = (
        tuple(each.pallet for each in body.pallets)
        if isinstance(body, ours.BodyV15)
        else body.pallets
    )
    extrinsic = body.extrinsic
    return {
        "types": [
            {
                "id": each.id,
                "path": list(each.path),
                "params": [[one.name, one.type] for one in each.parameters],
                "definition": _our_definition(each.definition),
                "docs": list(each.docs),
            }
            for each in body.types
        ],
        "pallets": [_our_pallet(each) for each in pallets],
        "extensions": [
            [each.identifier, each.type, each.additional] for each in extrinsic.extensions
        ],
        "extrinsic": [extrinsic.type]
        if isinstance(extrinsic, ours.ExtrinsicV14)
        else [extrinsic.address, extrinsic.call, extrinsic.signature, extrinsic.extra],
        "runtime": body.runtime,
        "apis": [
            {
                "name": api.name,
                "methods": [
                    {
                        "name": method.name,
                        "inputs": [[one.name, one.type] for one in method.inputs],
                        "output": method.output,
                        "docs": list(method.docs),
                    }
                    for method in api.methods
                ],
                "docs": list(api.docs),
            }
            for api in (body.apis if isinstance(body, ours.BodyV15) else ())
        ],
        "outer": [body.outer.call, body.outer.event, body.outer.error]
        if isinstance(body, ours.BodyV15)
        else None,
    }


def _our_pallet(pallet: ours.PalletInfo) -> Json:
    return {
        "name": pallet.name,
        "index": pallet.index,
        "storage": pallet.storage
        and {
            "prefix": pallet.storage.prefix,
            "items": [
                {
                    "name": item.name,
                    "modifier": ("Optional", "Default")[item.modifier],
                    "type": ["plain", item.shape.value]
                    if isinstance(item.shape, ours.Plain)
                    else [
                        "map",
                        [HASHERS[each] for each in item.shape.hashers],
                        item.shape.key,
                        item.shape.value,
                    ],
                    "default": "0x" + item.default.hex(),
                    "docs": list(item.docs),
                }
                for item in pallet.storage.entries
            ],
        },
        "calls": pallet.calls and pallet.calls.type,
        "events": pallet.events and pallet.events.type,
        "errors": pallet.errors and pallet.errors.type,
        "constants": [
            {
                "name": each.name,
                "type": each.type,
                "value": "0x" + each.value.hex(),
                "docs": list(each.docs),
            }
            for each in pallet.constants
        ],
    }


def _our_definition(definition: portable.Definition) -> Json:
    match definition:
        case portable.Composite(fields):
            return ["composite", [_our_field(each) for each in fields]]
        case portable.Variant(cases):
            return [
                "variant",
                [
                    {
                        "name": each.name,
                        "index": each.index,
                        "fields": [_our_field(one) for one in each.fields],
                        "docs": list(each.docs),
                    }
                    for each in cases
                ],
            ]
        case portable.Sequence(item):
            return ["sequence", item]
        case portable.Array(size, item):
            return ["array", [size, item]]
        case portable.Tuple(items):
            return ["tuple", list(items)]
        case portable.Primitive(index):
            return ["primitive", PRIMITIVES[index]]
        case portable.Compacted(inner):
            return ["compact", inner]
        case portable.Bits(store, order):
            return ["bits", [store, order]]


def _our_field(field: portable.Field) -> Json:
    return {
        "name": field.name,
        "type": field.type,
        "type_name": field.type_name,
        "docs": list(field.docs),
    }


# ---- what they share


def _type(number: int, entry: Mapping[str, Json], definition: Json) -> Json:
    return {
        "id": number,
        "path": entry["path"],
        "params": [[each["name"], each.get("type")] for each in entry["params"]],
        "definition": definition,
        "docs": entry["docs"],
    }


def _field(field: Mapping[str, Json]) -> Json:
    return {
        "name": field.get("name"),
        "type": field["type"],
        "type_name": field.get("typeName"),
        "docs": field["docs"],
    }


def _case(case: Mapping[str, Json]) -> Json:
    return {
        "name": case["name"],
        "index": case["index"],
        "fields": [_field(each) for each in case["fields"]],
        "docs": case["docs"],
    }


def _constant(entry: Mapping[str, Json]) -> Json:
    return {name: entry[name] for name in ("name", "type", "value", "docs")}


def _ids(entry: Mapping[str, Json] | None, *names: tuple[str, ...]) -> Json:
    """The numbers under the first set of names that is there."""
    for each in names:
        if entry is not None and each[0] in entry:
            return [entry[name] for name in each]
    return None


def _apis(apis: list[Json], kind: str) -> Json:
    return [
        {
            "name": api["name"],
            "methods": [
                {
                    "name": method["name"],
                    "inputs": [[each["name"], each[kind]] for each in method["inputs"]],
                    "output": method["output"],
                    "docs": method["docs"],
                }
                for method in api["methods"]
            ],
            "docs": api["docs"],
        }
        for api in apis
    ]


FORMS: Mapping[str, Callable[[Json], Json]] = {
    "@polkadot/types": from_polkadot_types,
    "substrate-bindings": from_bindings,
    "scalecodec": from_scalecodec,
}
