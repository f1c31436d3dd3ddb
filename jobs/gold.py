"""Gold alone: tables of which the inputs or the code have changed. `spark-submit jobs/gold.py --source S`.

The code: `jobs/layers/gold.py`.
"""

from jobs.cli import run_layer

if __name__ == "__main__":
    run_layer("gold")
