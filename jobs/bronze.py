"""Bronze alone: what is new in the landing folder, into the bronze tables. `spark-submit jobs/bronze.py --source S`."""

from jobs.cli import run_layer

if __name__ == "__main__":
    run_layer("bronze")
