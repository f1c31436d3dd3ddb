# Sourced by spark-master.sh and spark-worker.sh: the Spark of make setup, this project's settings, loopback unless told.
fail() { printf 'error: %s\n' "$@" >&2; exit 2; }

source scripts/java.sh
require_java
[ -x .venv/bin/python ] || fail "Spark is not set up in $PWD" "call make setup once"

# Never another Spark that happens to be on this machine: master, workers and driver must be the same version.
SPARK_HOME=$(.venv/bin/python -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent)')
# Executors inherit conf/log4j2.properties from the worker: at Spark's own level they would log file names.
SPARK_CONF_DIR=$PWD/conf
SPARK_LOCAL_IP=${SPARK_LOCAL_IP:-127.0.0.1}
# Master and workers wait more than they work: only the quick compiler, with which they start at half the processor time.
SPARK_DAEMON_JAVA_OPTS="-Dassay.log.level=info -XX:TieredStopAtLevel=1 ${SPARK_DAEMON_JAVA_OPTS:-}"
# Executors start Python workers as `python3`, and inherit from the worker where to look for it.
PATH=$PWD/.venv/bin:$PATH
# Else Java finds no file whose name has other letters than ASCII.
[[ $(locale charmap 2>/dev/null) == UTF-8 ]] || export LC_ALL=C.UTF-8
export PATH SPARK_HOME SPARK_CONF_DIR SPARK_LOCAL_IP SPARK_DAEMON_JAVA_OPTS
