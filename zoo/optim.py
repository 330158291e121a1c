"""Optimizers that the families share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def _loss_of(closure: Callable[[], Any] | None) -> Any:
    """What a step's closure gives, if there is one; called with gradients, which a step itself does without."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class Muon(torch.optim.AdamW):
    """Momentum with orthogonalized updates (Jordan et al. 2024, kellerjordan.github.io/posts/muon), beside AdamW.

    In a parameter group with `orthogonal=True` each weight (out, in, ...) is a matrix (out, rest). Its Nesterov
    momentum U S V^T is replaced by about U V^T, which moves all directions alike, and scaled to the root mean square
    0.2 that AdamW's steps have (Liu et al. 2025, arXiv 2502.16982, section 2.2): both kinds of group then take the
    same learning rate and weight decay. All other groups are AdamW's.

    PyTorch's own Muon takes matrices only, and one at a time. Here the weights of one shape are orthogonalized
    together: in a small network a GPU would otherwise wait for the launches of a thousand small kernels a step.

    Args:
        groups: parameter groups, some of them with `orthogonal=True`.
        lr, betas, eps, weight_decay, fused: as in AdamW.
        momentum: of the orthogonalized groups.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        fused: bool = False,
    ) -> None:
        self.momentum = momentum
        groups = [{"orthogonal": False, **group} for group in groups]
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
        for group in self.param_groups:
            if group["orthogonal"] and any(p.ndim < 2 for p in group["params"]):
                raise ValueError("Only weights of two or more dimensions can be orthogonalized: leave biases to AdamW.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each group, by its rule."""
        loss = _loss_of(closure)
        with self._adamw_groups():
            super().step()
        for group in self.param_groups:
            if group["orthogonal"]:
                self._orthogonal_step(group)
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)
        with self._adamw_groups():
            super().__setstate__({})

    @contextmanager
    def _adamw_groups(self) -> Iterator[None]:
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            yield
        finally:
            self.param_groups = groups

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        momenta = [self._momentum(weight) for weight in weights]
        gradients = [_matrix(_laid_out_as(weight, weight.grad)) for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        ahead = list(torch._foreach_lerp(gradients, momenta, self.momentum))
        alike = defaultdict(list)
        for i, update in enumerate(ahead):
            alike[update.shape].append(i)
        for (rows, columns), members in alike.items():
            updates = orthogonalize(torch.stack([ahead[i] for i in members]))
            updates *= -group["lr"] * 0.2 * max(rows, columns) ** 0.5
            for i, update in zip(members, updates.unbind(), strict=True):
                ahead[i] = update
        matrices = [_matrix(weight) for weight in weights]
        if group["weight_decay"]:
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, ahead)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        # A resumed run may lay its weights out otherwise.
        state["momentum"] = _laid_out_as(weight, state["momentum"])
        return _matrix(state["momentum"])


def _laid_out_as(weight: Tensor, tensor: Tensor) -> Tensor:
    return tensor if tensor.stride() == weight.stride() else torch.empty_like(weight).copy_(tensor)


def _matrix(tensor: Tensor) -> Tensor:
    """A view of (out, in, ...) as (out, rest), whose columns are in the order of memory.

    The order does not matter to the update; this one copies nothing and lets PyTorch treat all weights in one kernel.
    """
    if not tensor.is_contiguous():  # channels last
        tensor = tensor.permute(0, *range(2, tensor.ndim), 1)
    return tensor.view(len(tensor), -1)


def orthogonalize(matrices: Tensor) -> Tensor:
    """(N, rows, columns) to about the nearest semi-orthogonal matrices: U S V^T to U S' V^T, S' within 0.7..1.2.

    Five steps of a quintic Newton-Schulz iteration whose coefficients raise small singular values fast (Jordan et al.
    2024). On a GPU its products are bfloat16: the result is approximate anyway.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        # 3.4445 x - 4.7750 (x x^T) x + 2.0315 (x x^T)^2 x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x if wide else x.mT).to(matrices.dtype)


class NaturalGradient(torch.optim.Optimizer):
    """Descent along the natural gradient of a distribution q (Amari 1998, *Natural gradient works efficiently in
    learning*): the step is -lr F^-1 g, with the Fisher matrix F = E[s s^T] of the scores s = d log q(z) / d theta.

    F is a moving average over the steps, with `damping` on its diagonal, and is inverted as it is: this is for models
    of a few hundred parameters. A step that would change q by more than `bound` times the learning rate, in nats of
    KL = 1/2 step^T F step, is shortened to that.

    Args:
        params: parameters, without groups.
        lr: at most 1, which goes all the way to the minimum of the quadratic model.
        damping: of the Fisher matrix.
        decay: of its average, per step.
        bound: of the divergence between q before and after a step, at a learning rate of 1.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, damping: float = 1e-2, decay: float = 0.9, bound: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "damping": damping, "decay": decay, "bound": bound})
        self._new: Tensor | None = None

    def observe(self, fisher: Tensor) -> None:
        """Take the Fisher matrix of new draws, (P, P) for P numbers in all parameters, into the average."""
        self._new = fisher.detach().double()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure, if any, is called first, and may call `observe`."""
        loss = _loss_of(closure)
        (group,) = self.param_groups
        params, lr = group["params"], group["lr"]
        # Of the optimizer's state checkpoints keep what belongs to a parameter: the matrix is that of the first.
        state = self.state[params[0]]
        if self._new is not None:
            old = state.get("fisher")
            # In the parameters' precision, which a checkpoint's is cast to.
            fisher = self._new if old is None else old.double().lerp(self._new, 1 - group["decay"])
            state["fisher"], self._new = fisher.to(params[0].dtype), None
        fisher = state["fisher"].double()
        zero = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        gradient = torch.cat([value.flatten() for value in zero]).double()
        damped = fisher + group["damping"] * torch.eye(len(fisher), dtype=fisher.dtype, device=fisher.device)
        direction = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(damped))[:, 0]
        # The full step F^-1 g changes q by 1/2 g^T F^-1 g nats; the shorter one by its square times that.
        longest = (2 * group["bound"] * lr / (gradient @ direction).clamp(min=torch.finfo(fisher.dtype).tiny)).sqrt()
        direction = direction * longest.clamp(max=lr)
        for p, change in zip(params, direction.split([p.numel() for p in params]), strict=True):
            p.sub_(change.view_as(p))
        return loss
