"""``dartblur train dart``: Algorithm 1 of DartBlur (Jiang et al., CVPR 2023), top to bottom.

Names are the paper's: ``x`` clear images, ``b`` face boxes, ``g`` the generator applied to the boxes,
``f`` the fixed detector, ``f_g`` the detector trained on anonymized images, ``theta`` its weights.
Where the code departs from the paper, a comment says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.func import grad
from torch.nn.functional import relu, smooth_l1_loss

from .application import Application, Redaction
from .evaluation.detect import suppress
from .nets.face_detector import FaceDetector, Predictions
from .nets.folding import FoldedDetector
from .nets.unet import EdgeUNet, PublishedUNet

UPDATES = ("sequential", "joint")
INNER_STEPS = ("gradient", "adam")


@dataclass(frozen=True)
class Objectives:
    """The constants of the four objectives.

    Attributes:
        eps_rev: how far, in grey levels of 255, g may stray from Gaussian blur at no cost.
        label_smoothing: of L_det where f_g learns or is judged.
        inner_step: of the cycle objective: ``gradient``, as in the paper; ``adam``, as in the published code: the step
            that f_g's own optimizer would take, at its learning rate.
        alpha: size of a ``gradient`` step. The objective's gradient grows with it: at 1e-4 it is about as large as
            those of the other objectives, at 1e-2 fifty times larger, and drowns them.
        target_confidence: lowest score of the detections that make up ``f(x)``.
        target_iou: of the non-maximum suppression that makes them.
        updates: ``sequential``: g takes a step for each objective in turn, as in Algorithm 1; ``joint``: one step for
            their sum, as in the published code, which costs less.
        max_gradient_norm: gradients are clipped to this norm.
    """

    eps_rev: float = 20.0
    label_smoothing: float = 0.2
    inner_step: str = "gradient"
    alpha: float = 1e-4
    target_confidence: float = 0.01
    target_iou: float = 0.45
    updates: str = "sequential"
    max_gradient_norm: float = 10.0


InnerStep = Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]
"""Weights and their gradients, by name, to the weights after the step; differentiable."""


class Faces(NamedTuple):
    """Faces of a batch.

    Attributes:
        boxes: for each image ``[n, 4]``, xyxy pixels.
        ignored: for each image ``[n]`` bool; hidden like the others, but neither to be found nor to be missed.
    """

    boxes: list[Tensor]
    ignored: list[Tensor] | None = None


@torch.no_grad()
def detections_of(detector: FaceDetector, predictions: Predictions, confidence: float, iou: float) -> Faces:
    """``f(x)`` as a target: the detector's boxes after suppression."""
    boxes, scores = detector.decode(predictions).float(), predictions.logits.float().sigmoid()
    found = []
    for box, score in zip(boxes, scores, strict=True):
        strong = score > confidence
        found.append(box[strong][suppress(box[strong], score[strong], iou).to(box.device)])
    return Faces(found)


def review_loss(g_x: Redaction, eps_rev: float) -> Tensor:
    """L_rev: distance to Gaussian blur inside the boxes, in grey levels, free up to `eps_rev` (equation 3)."""
    distance = smooth_l1_loss(g_x.images, g_x.blurred, reduction="none").mean(1, keepdim=True)
    covered = g_x.mask.sum((1, 2, 3)).clamp(min=1)
    return relu((distance * g_x.mask).sum((1, 2, 3)) / covered - eps_rev).mean()


def l_det(detector: FaceDetector, seen: Predictions, faces: Faces, label_smoothing: float = 0.0) -> Tensor:
    """The paper's L_det of what the detector has seen in a batch, against these faces."""
    return detector.judge(seen, faces.boxes, faces.ignored, label_smoothing).total


def gradient_step(alpha: float) -> InnerStep:
    """``theta' = theta - alpha * gradient`` (equation 6)."""
    return lambda theta, gradient: {name: theta[name] - alpha * gradient[name] for name in theta}


def adam_step(detector: nn.Module, optimizer: torch.optim.Optimizer) -> InnerStep:
    """The step that this Adam would take next, without taking it (Kingma and Ba 2015, algorithm 1)."""
    weights, (group,) = dict(detector.named_parameters()), optimizer.param_groups
    (beta1, beta2), rate, eps = group["betas"], group["lr"], group["eps"]

    def stepped(name: str, theta: Tensor, gradient: Tensor) -> Tensor:
        state = optimizer.state.get(weights[name], {})
        count = float(state.get("step", 0)) + 1
        first: Tensor = beta1 * state.get("exp_avg", 0.0) + (1 - beta1) * gradient
        second: Tensor = beta2 * state.get("exp_avg_sq", 0.0) + (1 - beta2) * gradient.square()
        # eps within the root: where a gradient has always been 0, the root would have no derivative.
        scale = (second / (1 - beta2**count) + eps**2).sqrt() + eps
        after: Tensor = theta - rate / (1 - beta1**count) * first / scale
        return after

    return lambda theta, gradient: {name: stepped(name, theta[name], gradient[name]) for name in theta}


def post_hoc_and_cycle_loss(
    f_g: FoldedDetector, g_x: Tensor, x: Tensor, b: Faces, f_x: Faces, smoothing: float, inner_step: InnerStep
) -> tuple[Tensor, Tensor]:
    """``L_det(f_theta(g(x)), f(x))``, and ``L_det(f_theta'(x), f(x))`` for a theta' that has learned from ``g(x)``.

    theta' follows from ``grad L_det(f_theta(g(x)), b)`` by the inner step; the second loss is differentiable in `g_x`
    through it. `f_g` looks at ``g(x)`` once for both, with its running statistics, so that the step depends on its
    weights alone; its own weights and statistics stay as they are.
    """
    detector = f_g.detector
    theta = {name: weight.detach() for name, weight in detector.named_parameters() if weight.requires_grad}

    def learn(weights: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        seen = f_g(images, weights)
        return l_det(detector, seen, b, smoothing), l_det(detector, seen, f_x, smoothing)

    gradient, post_hoc = grad(learn, has_aux=True)(theta, g_x)
    return post_hoc, l_det(detector, f_g(x, inner_step(theta, gradient)), f_x, smoothing)


class Algorithm1:
    """One iteration of Algorithm 1 at a time.

    Args:
        g: the generator, updated by `step`.
        f: the fixed detector, trained on clear images.
        f_g: the detector that learns from anonymized images, updated by `step`.
        optimizer_g, optimizer_fg: theirs.
        objectives: constants.
        application: how g is applied to the faces.
        fabric: device precision, and the processes that share the work.
    """

    def __init__(
        self,
        g: EdgeUNet | PublishedUNet,
        f: FaceDetector,
        f_g: FaceDetector,
        optimizer_g: torch.optim.Optimizer,
        optimizer_fg: torch.optim.Optimizer,
        objectives: Objectives,
        application: Application,
        fabric: Fabric,
    ) -> None:
        self.g, self.f, self.f_g = g, f.eval().requires_grad_(False), f_g
        self._sees_f, self._sees_fg = FoldedDetector(f), FoldedDetector(f_g)
        self.optimizer_g, self.optimizer_fg = optimizer_g, optimizer_fg
        self.objectives, self.application, self.fabric = objectives, application, fabric

    def step(self, x: Tensor, b: Faces) -> dict[str, float]:
        """Updates g by the four objectives, then f_g; returns the five losses.

        Args:
            x: clear images, ``[N, 3, H, W]`` BGR 0..255.
            b: annotated faces; g hides all of them.
        """
        settings = self.objectives
        with self.fabric.autocast(), torch.no_grad():
            f_x = detections_of(self.f, self._sees_f(x), settings.target_confidence, settings.target_iou)
        prepared = self.application.prepare(x, b.boxes)

        if settings.updates == "sequential":
            losses = self._update_in_turn(prepared, x, b, f_x)
        else:
            losses = self._update_at_once(prepared, x, b, f_x)
        return losses | self.step_f_g(x, b, prepared)

    def step_f_g(self, x: Tensor, b: Faces, prepared: Any = None) -> dict[str, float]:
        """f_g learns from g(x), with g fixed; returns its loss."""
        with torch.no_grad(), self.fabric.autocast():
            g_x = self._redacted(self.application.prepare(x, b.boxes) if prepared is None else prepared).images
        self.f_g.train()
        with self.fabric.autocast():
            loss = l_det(self.f_g, self.f_g(g_x), b, self.objectives.label_smoothing)
        value = self._update(loss, self.f_g, self.optimizer_fg)
        self._share_statistics()
        return {"f_g": value}

    def _update_in_turn(self, prepared: Any, x: Tensor, b: Faces, f_x: Faces) -> dict[str, float]:
        """A step of g for each objective; the next one sees the g that the last one made."""
        settings = self.objectives
        objectives: dict[str, Callable[[Redaction], Tensor]] = {
            "review": lambda g_x: review_loss(g_x, settings.eps_rev),
            "operational": lambda g_x: l_det(self.f, self._sees_f(g_x.images), f_x),
            "post_hoc": lambda g_x: l_det(self.f_g, self._sees_fg(g_x.images), f_x, settings.label_smoothing),
            "cycle": lambda g_x: self._post_hoc_and_cycle(g_x.images, x, b, f_x)[1],
        }
        losses = {}
        for name, objective in objectives.items():
            with self.fabric.autocast():
                loss = objective(self._redacted(prepared))
            losses[name] = self._update(loss, self.g, self.optimizer_g)
        return losses

    def _update_at_once(self, prepared: Any, x: Tensor, b: Faces, f_x: Faces) -> dict[str, float]:
        """One step of g for the sum; ``g(x)``, and what f_g sees in it, are made once for all of them."""
        settings = self.objectives
        with self.fabric.autocast():
            g_x = self._redacted(prepared)
            losses = {
                "review": review_loss(g_x, settings.eps_rev),
                "operational": l_det(self.f, self._sees_f(g_x.images), f_x),
            }
            pair = self._post_hoc_and_cycle(g_x.images, x, b, f_x)
            losses |= zip(("post_hoc", "cycle"), pair, strict=True)
        self._update(torch.stack(list(losses.values())).sum(), self.g, self.optimizer_g)
        return {name: loss.item() for name, loss in losses.items()}

    def _post_hoc_and_cycle(self, g_x: Tensor, x: Tensor, b: Faces, f_x: Faces) -> tuple[Tensor, Tensor]:
        settings = self.objectives
        if settings.inner_step == "adam":
            step = adam_step(self.f_g, self.optimizer_fg)
        else:
            step = gradient_step(settings.alpha)
        return post_hoc_and_cycle_loss(self._sees_fg, g_x, x, b, f_x, settings.label_smoothing, step)

    def _redacted(self, prepared: Any) -> Redaction:
        """``g(x, b)`` with the weights of now."""
        return self.application.redact(prepared, self.g)

    def _update(self, loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        """One step down the loss's gradient, which the processes average; returns the loss."""
        value = loss.item()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        # Only the gradients of this model: the loss may also reach the weights of the other one.
        gradients = torch.autograd.grad(loss, weights)
        for weight, gradient in zip(weights, self._averaged(gradients), strict=True):
            weight.grad = gradient
        norm = nn.utils.clip_grad_norm_(weights, self.objectives.max_gradient_norm)
        # Every process sees the same norm, so all stop, or none. A loss that only one of them sees would not do.
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the loss is {value:.4g} and the norm of its gradient {norm.item():.4g}")
        # A hinge at zero has no gradient; a step would still move g by its momentum.
        if norm > 0:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value

    def _share_statistics(self) -> None:
        """Each process has seen other images: without this, each would judge g by another f_g."""
        if self.fabric.world_size > 1:
            for buffer in self.f_g.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(cast(Tensor, self.fabric.all_reduce(buffer.clone(), reduce_op="mean")))

    def _averaged(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.fabric.world_size == 1:
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = cast(Tensor, self.fabric.all_reduce(flat, reduce_op="mean"))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
