#!/usr/bin/env bash
# All tests, in two processes at once: those that need the Spark session, which plans on one core most of the time, and
# the others. Arguments go to both.
set -uo pipefail
cd "$(dirname "$0")/.."
said=$(mktemp)
.venv/bin/pytest -m "not spark" "$@" >"$said" 2>&1 &
# In the background it does not hear Ctrl-C by itself.
trap 'kill $! 2>/dev/null; rm -f "$said"' EXIT
.venv/bin/pytest -m spark "$@"
with_session=$?
wait $!
others=$?
cat "$said"
exit $((with_session || others))
