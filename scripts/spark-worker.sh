#!/usr/bin/env bash
# Runs a Spark worker in the foreground.
#   SPARK_MASTER_URL          the master, written as the master itself does (spark://127.0.0.1:7077)
#   SPARK_LOCAL_IP            address or name to listen on and to be reached by (127.0.0.1)
#   SPARK_WORKER_PORT         port for the master and drivers (a free one)
#   SPARK_WORKER_WEBUI_PORT   port of the web page (8081)
#   SPARK_WORKER_CORES        cores to offer (all)
#   SPARK_WORKER_MEMORY       memory to offer (all but 1 GB)
#   SPARK_WORKER_DIR          where executors keep jars and their logs (data/spark-worker)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/spark.sh

# What finished applications leave behind goes after a day.
export SPARK_WORKER_OPTS="-Dspark.worker.cleanup.enabled=true -Dspark.worker.cleanup.appDataTtl=86400 ${SPARK_WORKER_OPTS:-}"
export SPARK_WORKER_DIR=${SPARK_WORKER_DIR:-$PWD/data/spark-worker}
mkdir -p -m 700 "$SPARK_WORKER_DIR"  # texts of exceptions in the logs may quote rows

exec "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.worker.Worker \
  --host "$SPARK_LOCAL_IP" --port "${SPARK_WORKER_PORT:-0}" --webui-port "${SPARK_WORKER_WEBUI_PORT:-8081}" \
  "${SPARK_MASTER_URL:-spark://127.0.0.1:7077}"
