"""``dartblur train dart``: Algorithm 1 of DartBlur (Jiang et al., CVPR 2023), top to bottom.

Names are the paper's: ``x`` clear images, ``b`` face boxes, ``g`` the generator applied to the boxes,
``f`` the fixed detector, ``f_g`` the detector trained on anonymized images, ``theta`` its weights.
Where the code departs from the paper, a comment says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import relu, smooth_l1_loss

from .evaluation.detect import suppress
from .losses.multibox import multibox_loss
from .nets.retinaface import AnchorPredictions, RetinaFace, decode
from .nets.unet import EdgeUNet, PublishedUNet
from .patches import PatchGeometry, PreparedBatch, Redaction, prepare, redact


@dataclass(frozen=True)
class Objectives:
    """The constants of the four objectives.

    Attributes:
        eps_rev: how far, in grey levels of 255, g may stray from Gaussian blur at no cost.
        label_smoothing: of L_det where f_g learns or is judged.
        alpha: step size of the one gradient step in the cycle objective. Its gradient grows with it: at 1e-4 it
            is about as large as those of the other objectives, at 1e-2 fifty times larger, and drowns them.
        target_confidence: lowest score of the detections that make up ``f(x)``.
        target_iou: of the non-maximum suppression that makes them.
    """

    eps_rev: float = 20.0
    label_smoothing: float = 0.2
    alpha: float = 1e-4
    target_confidence: float = 0.01
    target_iou: float = 0.45


@torch.no_grad()
def detections_of(detector: RetinaFace, x: Tensor, confidence: float, iou: float) -> list[Tensor]:
    """``f(x)`` as a target: the detector's boxes ``[n, 4]`` (xyxy pixels) after suppression, for each image."""
    predictions: AnchorPredictions = detector(x)
    boxes = decode(predictions.offsets, predictions.anchors)
    scores = predictions.logits.softmax(-1)[..., 1]
    found = []
    for box, score in zip(boxes, scores, strict=True):
        strong = score > confidence
        found.append(box[strong][suppress(box[strong], score[strong], iou).to(box.device)])
    return found


def review_loss(g_x: Redaction, eps_rev: float) -> Tensor:
    """L_rev: distance to Gaussian blur inside the boxes, in grey levels, free up to `eps_rev` (equation 3)."""
    distance = smooth_l1_loss(g_x.images, g_x.blurred, reduction="none").mean(1, keepdim=True)
    covered = g_x.mask.sum((1, 2, 3)).clamp(min=1)
    return relu((distance * g_x.mask).sum((1, 2, 3)) / covered - eps_rev).mean()


def cycle_loss(
    f_g: RetinaFace, g_x: Tensor, x: Tensor, b: list[Tensor], f_x: list[Tensor], objectives: Objectives
) -> Tensor:
    """L_det(f_theta'(x), f(x)) with ``theta' = theta - alpha * grad L_det(f_theta(g(x)), b)`` (equation 6).

    Differentiable in `g_x` through the gradient step. `f_g` is called with its running statistics, so that the
    step depends on its weights alone; its own weights and statistics stay as they are.
    """
    theta = {name: weight.detach() for name, weight in f_g.named_parameters()}
    statistics = dict(f_g.named_buffers())

    def loss_on_blurred(weights: dict[str, Tensor], images: Tensor) -> Tensor:
        predictions = functional_call(f_g, (weights, statistics), (images,))
        return multibox_loss(predictions, b, objectives.label_smoothing)

    gradient = grad(loss_on_blurred)(theta, g_x)
    theta_stepped = {name: theta[name] - objectives.alpha * gradient[name] for name in theta}
    predictions = functional_call(f_g, (theta_stepped, statistics), (x,))
    return multibox_loss(predictions, f_x, objectives.label_smoothing)


MAX_GRADIENT_NORM = 10.0


class Algorithm1:
    """One iteration of Algorithm 1 at a time, each objective an update of its own.

    Args:
        g: the generator, updated by `step`.
        f: the fixed detector, trained on clear images.
        f_g: the detector that learns from anonymized images, updated by `step`.
        optimizer_g, optimizer_fg: theirs.
        objectives: constants.
        geometry: how faces are cut out.
    """

    def __init__(
        self,
        g: EdgeUNet | PublishedUNet,
        f: RetinaFace,
        f_g: RetinaFace,
        optimizer_g: torch.optim.Optimizer,
        optimizer_fg: torch.optim.Optimizer,
        objectives: Objectives,
        geometry: PatchGeometry,
    ) -> None:
        self.g, self.f, self.f_g = g, f.eval().requires_grad_(False), f_g
        self.optimizer_g, self.optimizer_fg = optimizer_g, optimizer_fg
        self.objectives, self.geometry = objectives, geometry

    def step(self, x: Tensor, b: list[Tensor]) -> dict[str, float]:
        """Updates g by the four objectives in turn, then f_g; returns the five losses.

        Args:
            x: clear images, ``[N, 3, H, W]`` BGR 0..255.
            b: faces of each image, ``[n, 4]`` xyxy pixels.
        """
        settings = self.objectives
        f_x = detections_of(self.f, x, settings.target_confidence, settings.target_iou)
        batch = prepare(x, b, self.geometry)
        losses = {}

        # 1. Review convenience: stay near Gaussian blur.
        losses["review"] = self._update_g(review_loss(self._redacted(batch), settings.eps_rev))

        # 2. Operational fidelity: f finds in g(x) what it finds in x.
        losses["operational"] = self._update_g(multibox_loss(self.f(self._redacted(batch).images), f_x))

        # 3. Post-hoc fidelity: so does f_g.
        self.f_g.eval()
        predictions = self.f_g(self._redacted(batch).images)
        losses["post_hoc"] = self._update_g(multibox_loss(predictions, f_x, settings.label_smoothing))

        # 4. Cycle fidelity: f_g after a step of learning from g(x) finds in x what f finds there.
        losses["cycle"] = self._update_g(cycle_loss(self.f_g, self._redacted(batch).images, x, b, f_x, settings))

        # 5. f_g learns from g(x), with g fixed.
        with torch.no_grad():
            g_x = self._redacted(batch).images
        self.f_g.train()
        loss = multibox_loss(self.f_g(g_x), b, settings.label_smoothing)
        losses["f_g"] = _update(loss, self.f_g, self.optimizer_fg)
        return losses

    def _redacted(self, batch: PreparedBatch) -> Redaction:
        """``g(x, b)`` with the weights of now."""
        return redact(batch, self.g, self.geometry)

    def _update_g(self, loss: Tensor) -> float:
        # A hinge at zero has no gradient; an optimizer step would still move g by its momentum.
        return _update(loss, self.g, self.optimizer_g) if loss.item() else 0.0


def _update(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    value = loss.item()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {value}: resume from the last checkpoint with lower learning rates")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    # Only the gradients of this model: the loss may also reach the weights of the other one.
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value
