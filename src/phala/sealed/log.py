"""One JSON object a line on stderr. What is logged is chosen word by word: never a plaintext."""

import json
import sys
import time


def log(event: str, **fields: str | int) -> None:
    record = {"time": round(time.time(), 3), "service": "sealed", "event": event, **fields}
    sys.stderr.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stderr.flush()
