"""What a one-worker trial of a search costs beside its training, after the first one.

``search_trial.seconds_beyond_training``: from the start of a trial to its end, less the time of its optimizer steps;
the median over all trials but the first, which starts the process that the others reuse. Evaluations, checkpoints and
the writing of the student count as beyond. Takes about two minutes.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from raydistill.search.campaign import run_campaign
from raydistill.search.results import Trial
from raydistill.training.history import read_history
from toys.search import make_search, write_job

MOST_SECONDS = 10.0
GOAL_SECONDS = 5.0


def training_seconds(trial: Trial) -> float:
    """The time of a trial's steps: its tokens over their speed, from one logged step to the next."""
    seconds, before = 0.0, 0.0
    for line in read_history(trial.folder):
        if "speed/tokens_per_s" in line:
            seconds += (line["progress/tokens"] - before) / line["speed/tokens_per_s"]
            before = line["progress/tokens"]
    return seconds


def main() -> None:
    """Print the figure."""
    os.environ.pop("RAY_ADDRESS", None)
    # Processes of the cluster import the toy models' functions.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_job(folder)
        space = {"method.temperature": {"uniform": [1, 4]}}
        search = make_search(folder, space=space, scheduler="fifo", budget={"trials": 6}, max_concurrent=1)
        result = run_campaign(search, resume=False, echo=lambda line: print(line, file=sys.stderr))  # noqa: T201
        beyond = [trial.seconds - training_seconds(trial) for trial in result.trials[1:]]
    value = statistics.median(beyond)
    figure = {"name": "search_trial.seconds_beyond_training", "value": round(value, 3), "unit": "s"}
    figure |= {"bound": MOST_SECONDS, "met": value <= MOST_SECONDS, "goal": GOAL_SECONDS}
    print(json.dumps(figure))  # noqa: T201


if __name__ == "__main__":
    main()
