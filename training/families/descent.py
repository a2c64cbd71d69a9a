"""Gradient descent with a schedule and checkpoints: what is interrupted goes on where it was."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from linewatch.training.workspace import Workspace

CHECKPOINT_SECONDS = 15.0


def one_cycle(progress: float) -> float:
    """Learning rate as a share of the highest, by the share of steps done (after Smith and Topin 2018): up, then down to 0."""
    warm = 0.2
    if progress < warm:
        return float(0.04 + 0.96 * (1 - np.cos(np.pi * progress / warm)) / 2)
    return float((1 + np.cos(np.pi * (progress - warm) / (1 - warm))) / 2)


def descend(
    net: nn.Module, optimiser: torch.optim.Optimizer, steps: int, loss: Callable[[int], torch.Tensor], workspace: Workspace, key: str,
    tell: Callable[[int], None],
) -> None:  # fmt: skip
    """Take all steps, from the last checkpoint on.

    Args:
        net: what is fitted.
        optimiser: of its parameters; each of its groups has a `highest` rate, and a share `from` of the steps before which it rests.
        steps: how many there are.
        loss: of a step by its number; the same number gives the same loss, so that where an earlier run stopped makes no difference.
        workspace: where checkpoints are kept.
        key: of the result; the checkpoint stays until that is kept, see `fit_once`.
        tell: told of each step, and of the end.
    """
    begin, saved = _resume(net, optimiser, workspace, unfinished(key)), time.monotonic()
    for step in range(begin, steps):
        tell(step)
        for group in optimiser.param_groups:
            resting = step < group["from"] * steps
            group["lr"] = 0.0 if resting else group["highest"] * one_cycle(step / steps)
        value = loss(step)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            _checkpoint(net, optimiser, workspace, unfinished(key), step + 1)
            saved = time.monotonic()
    tell(steps)


def fit_once(net: nn.Module, workspace: Workspace, key: str, fit: Callable[[], None]) -> None:
    """Give a net its fitted weights: those that an earlier run kept, or what `fit` makes of them, which is kept.

    Args:
        net: what is fitted.
        workspace: where results are kept.
        key: of the result; `unfinished(key)` is that of its checkpoint.
        fit: fits the net, by `descend`.
    """
    finished = workspace.load(key)
    if finished is not None:
        net.load_state_dict({k: torch.from_numpy(v) for k, v in finished.items()})
        return
    fit()
    workspace.save(key, {k: v.cpu().numpy() for k, v in net.state_dict().items()})
    workspace.forget(unfinished(key))


def unfinished(key: str) -> str:
    """The key of a result's checkpoint."""
    return f"{key}-unfinished"


def _checkpoint(net: nn.Module, optimiser: torch.optim.Optimizer, workspace: Workspace, key: str, step: int) -> None:
    arrays = {f"net.{k}": v.cpu().numpy() for k, v in net.state_dict().items()}
    for n, state in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{n}.{k}": v.cpu().numpy() for k, v in state.items()}
    workspace.save(key, {**arrays, "step": np.array(step)})


def _resume(net: nn.Module, optimiser: torch.optim.Optimizer, workspace: Workspace, key: str) -> int:
    arrays = workspace.load(key)
    if arrays is None:
        return 0
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items() if k != "step"}
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
    state = optimiser.state_dict()
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, n, key_of = name.split(".")
            state["state"].setdefault(int(n), {})[key_of] = value
    optimiser.load_state_dict(state)
    return int(arrays["step"])
