"""Losses between class logits and labels, one value per row."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from raydistill.losses.reduction import widen


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with class ids, or the squared error of a single score.

    Shapes: logits (N, C); labels (N,) int64, or of scores floating with C = 1; returns (N,). In nats, or squared units
    of the score. Raises ValueError for scores and more than one output. Source: the losses of transformers'
    classifiers.

    >>> rd.losses.label_loss(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
    tensor([4., 4.])
    """
    if not labels.is_floating_point():
        return cross_entropy(widen(logits), labels, reduction="none")
    if logits.shape[-1] != 1:
        raise ValueError(f"labels are scores, but the model has {logits.shape[-1]} outputs; it needs a single one")
    wide = widen(logits).squeeze(-1)
    return (wide - labels.to(wide.dtype)).square()
