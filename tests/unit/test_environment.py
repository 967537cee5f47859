import os
import subprocess
import sys

SHOW = """
import sys
from raydistill.__main__ import main
sys.argv = ["raydistill", "ls", "jobs"]
try:
    main()
except SystemExit:
    pass
from huggingface_hub import constants
from datasets import config
from raydistill.tracking.quiet import load_mlflow
load_mlflow()
from mlflow.telemetry.client import get_telemetry_client
from mlflow.telemetry.utils import is_telemetry_disabled
from ray._common.usage.usage_lib import usage_stats_enabled
print("telemetry of", [name for name, is_on in {
    "hub": not constants.HF_HUB_DISABLE_TELEMETRY,
    "datasets": config.HF_UPDATE_DOWNLOAD_COUNTS,
    "mlflow": not is_telemetry_disabled() or get_telemetry_client() is not None,
    "ray": usage_stats_enabled(),
}.items() if is_on])
"""
SWITCHES = ("DO_NOT_TRACK", "TELEMETRY", "USAGE_STATS", "DOWNLOAD_COUNTS", "CI", "GITHUB_ACTIONS", "PYTEST")


def test_no_library_phones_home():
    environment = {name: value for name, value in os.environ.items() if not any(word in name for word in SWITCHES)}
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "telemetry of []"
