"""Does the HTTP service answer? Exit code 0 and its answer if it does, 1 and the reason if it does not.

.venv/bin/python scripts/api_health.py http://127.0.0.1:5000/health    the process answers, so entries are received
.venv/bin/python scripts/api_health.py http://127.0.0.1:5000/ready     and the tables of a release can be read
"""

import sys
import urllib.error
import urllib.request


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    # A proxy that the machine uses for the internet knows nothing of this one.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(arguments[0], timeout=5) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as error:
        print(f"{arguments[0]} answers {error.code}: {error.read().decode(errors='replace')}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"nothing answers at {arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
