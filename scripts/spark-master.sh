#!/usr/bin/env bash
# Runs a Spark master in the foreground. Nobody is asked who they are: keep it on loopback or in a private network.
#   SPARK_LOCAL_IP            address or name to listen on and to be reached by (127.0.0.1)
#   SPARK_MASTER_PORT         port for workers and drivers (7077)
#   SPARK_MASTER_WEBUI_PORT   port of the web page and of /json/ (8080)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/spark.sh

# Off: its REST port would take jobs from anybody, and Assay submits none that way.
# And no other port where one is taken: workers and drivers would find whose that is, perhaps another cluster.
export SPARK_MASTER_OPTS="-Dspark.master.rest.enabled=false -Dspark.port.maxRetries=0 ${SPARK_MASTER_OPTS:-}"

exec "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.master.Master \
  --host "$SPARK_LOCAL_IP" --port "${SPARK_MASTER_PORT:-7077}" --webui-port "${SPARK_MASTER_WEBUI_PORT:-8080}"
