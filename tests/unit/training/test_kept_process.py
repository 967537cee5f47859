"""Which trainings run in a process that is kept."""

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.training.kept_process import is_kept


@pytest.mark.parametrize(
    ("scaling", "address", "kept"),
    [
        ({"num_workers": 1}, "", True),
        ({"num_workers": 1, "cpus_per_worker": 2}, "", True),
        ({"num_workers": 2}, "", False),
        ({"num_workers": 1, "use_gpu": True}, "", False),
        ({"num_workers": 1}, "10.0.0.1:6379", False),
    ],
)
def test_one_worker_on_the_cpus_of_this_machine_is_kept(
    scaling: dict[str, object], address: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert is_kept(ScalingConfig.model_validate(scaling)) is kept
