"""A whole run: every layer of the chosen sources in one session. `spark-submit jobs/run.py --source S`.

The code: `jobs/layers/run.py`.
"""

from jobs.cli import main

if __name__ == "__main__":
    main(["run"])
