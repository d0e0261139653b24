"""Optimiser, learning rates, and towers that stay frozen at first."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from torch import nn, optim

from bcls_core.config import TrainSettings
from bcls_core.errors import ConfigError
from bcls_core.students import Student


def build_optimiser(student: Student, objective: nn.Module, settings: TrainSettings) -> optim.AdamW:
    """AdamW over the trained parameters of a student and, in a group of their own, those of its losses.

    Matrices decay, those of heads within a side, too; vectors and scalars (biases, norms) do not, and nor do a loss's
    temperatures, which decay would pull to 1. Each group has its "scale", a factor on the learning rate of the step:
    towers that came with weights have `tower_learning_rate`, times `layer_decay` for every layer that lies further from
    their output.
    """
    scales = _tower_scales(student, settings)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in student.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim >= 2, scales.get(parameter, 1.0)].append(parameter)
    described = [
        {"params": parameters, "weight_decay": settings.weight_decay if decays else 0.0, "scale": scale}
        for (decays, scale), parameters in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]
    for decays in (True, False):
        of_objective = [parameter for parameter in objective.parameters() if (parameter.ndim >= 2) == decays]
        decay = settings.weight_decay if decays else 0.0
        described.append({"params": of_objective, "weight_decay": decay, "scale": 1.0})
    return optim.AdamW([group for group in described if group["params"]], lr=settings.learning_rate)


def set_learning_rate(optimiser: optim.Optimizer, rate: float) -> None:
    """`rate` times each group's scale."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


def learning_rate(step: int, total_steps: int, settings: TrainSettings) -> float:
    """Linear warm-up to `learning_rate`, then a cosine to `final_learning_rate` at the last step.

    Args:
        step: 0-based step about to be taken.
        total_steps: of the whole training.
    """
    warm = round(settings.warmup * total_steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, total_steps - 1 - warm)
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


_SHARED_BY_LAYERS = ("relative", "embedding", "position")
"""In names of parameters that some models register after the layers that read them."""


class FirstFrozen:
    """Keeps a student's pretrained towers as they came during the first epochs: see `TrainSettings.frozen_epochs`."""

    def __init__(self, student: Student, epochs: int) -> None:
        self._towers, self._epochs = student.pretrained_towers, epochs
        self._trained = [p for tower in self._towers for p in tower.parameters() if p.requires_grad]

    def begin(self, epoch: int) -> bool:
        """Makes the towers ready for an epoch, after the student was put into training mode; True if that changes
        which parameters are trained."""
        frozen = epoch <= self._epochs
        if frozen:
            for tower in self._towers:
                tower.eval()
        changed = any(parameter.requires_grad == frozen for parameter in self._trained)
        for parameter in self._trained:
            parameter.requires_grad_(not frozen)
        return changed


def _tower_scales(student: Student, settings: TrainSettings) -> dict[nn.Parameter, float]:
    base = (settings.tower_learning_rate or settings.learning_rate) / settings.learning_rate
    return {
        parameter: base * settings.layer_decay**height
        for tower in student.pretrained_towers
        for parameter, height in layer_heights(tower)
    }


def check_first_epochs(student: Student, objective: nn.Module, frozen_epochs: int) -> None:
    """Refuses first epochs in which nothing is trained.

    Raises:
        ConfigError: all that is trained came with weights, and stays as it is in these epochs.
    """
    frozen = {parameter for tower in student.pretrained_towers for parameter in tower.parameters()}
    others = [p for p in (*student.parameters(), *objective.parameters()) if p.requires_grad and p not in frozen]
    if frozen_epochs and not others:
        raise ConfigError(
            f"train.frozen_epochs={frozen_epochs}: all that this student trains came with weights, so nothing would be "
            "trained in these epochs. Set it to 0."
        )


def layer_heights(tower: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Each parameter with the number of layers between it and the output.

    Layers are the children of the module list that holds most of the parameters; what is registered before it (the
    embeddings) lies below them all, what comes after it (a last norm, a pooler) above, but for what layers share.
    """
    name, layers = largest_list(tower)
    prefix, above = f"{name}.", False
    for path, parameter in tower.named_parameters():
        inside = len(layers) > 0 and path.startswith(prefix)
        if inside:
            above = True
            yield parameter, len(layers) - int(path.removeprefix(prefix).split(".", 1)[0])
        else:
            last = not len(layers) or (above and not any(word in path for word in _SHARED_BY_LAYERS))
            yield parameter, 0 if last else len(layers) + 1


def largest_list(tower: nn.Module) -> tuple[str, nn.ModuleList]:
    """The module list with most of the parameters, which holds a tower's layers, and its name; an empty one if none."""
    lists = [(name, module) for name, module in tower.named_modules() if isinstance(module, nn.ModuleList)]
    # The first of several of one size: an outer list comes before those inside of it.
    return max(lists, key=lambda one: _size(one[1]), default=("", nn.ModuleList()))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
