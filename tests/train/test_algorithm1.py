from __future__ import annotations

import copy

import pytest
import torch

from dartblur_train.algorithm1 import Algorithm1, Objectives, cycle_loss, review_loss
from dartblur_train.nets.retinaface import RetinaFace
from dartblur_train.nets.unet import EdgeUNet
from dartblur_train.patches import PatchGeometry, Redaction

SIDE = 64


@pytest.fixture
def detectors() -> tuple[RetinaFace, RetinaFace]:
    torch.manual_seed(1)
    f, f_g = RetinaFace().eval(), RetinaFace().eval()
    f_g.LandmarkHead.requires_grad_(False)
    return f, f_g


def test_second_order_gradient_equals_finite_difference(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    """d cycle / d g(x), which flows through the step of f_g, against central differences in double precision."""
    f_g = detectors[1].double()
    torch.manual_seed(2)
    x = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64) * 255
    g_x = (x + torch.randn_like(x) * 20).requires_grad_()
    faces = [torch.tensor([[10.0, 12, 40, 50]], dtype=torch.float64)]
    # A large alpha makes the step matter.
    objectives = Objectives(alpha=0.05)

    def loss(images: torch.Tensor) -> torch.Tensor:
        return cycle_loss(f_g, images, x, faces, faces, objectives)

    (gradient,) = torch.autograd.grad(loss(g_x), g_x)
    assert gradient.abs().max() > 0
    for seed in range(3):
        torch.manual_seed(seed)
        direction = torch.randn_like(x)
        step = 1e-4
        difference = (loss(g_x.detach() + step * direction) - loss(g_x.detach() - step * direction)) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=2e-3)


def test_without_a_step_the_cycle_has_no_gradient(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    """With alpha 0 the weights don't depend on g(x), so neither does the loss on the clear picture."""
    x = torch.rand(1, 3, SIDE, SIDE) * 255
    g_x = x.clone().requires_grad_()
    faces = [torch.tensor([[10.0, 12, 40, 50]])]
    loss = cycle_loss(detectors[1], g_x, x, faces, faces, Objectives(alpha=0.0))
    (gradient,) = torch.autograd.grad(loss, g_x)
    assert gradient.abs().max() == 0


def test_review_is_free_up_to_the_threshold() -> None:
    blurred = torch.full((1, 3, 8, 8), 100.0)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1

    def loss(distance: float) -> float:
        # Outside the mask nothing counts.
        images = blurred + distance * mask + 200 * (1 - mask)
        return review_loss(Redaction(images, blurred, mask), eps_rev=20).item()

    assert loss(20.0) == 0
    assert loss(30.5) == pytest.approx(10, abs=0.1)


def test_a_step_updates_g_and_f_g_and_leaves_f_alone(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    f, f_g = detectors
    g = EdgeUNet((8, 8, 8))
    before = {name: copy.deepcopy(module.state_dict()) for name, module in (("f", f), ("f_g", f_g), ("g", g))}
    algorithm = Algorithm1(
        g,
        f,
        f_g,
        torch.optim.Adam(g.parameters(), 1e-3),
        torch.optim.Adam([p for p in f_g.parameters() if p.requires_grad], 1e-3),
        Objectives(target_confidence=0.45),
        PatchGeometry(32),
    )
    x = torch.rand(2, 3, SIDE, SIDE) * 255
    losses = algorithm.step(x, [torch.tensor([[10.0, 12, 40, 50]]), torch.zeros(0, 4)])
    assert set(losses) == {"review", "operational", "post_hoc", "cycle", "f_g"}

    def changed(name: str, module: torch.nn.Module) -> bool:
        return any(
            not torch.equal(a, b) for a, b in zip(before[name].values(), module.state_dict().values(), strict=True)
        )

    assert not changed("f", f)
    assert changed("f_g", f_g)
    assert changed("g", g)


def test_a_loss_that_is_not_finite_stops(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    f, f_g = detectors
    g = EdgeUNet((8, 8, 8))
    torch.nn.init.constant_(g.leave.weight, float("nan"))
    algorithm = Algorithm1(
        g,
        f,
        f_g,
        torch.optim.Adam(g.parameters()),
        torch.optim.Adam(f_g.parameters()),
        Objectives(target_confidence=0.45),
        PatchGeometry(32),
    )
    with pytest.raises(FloatingPointError, match="resume from the last checkpoint"):
        algorithm.step(torch.rand(1, 3, SIDE, SIDE) * 255, [torch.tensor([[10.0, 12, 40, 50]])])
