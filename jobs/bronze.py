"""Bronze alone: what is new in the landing folder, into the bronze tables. `spark-submit jobs/bronze.py --source S`.

The code: `jobs/layers/bronze.py`.
"""

from jobs.cli import run_layer

if __name__ == "__main__":
    run_layer("bronze")
