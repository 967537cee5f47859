"""Weights that wait in a file until they are needed."""

from pathlib import Path

import pytest
import torch

from raydistill.models.offloading import put_away, weights_present
from raydistill.models.predictions import predict
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.models import toy_bert

CPU = torch.device("cpu")


def weights(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["bert_classes", "gpt2_classes"])
def test_a_model_that_was_put_away_says_the_same_and_holds_no_weight_besides(name: str) -> None:
    batch, head = toy_labelled_batch("classes"), "sequence_classification"
    model = CLASSIFIERS[name](3).eval()
    before = predict(model, batch, head=head, with_states=True)
    count = weights(model)
    put_away(model, device=CPU)
    for _ in range(2):
        assert weights(model) == 0
        with weights_present(model):
            assert weights(model) == count
            again = predict(model, batch, head=head, with_states=True)
    assert weights(model) == 0
    # Addresses of mapped weights are aligned otherwise, which changes what is added first.
    torch.testing.assert_close(again.logits, before.logits, atol=1e-12, rtol=0)
    torch.testing.assert_close(again.states, before.states, atol=1e-12, rtol=0)


def test_weights_stay_until_the_outermost_block_ends() -> None:
    model = put_away(CLASSIFIERS["bert_classes"](1), device=CPU)
    with weights_present(model):
        with weights_present(model):
            pass
        assert weights(model) > 0
    with pytest.raises(RuntimeError), weights_present(model):
        raise RuntimeError
    assert weights(model) == 0


def test_tied_weights_stay_one() -> None:
    model = put_away(toy_bert(1), device=CPU)
    with weights_present(model):
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_on_the_cpu_weights_are_mapped_from_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = put_away(toy_bert(1), device=CPU)
    assert not list(tmp_path.iterdir())
    with weights_present(model):
        address = next(model.parameters()).data_ptr()
        assert str(tmp_path) in mapping_of(address)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def mapping_of(address: int) -> str:
    """The line of this process's memory map that an address lies in."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(edge, 16) for edge in line.split()[0].split("-"))
        if first <= address < last:
            return line
    raise AssertionError("the address is nowhere")


def test_a_model_that_was_not_put_away_is_left_as_it_is() -> None:
    model = CLASSIFIERS["bert_classes"](1)
    before = next(model.parameters()).data_ptr()
    with weights_present(model):
        assert next(model.parameters()).data_ptr() == before
    assert next(model.parameters()).data_ptr() == before
