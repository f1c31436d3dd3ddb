"""Is the Spark cluster up? Exit code 0 and one line if it is, 1 and the reason if it is not.

.venv/bin/python scripts/spark_health.py http://127.0.0.1:8080              the master is alive
.venv/bin/python scripts/spark_health.py http://127.0.0.1:8080 127.0.0.1    and has an alive worker on that host
"""

import json
import sys
import urllib.request
from typing import Any


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    web_page, worker_host = arguments[0], arguments[1] if len(arguments) == 2 else None
    try:
        state = master_state(web_page)
    except (OSError, ValueError) as error:
        print(f"no Spark master answers at {web_page}: {error}", file=sys.stderr)
        return 1
    if problem := find_problem(state, worker_host):
        print(problem, file=sys.stderr)
        return 1
    print(f"alive: {state['url']}, {state['aliveworkers']} worker(s)")
    return 0


def master_state(web_page: str) -> dict[str, Any]:
    """What the master at this address of its web page says of itself; OSError or ValueError if nothing sensible."""
    # A proxy that the machine uses for the internet knows nothing of this one.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{web_page.rstrip('/')}/json/", timeout=5) as answer:
        text = answer.read()
    try:
        state = json.loads(text)
    except ValueError:
        # A master that is starting serves its page for people under every address, until that of its state is there.
        state = None
    if not isinstance(state, dict) or "status" not in state:
        raise ValueError("the answer is not the state of a Spark master, or not yet")
    return state


def find_problem(state: dict[str, Any], worker_host: str | None) -> str | None:
    """Why the cluster is not ready: the master's state, or no alive worker on `worker_host` if one is asked for."""
    if state["status"] != "ALIVE":
        return f"the Spark master is {state['status']}"
    if worker_host is None or any((w["host"], w["state"]) == (worker_host, "ALIVE") for w in state["workers"]):
        return None
    known = ", ".join(f"{worker['host']} {worker['state']}" for worker in state["workers"]) or "none"
    return f"no alive Spark worker on {worker_host}; workers: {known}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
