"""Silver alone: what silver has not seen of bronze, parsed and checked. `spark-submit jobs/silver.py --source S`.

The code: `jobs/layers/silver.py`.
"""

from jobs.cli import run_layer

if __name__ == "__main__":
    run_layer("silver")
