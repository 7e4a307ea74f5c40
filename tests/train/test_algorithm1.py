from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from lightning_fabric import Fabric

from dartblur_train.algorithm1 import (
    INNER_STEPS,
    Algorithm1,
    Faces,
    Objectives,
    adam_step,
    gradient_step,
    post_hoc_and_cycle_loss,
    review_loss,
)
from dartblur_train.application import Application, Redaction
from dartblur_train.frames import FrameApplication
from dartblur_train.nets.edge_detector import EdgeDetector
from dartblur_train.nets.face_detector import FaceDetector
from dartblur_train.nets.folding import FoldedDetector
from dartblur_train.nets.retinaface import RetinaFace
from dartblur_train.nets.unet import EdgeUNet
from dartblur_train.patches import PatchApplication, PatchGeometry

SIDE = 64


@pytest.fixture
def detectors() -> tuple[RetinaFace, RetinaFace]:
    torch.manual_seed(1)
    f, f_g = RetinaFace().eval(), RetinaFace().eval()
    return f, f_g


def adam_in_mid_run(f_g: RetinaFace) -> torch.optim.Optimizer:
    """An Adam that has taken two steps, so that its moments matter."""
    torch.manual_seed(4)
    optimizer = torch.optim.Adam([p for p in f_g.parameters() if p.requires_grad], 1e-2, (0.5, 0.999))
    for _ in range(2):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = 0.05 * torch.randn_like(weight)
        optimizer.step()
    optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("inner_step", INNER_STEPS)
def test_second_order_gradient_equals_finite_difference(
    detectors: tuple[RetinaFace, RetinaFace], inner_step: str
) -> None:
    """d cycle / d g(x), which flows through the step of f_g, against central differences in double precision."""
    f_g = detectors[1].double()
    # A large alpha makes the step matter.
    step_of = gradient_step(0.05) if inner_step == "gradient" else adam_step(f_g, adam_in_mid_run(f_g))
    torch.manual_seed(2)
    x = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64) * 255
    g_x = (x + torch.randn_like(x) * 20).requires_grad_()
    faces = Faces([torch.tensor([[10.0, 12, 40, 50]], dtype=torch.float64)])

    def loss(images: torch.Tensor) -> torch.Tensor:
        return post_hoc_and_cycle_loss(FoldedDetector(f_g), images, x, faces, faces, 0.2, step_of)[1]

    (gradient,) = torch.autograd.grad(loss(g_x), g_x)
    assert gradient.abs().max() > 0
    for seed in range(3):
        torch.manual_seed(seed)
        direction = torch.randn_like(x)
        step = 1e-4
        difference = (loss(g_x.detach() + step * direction) - loss(g_x.detach() - step * direction)) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=2e-3)


def test_adam_step_is_the_one_that_the_optimizer_takes(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    f_g = detectors[1].double()
    optimizer = adam_in_mid_run(f_g)
    theta = {name: weight.detach().clone() for name, weight in f_g.named_parameters() if weight.requires_grad}
    gradient = {name: torch.randn_like(weight) for name, weight in theta.items()}
    expected = adam_step(f_g, optimizer)(theta, gradient)
    for name, weight in f_g.named_parameters():
        if weight.requires_grad:
            weight.grad = gradient[name]
    optimizer.step()
    for name, weight in f_g.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(expected[name], weight.detach(), rtol=1e-9, atol=1e-9)


def test_without_a_step_the_cycle_has_no_gradient(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    """With alpha 0 the weights don't depend on g(x), so neither does the loss on the clear picture."""
    x = torch.rand(1, 3, SIDE, SIDE) * 255
    g_x = x.clone().requires_grad_()
    faces = Faces([torch.tensor([[10.0, 12, 40, 50]])])
    loss = post_hoc_and_cycle_loss(FoldedDetector(detectors[1]), g_x, x, faces, faces, 0.2, gradient_step(0.0))[1]
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


def build(
    f: FaceDetector, f_g: FaceDetector, g: EdgeUNet, application: Application | None = None, **settings: object
) -> Algorithm1:
    return Algorithm1(
        g,
        f,
        f_g,
        torch.optim.Adam(g.parameters(), 1e-3),
        torch.optim.Adam([p for p in f_g.parameters() if p.requires_grad], 1e-3),
        Objectives(target_confidence=0.45, **settings),  # type: ignore[arg-type]
        application or PatchApplication(PatchGeometry(32)),
        Fabric(accelerator="cpu", devices=1),
    )


def weights_of(*modules: torch.nn.Module) -> list[dict[str, torch.Tensor]]:
    return [copy.deepcopy(module.state_dict()) for module in modules]


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))


@pytest.mark.parametrize("updates", ["sequential", "joint"])
@pytest.mark.parametrize("application", [PatchApplication(PatchGeometry(32)), FrameApplication()])
def test_a_step_updates_g_and_f_g_and_leaves_f_alone(
    detectors: tuple[RetinaFace, RetinaFace], updates: str, application: Application
) -> None:
    f, f_g = detectors
    g = EdgeUNet((8, 8, 8))
    before = weights_of(f, f_g, g)
    algorithm = build(f, f_g, g, application, updates=updates)
    x = torch.rand(2, 3, SIDE, SIDE) * 255
    losses = algorithm.step(x, Faces([torch.tensor([[10.0, 12, 40, 50]]), torch.zeros(0, 4)]))
    assert list(losses) == ["review", "operational", "post_hoc", "cycle", "f_g"]
    assert not changed(before[0], f)
    assert changed(before[1], f_g)
    assert changed(before[2], g)


def test_another_family_can_be_protected() -> None:
    torch.manual_seed(0)
    f, f_g = EdgeDetector().eval(), EdgeDetector()
    for detector in (f, f_g):
        torch.nn.init.normal_(detector.predict.weight, std=0.2)
    g = EdgeUNet((8, 8, 8))
    before = weights_of(f, f_g, g)
    build(f, f_g, g).step(torch.rand(1, 3, SIDE, SIDE) * 255, Faces([torch.tensor([[10.0, 12, 40, 50]])]))
    assert [changed(state, module) for state, module in zip(before, (f, f_g, g), strict=True)] == [False, True, True]


def test_f_g_can_learn_alone(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    f, f_g = detectors
    g = EdgeUNet((8, 8, 8))
    before = weights_of(f, f_g, g)
    losses = build(f, f_g, g).step_f_g(torch.rand(1, 3, SIDE, SIDE) * 255, Faces([torch.tensor([[10.0, 12, 40, 50]])]))
    assert list(losses) == ["f_g"]
    assert [changed(state, module) for state, module in zip(before, (f, f_g, g), strict=True)] == [False, True, False]


def test_joint_is_the_gradient_of_the_sum(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    """One step of plain gradient descent, without clipping: joint moves g by the sum of what each objective asks."""
    f, f_g = detectors
    torch.manual_seed(3)
    g = EdgeUNet((8, 8, 8))
    torch.nn.init.normal_(g.leave.weight, std=0.05)
    start = copy.deepcopy(g.state_dict())
    x, faces = torch.rand(1, 3, SIDE, SIDE) * 255, Faces([torch.tensor([[10.0, 12, 40, 50]])])
    application = PatchApplication(PatchGeometry(32))
    settings = Objectives(target_confidence=0.45, updates="joint", max_gradient_norm=1e9, eps_rev=0)

    def moved(updates: str) -> torch.Tensor:
        g.load_state_dict(start)
        rate = 1e-6
        algorithm = Algorithm1(
            g,
            f,
            copy.deepcopy(f_g),
            torch.optim.SGD(g.parameters(), rate),
            torch.optim.SGD(f_g.parameters(), 0.0),
            dataclasses.replace(settings, updates=updates),
            application,
            Fabric(accelerator="cpu", devices=1),
        )
        algorithm.step(x, faces)
        return torch.cat([(g.state_dict()[name] - value).flatten() / rate for name, value in start.items()])

    joint, in_turn = moved("joint"), moved("sequential")
    # With so small a step the objectives in turn see nearly the same g, so their steps add up to the joint one.
    assert torch.nn.functional.cosine_similarity(joint, in_turn, dim=0) > 0.99
    assert joint.norm().item() == pytest.approx(in_turn.norm().item(), rel=0.05)


@pytest.mark.parametrize("updates", ["sequential", "joint"])
@pytest.mark.parametrize("application", [PatchApplication(PatchGeometry(32)), FrameApplication()])
def test_a_batch_without_faces_is_a_step_too(
    detectors: tuple[RetinaFace, RetinaFace], updates: str, application: Application
) -> None:
    algorithm = build(*detectors, EdgeUNet((8, 8, 8)), application, updates=updates)
    losses = algorithm.step(torch.rand(1, 3, SIDE, SIDE) * 255, Faces([torch.zeros(0, 4)]))
    assert losses["review"] == 0


def test_frame_mode_repaints_inside_the_boxes_only() -> None:
    torch.manual_seed(0)
    g = EdgeUNet((8, 8, 8))
    torch.nn.init.normal_(g.leave.weight, std=0.1)
    application = FrameApplication()
    # Sides that are no multiples: the frame is padded for the network and cut again.
    x = (torch.rand(1, 3, 50, 70) * 255).round()
    redaction = application.redact(application.prepare(x, [torch.tensor([[10.2, 12, 40, 30]])]), g)
    assert redaction.images.shape == x.shape
    assert redaction.mask[0, 0].sum() == 30 * 18
    outside = redaction.mask.expand_as(x) == 0
    assert torch.equal(redaction.images[outside], x[outside])
    assert torch.equal(redaction.blurred[outside], x[outside])
    assert not torch.equal(redaction.images[~outside], redaction.blurred[~outside])


def test_a_loss_that_is_not_finite_stops(detectors: tuple[RetinaFace, RetinaFace]) -> None:
    g = EdgeUNet((8, 8, 8))
    torch.nn.init.constant_(g.leave.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is"):
        build(*detectors, g).step(torch.rand(1, 3, SIDE, SIDE) * 255, Faces([torch.tensor([[10.0, 12, 40, 50]])]))


@pytest.mark.parametrize("updates", ["sequential", "joint"])
def test_a_step_in_mixed_precision_has_the_losses_of_one_in_single(updates: str) -> None:
    found = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(5)
        f, f_g, g = RetinaFace().eval(), RetinaFace().eval(), EdgeUNet((8, 8, 8))
        algorithm = build(f, f_g, g, updates=updates)
        algorithm.fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
        x = torch.rand(2, 3, SIDE, SIDE) * 255
        losses = algorithm.step(x, Faces([torch.tensor([[10.0, 12, 40, 50]]), torch.tensor([[20.0, 12, 50, 60]])]))
        assert all(weight.dtype == torch.float32 for weight in [*g.parameters(), *f_g.parameters()])
        found.append(losses)
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=0.2, abs=0.05), name
