"""Compiled blocks: the values of blocks that are not, up to rounding."""

import numpy as np
import pytest
import torch

from raydistill.batch import collate
from raydistill.layout import Layout
from raydistill.losses.chunked_head import logits_of
from raydistill.models import compiling
from raydistill.models.blocks import blocks_of
from toys.models import PAD
from toys.zoo import toy

LENGTHS = ((9, 14, 1, 17), (12, 3, 8), (20, 20))


def batches():
    generator = np.random.default_rng(0)
    return [
        collate([generator.integers(5, 61, length) for length in lengths], range(len(lengths)), pad_id=PAD)
        for lengths in LENGTHS
    ]


def logits_and_gradients(model):
    """Logits (R, V) at the real tokens of each batch, and the gradients of a number that depends on all of them."""
    blocks, found = blocks_of(model), []
    for batch in batches():
        layout = Layout.of(batch["attention_mask"], batch["token_index"])
        states, _ = blocks.forward(layout.take(batch["input_ids"]), layout)
        logits = logits_of(blocks.head_states(states), blocks.head_projection())
        model.zero_grad()
        (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)).sum().backward()
        found.append((logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    return found


@pytest.fixture(autouse=True)
def _compiled_anew():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("bert", "aot_eager"),
        ("llama", "aot_eager"),
        ("modernbert", "aot_eager"),
        pytest.param("bert", "inductor", marks=pytest.mark.slow),
        # Not llama, whose norm computes in float32 in any case, so that rounding shows.
        pytest.param("gpt2", "inductor", marks=pytest.mark.slow),
    ],
)
def test_logits_and_every_gradient_are_those_of_blocks_that_are_not_compiled(name, backend):
    if backend == "inductor" and (missing := compiling.missing_compiler(use_gpu=False)):
        pytest.skip(f"this machine lacks {missing}")
    model = toy(name).double()
    eager = logits_and_gradients(model)
    layers = blocks_of(model).layers
    assert all(layer._compiled_call_impl is None for layer in layers)
    compiling.compile_blocks(model, backend=backend)
    assert all(layer._compiled_call_impl is not None for layer in layers)
    torch._dynamo.utils.counters.clear()
    compiled = logits_and_gradients(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-9)
    # What was compiled serves all that follows.
    seen = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    logits_and_gradients(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == seen


def test_families_whose_blocks_run_in_pieces_are_refused():
    refused = {name: compiling.refusal(toy(name).config, "masked_lm") for name in ("bert", "mpnet", "deberta-v2")}
    assert refused == {
        "bert": None,
        "mpnet": "the blocks of a mpnet run in pieces around their own attention",
        "deberta-v2": "the blocks of a deberta-v2 run in pieces around their own attention",
    }


def test_what_compiles_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "some-compiler")
    assert compiling.missing_compiler(use_gpu=False) == "the compiler some-compiler"
    (tmp_path / "some-compiler").touch(mode=0o755)
    assert compiling.missing_compiler(use_gpu=False) is None
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert compiling.missing_compiler(use_gpu=True) == "the package triton"
