#!/usr/bin/env bash
# A Spark cluster on this machine alone: a master and two workers on loopback.
#   scripts/cluster.sh                    until it is interrupted
#   scripts/cluster.sh command [argument...]   for as long as the command runs, which finds it in SPARK_MASTER_URL
# Settings: those of spark-master.sh and spark-worker.sh; CLUSTER_WORKERS (2), each with SPARK_WORKER_CORES (1) and
# SPARK_WORKER_MEMORY (2g).
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH=$PWD/.venv/bin:$PATH
export SPARK_MASTER_PORT=${SPARK_MASTER_PORT:-7077} SPARK_MASTER_WEBUI_PORT=${SPARK_MASTER_WEBUI_PORT:-8080}
export SPARK_MASTER_URL=spark://127.0.0.1:$SPARK_MASTER_PORT SPARK_LOCAL_IP=127.0.0.1 SPARK_WORKER_WEBUI_PORT=0
export SPARK_WORKER_CORES=${SPARK_WORKER_CORES:-1} SPARK_WORKER_MEMORY=${SPARK_WORKER_MEMORY:-2g}
workers=${CLUSTER_WORKERS:-2} page=http://127.0.0.1:$SPARK_MASTER_WEBUI_PORT logs=data/logs
mkdir -p -m 700 "$logs"  # texts of exceptions may quote rows

health() { said=$(.venv/bin/python scripts/spark_health.py "$page" 2>&1); }
if health; then  # its workers would go to that one, and its jobs with them
  printf 'error: %s\n' "another cluster is there: $said" \
    "end it, or name other ports: SPARK_MASTER_PORT, SPARK_MASTER_WEBUI_PORT" >&2
  exit 1
fi

processes=()
stop() { kill "${processes[@]}" 2>/dev/null || true; wait "${processes[@]}" 2>/dev/null || true; }
trap stop EXIT

scripts/spark-master.sh >"$logs/spark-master.log" 2>&1 &
processes+=($!)
up() {  # waits until so many workers are there
  for _ in $(seq 60); do
    kill -0 "${processes[0]}" 2>/dev/null || { said="the master has ended"; return 1; }
    health && [[ $said == "alive: $SPARK_MASTER_URL, $1"* ]] && return
    sleep 1
  done
  return 1
}
did_not_start() { echo "error: the cluster did not start: $said; see $logs/spark-*.log" >&2; exit 1; }

up "" || did_not_start
for number in $(seq "$workers"); do
  scripts/spark-worker.sh >"$logs/spark-worker-$number.log" 2>&1 &
  processes+=($!)
done
up "$workers worker(s)" || did_not_start

if [ $# -gt 0 ]; then
  "$@"
else
  echo "$said; web page $page; ends with Ctrl-C"
  echo "next    . .venv/bin/activate; spark-submit --master $SPARK_MASTER_URL --properties-file conf/spark-defaults.conf jobs/run.py"
  wait "${processes[0]}"
fi
