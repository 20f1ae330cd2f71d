"""A driver in a process of its own, for tests that kill or interrupt it: python drive.py RUN TRIALS SLEEP_S [PARALLEL]."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])


def main() -> None:
    from searches import make_plan
    from synthetic import Synthetic

    from tune import cluster
    from tune.driver import run_search
    from tune.run_dir import RunDir

    path, trials, sleep_s, parallel = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    run = RunDir.open(path) if path.exists() else RunDir.create(path.parent, path.name, {"call": {}})
    with cluster.connected(None):
        outcome = run_search(make_plan(trials, parallel=parallel), run, Synthetic(sleep_s=sleep_s))
    print(outcome.why, outcome.left)


if __name__ == "__main__":
    main()
