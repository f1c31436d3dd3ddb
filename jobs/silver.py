"""Silver alone: what silver has not seen of bronze, parsed and checked. `spark-submit jobs/silver.py --source S`."""

from jobs.cli import run_layer

if __name__ == "__main__":
    run_layer("silver")
