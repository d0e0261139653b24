"""A student whose parameters, gradients and optimiser state are spread over the workers (FSDP2), for large towers.

Every worker keeps a part of each parameter. A layer is put together from all parts when it computes, and taken apart
again; its gradients are averaged, and each worker gets those of its part. What leaves the workers, as a checkpoint
does, holds whole tensors, so that a training goes on with another number of workers, or without sharding.

All workers have to make the same calls in the same order: each puts a layer together for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from bcls_core.errors import ConfigError
from bcls_core.students import Student
from bcls_core.training.schedule import largest_list
from bcls_core.workers import Workers


def shard(student: Student, workers: Workers, device: torch.device) -> None:
    """Spreads a student over the workers, in place; without effect for a single one.

    Layers are spread one by one, as `largest_list` finds them in each part of the student; the rest is one more unit.
    A layer that shares parameters with what is outside of it belongs to the rest. Scalars, which cannot be split, stay
    whole on every worker: their gradients are for the caller to average.

    Args:
        student: on `device`, with equal weights on all workers; its layers are used by calling them.
    Raises:
        ConfigError: its parameters are of several types, or one is not contiguous in memory.
    """
    if workers.size == 1:
        return
    _require_shardable(student)
    mesh = init_device_mesh(device.type, (workers.size,))
    scalars = {parameter for parameter in student.parameters() if parameter.ndim == 0}
    for layer in _layers(student):
        fully_shard(layer, mesh=mesh, ignored_params=scalars)
    fully_shard(student, mesh=mesh, ignored_params=scalars)
    own_score = [] if type(student).score is Student.score else ["score"]
    for method in ("encode_images", "encode_captions", *own_score):
        register_fsdp_forward_method(student, method)


def _require_shardable(student: Student) -> None:
    of_type: dict[torch.dtype, str] = {}
    for name, parameter in student.named_parameters():
        of_type.setdefault(parameter.dtype, name)
        if not parameter.is_contiguous():
            raise ConfigError(f"runtime.fsdp: parameter {name} is not contiguous in memory. Leave it off.")
    if len(of_type) > 1:
        found = ", ".join(f"{name} is {kind}" for kind, name in of_type.items())
        raise ConfigError(f"runtime.fsdp: parameters must be of one type, and {found}. Leave it off.")


def is_sharded(student: nn.Module) -> bool:
    """Whether `shard` spread it."""
    return isinstance(student, FSDPModule)


def reshard(student: nn.Module) -> None:
    """Takes apart what is still whole after a forward without a backward, so that changed weights are seen."""
    if isinstance(student, FSDPModule):
        student.reshard()


def whole_parameters(student: nn.Module) -> list[nn.Parameter]:
    """Those of which every worker keeps all."""
    return [parameter for parameter in student.parameters() if not isinstance(parameter, DTensor)]


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor, in the same memory; all of it where it is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tree: Any, *, keep: bool) -> Any:
    """Dicts and lists with each spread tensor in them made whole, on the CPU; everything else is as it was.

    Args:
        keep: whether this worker wants them; elsewhere they are empty.
    """
    if isinstance(tree, dict):
        return {key: gathered(value, keep=keep) for key, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value, keep=keep) for value in tree]
    if not isinstance(tree, DTensor):
        return tree
    whole = tree.full_tensor()
    return whole.cpu() if keep else whole.new_empty(0, device="cpu")


def spread(whole: Tensor, like: Tensor | None) -> Tensor:
    """A whole tensor, equal on all workers, spread as one of its shape is; as it was if that is not spread."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)  # everybody has it


def load_optimiser(optimiser: optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimiser.load_state_dict` of whole tensors."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    of_parameters = {
        place: {name: spread(value, parameters[place]) for name, value in values.items()}
        for place, values in state["state"].items()
    }
    optimiser.load_state_dict(state | {"state": of_parameters})


def clip_gradients(parameters: Iterable[nn.Parameter], most: float, workers: Workers) -> Tensor:
    """Scales gradients down to a joint norm of `most`, as `clip_grad_norm_` does, and returns the norm they had."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    parts = [one.to_local() for one in gradients if isinstance(one, DTensor)]
    whole = [one for one in gradients if not isinstance(one, DTensor)]
    squares = [nn.utils.get_total_norm(whole).square()] if whole else []
    if parts:
        squares.append(workers.sum(nn.utils.get_total_norm(parts).square()))
    norm = torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in (*parts, *whole):
        gradient.mul_(factor)
    return norm


def _layers(student: Student) -> list[nn.Module]:
    """Each once, though towers may share them."""
    uses = _uses(student)
    found: dict[nn.Module, None] = {}
    for part in student.children():
        for layer in largest_list(part)[1]:
            of_layer = _uses(layer)
            computes = type(layer).forward is not nn.Module.forward
            if computes and of_layer and all(uses[parameter] == count for parameter, count in of_layer.items()):
                found[layer] = None
    return list(found)


def _uses(module: nn.Module) -> Counter[nn.Parameter]:
    """How many modules have each parameter for their own."""
    return Counter(parameter for one in module.modules() for parameter in one.parameters(recurse=False))
