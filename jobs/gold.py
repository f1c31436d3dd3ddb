"""Gold alone: tables of which the inputs or the code have changed. `spark-submit jobs/gold.py --source S`."""

from jobs.cli import run_layer

if __name__ == "__main__":
    run_layer("gold")
