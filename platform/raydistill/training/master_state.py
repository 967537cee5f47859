"""The float32 weights and the optimizer state of each trainable parameter, whole and by name, at every ZeRO stage.

DeepSpeed's own setters narrow past the end of a parameter whose size the ranks do not divide, and its checkpoints
load only with as many ranks; so the places where it keeps its float32 weights are read here, without importing it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What DeepSpeed's dynamic loss scalers change while they run."""
_STEP = "step"
"""Name of the count of steps in the state of PyTorch's optimizers."""


@dataclass(frozen=True)
class Share:
    """What a rank holds of a parameter: ``numel`` elements from ``offset`` of ``holder``, from ``start`` of the whole.

    ``holder`` is the float32 tensor that the optimizer steps; its state has the same layout.
    """

    holder: Tensor
    offset: int
    start: int
    numel: int


class MasterState:
    """Float32 weights and optimizer state of ``module``'s trainable parameters, whose optimizer DeepSpeed wrapped.

    ``key`` is the name of a tensor of the optimizer's state (``exp_avg``), None for the weight itself.
    """

    def __init__(self, module: nn.Module, optimizer: Any, *, zero_stage: int) -> None:
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.names = {id(parameter): name for name, parameter in self._parameters.items()}
        """Names of the trainable parameters by identity."""
        self._optimizer = optimizer
        self._zero_stage = zero_stage
        self._torch_optimizer: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        locate = {0: self._whole, 1: self._fragments, 2: self._fragments, 3: self._partitions}[zero_stage]
        self._shares: dict[str, Share | None] = locate()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trainable parameter by name."""
        return {
            name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in self._parameters.items()
        }

    def keys(self) -> list[str]:
        """Names of the tensors that the optimizer keeps for each parameter; none before its first step."""
        states = ((share.holder, self._state(share.holder)) for share in self._shares.values() if share is not None)
        found = {key for holder, state in states for key in state if _has_layout(key, state[key], holder)}
        names: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        # A rank without a share of any parameter has no state of its own to look at.
        dist.all_gather_object(names, sorted(found))
        return sorted({name for part in names for name in part})

    def steps(self) -> dict[str, int]:
        """Optimizer steps of each parameter; all ranks call it."""
        own = {
            name: int(self._state(share.holder).get(_STEP, 0))
            for name, share in self._shares.items()
            if share is not None
        }
        parts: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, own)
        return {name: count for part in parts for name, count in part.items()}

    def gather(self, name: str, key: str | None) -> Tensor:
        """A whole float32 tensor on every rank; all ranks call it."""
        shape, share = self.shapes[name], self._shares[name]
        device = self._parameters[name].device
        whole = torch.zeros(torch.Size(shape).numel(), dtype=torch.float32, device=device)
        if share is not None:
            source = share.holder if key is None else self._state(share.holder).get(key)
            if source is not None:
                part = source.detach().flatten().narrow(0, share.offset, share.numel)
                whole.narrow(0, share.start, share.numel).copy_(part)
        if self._zero_stage > 0:
            dist.all_reduce(whole)
        return whole.view(shape)

    def forget_steps(self) -> None:
        """Leave the optimizer as it is before its first step."""
        self._torch_optimizer.state.clear()

    def holds(self, name: str) -> bool:
        """Whether this rank has a share of a parameter."""
        return self._shares[name] is not None

    @torch.no_grad()
    def put(self, name: str, key: str | None, whole: Tensor) -> None:
        """Keep this rank's share of a whole tensor; ``refresh`` follows when all are put."""
        share = self._shares[name]
        if share is None:
            return
        target = share.holder if key is None else self._tensor(share.holder, key)
        part = whole.flatten().narrow(0, share.start, share.numel)
        target.view(-1).narrow(0, share.offset, share.numel).copy_(part)

    def put_steps(self, steps: Mapping[str, int]) -> None:
        """Set how often each parameter was stepped, so that corrections of the moments' bias continue.

        Ranks that share flat tensors count once for all parameters in one, so the largest count stands for them.
        """
        counts: dict[int, int] = {}
        holders: dict[int, Tensor] = {}
        for name, share in self._shares.items():
            if share is not None:
                counts[id(share.holder)] = max(counts.get(id(share.holder), 0), steps[name])
                holders[id(share.holder)] = share.holder
        for identity, count in counts.items():
            if holders[identity] in self._torch_optimizer.state:
                state = self._torch_optimizer.state[holders[identity]]
                # A fused step reads its count where it computes.
                device = holders[identity].device if self._torch_optimizer.defaults.get("fused") else None
                state[_STEP] = torch.tensor(float(count), device=device)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the float32 weights to the weights that the model computes with; all ranks call it."""
        if self._zero_stage == 0:
            for name, share in self._shares.items():
                if share is not None and share.holder is not self._parameters[name]:
                    self._parameters[name].copy_(share.holder)
        elif self._zero_stage == 3:
            for group in range(len(self._optimizer.fp32_partitioned_groups_flat)):
                self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
        else:
            self._optimizer.update_lp_params()

    def loss_scale(self) -> dict[str, float]:
        """State of the dynamic loss scale, empty where there is none."""
        scaler = self._loss_scaler()
        return {name: getattr(scaler, name) for name in _LOSS_SCALE if hasattr(scaler, name)}

    def put_loss_scale(self, values: Mapping[str, float]) -> None:
        """Continue with a loss scale, if this training has one."""
        scaler = self._loss_scaler()
        for name, value in values.items():
            if hasattr(scaler, name):
                setattr(scaler, name, value)

    def _loss_scaler(self) -> Any:
        scaler = getattr(self._optimizer, "loss_scaler", None) or getattr(self._optimizer, "loss_scale_config", None)
        is_dynamic = getattr(scaler, "dynamic", False) or getattr(scaler, "dynamic_loss_scale", False)
        return scaler if is_dynamic else None

    def _state(self, holder: Tensor) -> dict[str, Any]:
        # Not by index, which would make an entry.
        return self._torch_optimizer.state.get(holder, {})

    def _tensor(self, holder: Tensor, key: str) -> Tensor:
        return self._torch_optimizer.state[holder].setdefault(key, torch.zeros_like(holder))

    def _whole(self) -> dict[str, Share | None]:
        """Stage 0: every rank has every parameter; in half precision a float32 copy of it."""
        half = getattr(self._optimizer, "fp16_groups", [])
        full = getattr(self._optimizer, "fp32_groups", [])
        copies = {id(p): copy for group, of in zip(half, full, strict=True) for p, copy in zip(group, of, strict=True)}
        return {
            name: Share(copies.get(id(parameter), parameter), 0, 0, parameter.numel())
            for name, parameter in self._parameters.items()
        }

    def _fragments(self) -> dict[str, Share | None]:
        """Stages 1 and 2: each rank has one slice of each group's parameters laid end to end."""
        flats = self._optimizer.single_partition_of_fp32_groups
        group_of = {id(p): index for index, group in enumerate(self._optimizer.bit16_groups) for p in group}
        found: dict[str, Share | None] = {}
        for name, parameter in self._parameters.items():
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            found[name] = None
            if mapping is not None:
                here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
                found[name] = Share(flats[group_of[id(parameter)]], here.start, there.start, here.numel)
        return found

    def _partitions(self) -> dict[str, Share | None]:
        """Stage 3: each rank has one slice of each parameter, the last ranks' padded or empty."""
        found: dict[str, Share | None] = {}
        for name, parameter in self._parameters.items():
            group, offset, numel = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
            start = numel * dist.get_rank()
            real = min(numel, parameter.ds_numel - start)  # type: ignore[attr-defined]
            flat = self._optimizer.fp32_partitioned_groups_flat[group]
            found[name] = Share(flat, offset, start, real) if real > 0 else None
        return found


def _has_layout(key: str, value: object, holder: Tensor) -> bool:
    return key != _STEP and isinstance(value, Tensor) and value.shape == holder.shape
