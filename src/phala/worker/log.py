"""One JSON object a line on stderr."""

import json
import sys
import time


def log(event: str, **fields: str | int) -> None:
    record = {"time": round(time.time(), 3), "service": "worker", "event": event, **fields}
    sys.stderr.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stderr.flush()
