"""What the metadata of a chain says, as the `scalecodec` of this Python reads it: the original of
substrate-interface, or cyscale's of async-substrate-interface. Prints one JSON object in its shape.

python python/metadata.py METADATA.scale
"""

import json
import sys
from pathlib import Path

from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.type_registry import load_type_registry_preset

config = RuntimeConfigurationObject()
for preset in ("legacy", "core"):
    config.update_type_registry(load_type_registry_preset(preset))
data = ScaleBytes(bytearray(Path(sys.argv[1]).read_bytes()))
read = config.create_scale_object("MetadataVersioned", data)
read.decode()
((_, body),) = read.value[1].items()
print(json.dumps(body))
