"""Values that we encoded, decoded by the `scalecodec` of this Python and encoded again from what it
understood. Prints one JSON list: of each case the bytes it made, or what it said instead.

python python/codec.py METADATA.scale CASES.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.type_registry import load_type_registry_preset

config = RuntimeConfigurationObject()
for preset in ("legacy", "core"):
    config.update_type_registry(load_type_registry_preset(preset))
config.ss58_format = 30
data = ScaleBytes(bytearray(Path(sys.argv[1]).read_bytes()))
metadata = config.create_scale_object("MetadataVersioned", data)
metadata.decode()
config.add_portable_registry(metadata)
config.set_active_spec_version_id(1)


def by_name(value: Any) -> Any:
    """Without the numbers of calls, which it gives and will not take."""
    if isinstance(value, dict):
        left = {"call_index", "call_hash"} if "call_index" in value else set()
        return {key: by_name(each) for key, each in value.items() if key not in left}
    return [by_name(each) for each in value] if isinstance(value, list) else value


def recoded(kind: int | str, text: str) -> str:
    name = kind if isinstance(kind, str) else f"scale_info::{kind}"
    source = ScaleBytes(bytearray.fromhex(text))
    read: Any = config.create_scale_object(name, source, metadata=metadata)
    value = read.decode(check_remaining=True)
    made: Any = config.create_scale_object(name, metadata=metadata)
    return bytes(made.encode(by_name(value)).data).hex()


out = []
for kind, text, _ in json.loads(Path(sys.argv[2]).read_text()):
    try:
        out.append(recoded(kind, text))
    except Exception as error:  # noqa: BLE001 - whatever it says is the answer
        out.append(f"{type(error).__name__}: {error}"[:200])
print(json.dumps(out))
