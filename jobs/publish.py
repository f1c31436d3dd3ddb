"""Publishing alone: what has changed in gold, into Postgres. `spark-submit jobs/publish.py --source S`.

The code: `jobs/layers/publish.py`.
"""

from jobs.cli import run_layer

if __name__ == "__main__":
    run_layer("publish")
