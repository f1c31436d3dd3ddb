#!/usr/bin/env bash
# Sets up this folder: uv (if the machine has none), the locked Python packages, the jars. Never needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'error: %s\n' "$@" >&2; exit 2; }

# uv trusts its own list of certificates; behind a company's proxy only the machine's list helps. What fails shows then.
with_uv() { "$UV" "$@" 2>/dev/null || UV_SYSTEM_CERTS=true "$UV" "$@"; }

"${PYTHON:=python3}" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
  fail "Assay needs Python 3.11, 3.12 or 3.13; '$PYTHON' is $("$PYTHON" --version 2>&1 || true)" \
       "name another one: make setup PYTHON=python3.12"

source scripts/java.sh
require_java

# One at a time; who had to wait for another one need not do it again.
exec 9>.setup.lock
"$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null || {
  echo "setup: waiting for another one"
  "$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}
is_done() {
  local file
  for file in requirements.lock pyproject.toml conf/jars.xml conf/jars-settings.xml scripts/setup.sh; do
    [ .venv/.ready -nt "$file" ] || return 1
  done
  [ -e .jars/.ready ]
}
if is_done; then exit; fi

if [ ! -x "$(command -v "$UV" 2>/dev/null)" ]; then
  echo "setup: fetching uv $UV_VERSION into .tools/"
  "$PYTHON" -m venv .tools || fail "'$PYTHON -m venv' failed; on Debian: sudo apt install python3-venv"
  .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" ||
    fail "uv $UV_VERSION could not be fetched from the Python package index" "check the network or the proxy, then call make setup again"
  UV=.tools/bin/uv
fi

echo "setup: Python packages into .venv/ (requirements.lock)"
[ -x .venv/bin/python ] || "$UV" venv --quiet --python "$PYTHON" .venv
with_uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock ||
  fail "the Python packages of requirements.lock could not be installed (see above)" "check the network or the proxy, then call make setup again"
with_uv pip install --quiet --no-deps --python .venv/bin/python --editable . ||
  fail "Assay itself could not be installed into .venv (see above)"

echo "setup: jars into .jars/ (conf/jars.xml)"
rm -rf .jars.new  # which becomes .jars when all are there: half a jar, of a full disk, would stay
ivy=$(.venv/bin/python -c 'import pathlib, pyspark; print(*pathlib.Path(pyspark.__file__).parent.glob("jars/ivy-*.jar"))')
"$JAVA" -Dassay.jars.cache="$PWD/.tools/ivy" -jar "$ivy" -settings conf/jars-settings.xml -ivy conf/jars.xml \
  -retrieve '.jars.new/[artifact]-[revision].[ext]' -warn >.tools-ivy.log 2>&1 ||
  { cat .tools-ivy.log >&2; rm -f .tools-ivy.log
    fail "the jars of conf/jars.xml could not be fetched (the module and the address are named above)" \
         "check the network or the proxy, or name your mirror in conf/jars-settings.xml, then call make setup again"; }
rm -f .tools-ivy.log
rm -rf .jars
mv .jars.new .jars
touch .venv/.ready  # in this order: make has what is older made again
touch .jars/.ready
echo "setup: done"
