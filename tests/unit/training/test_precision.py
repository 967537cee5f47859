"""What auto decides of a CPU: by what was measured, once for a machine and a shape."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.training import precision
from raydistill.training.precision import FILE, Choice, Shape, choose, decided, measure

SHAPE = Shape(rows=2, tokens=16, hidden=128, intermediate=256, heads=2, blocks=2, vocabulary=500)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path))
    return tmp_path / FILE


def seconds(fp32: float, bf16: float, *, softmax: float = 0.0) -> dict[str, dict[str, float]]:
    return {
        "fp32": {"matrix": fp32, "attention": 0.0, "softmax": softmax},
        "bf16": {"matrix": bf16, "attention": 0.0, "softmax": 0.0},
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (seconds(0.03, 0.01), "bf16"),
        (seconds(0.03, 0.03), "fp32"),
        (seconds(0.01, 0.036), "fp32"),
        # The gain has to pay for the optimizer's copies, and losses compute softmax in float32 anyhow.
        (seconds(0.0115, 0.01), "fp32"),
        (seconds(0.03, 0.01, softmax=0.2), "fp32"),
    ],
)
def test_bf16_is_chosen_where_a_pass_is_faster_in_it_by_a_fifth(found: Any, expected: str) -> None:
    assert decided(found).precision == expected


def test_the_reason_names_both_times() -> None:
    assert decided(seconds(0.03, 0.01)) == Choice(
        "bf16", "a forward pass at these shapes was measured to take 10.0 ms in bf16 and 30.0 ms in fp32"
    )


def test_every_part_is_measured_in_both_types_and_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    found = measure(SHAPE, num_threads=1)
    assert torch.get_num_threads() == before
    assert list(found) == ["fp32", "bf16"]
    assert all(set(parts) == {"matrix", "attention", "softmax"} for parts in found.values())
    assert all(0 < one < 10 for parts in found.values() for one in parts.values())


def test_a_pass_is_measured_once_for_a_shape_a_machine_and_its_threads(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def measured(shape: Shape, *, num_threads: int) -> dict[str, dict[str, float]]:
        calls.append(num_threads)
        return seconds(0.03, 0.01)

    monkeypatch.setattr(precision, "measure", measured)
    assert [choose(SHAPE, num_threads=number).precision for number in (1, 1, 2, 1)] == ["bf16"] * 4
    assert calls == [1, 2]
    first, second = map(json.loads, json.loads(cache.read_text()))
    assert (first.pop("threads"), second.pop("threads")) == (1, 2)
    assert first == second
    assert (first["torch"], first["hidden"]) == (torch.__version__, 128)
    monkeypatch.setattr(precision, "_cpu", lambda: "another")
    choose(SHAPE, num_threads=1)
    assert calls == [1, 2, 1]


def test_a_damaged_file_is_measured_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("{")
    monkeypatch.setattr(precision, "measure", lambda shape, num_threads: seconds(0.01, 0.03))
    assert choose(SHAPE, num_threads=1).precision == "fp32"
    assert len(json.loads(cache.read_text())) == 1


def test_a_small_model_is_not_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "measure", None)
    small = Shape(rows=2, tokens=16, hidden=64, intermediate=256, heads=2, blocks=2)
    assert choose(small, num_threads=1) == Choice(
        "fp32", "hidden states of 64 columns are too small to gain from another"
    )
    assert not cache.exists()
