"""The paper's privacy-recovering attack: a U-Net of g's structure that is trained to undo the blur.

The attacker has clear pictures of other people, and the method with its weights: the strongest that can be assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import grid_sample, l1_loss
from torch.nn.parallel import DistributedDataParallel
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from .checkpoints import save_weights_file, start_from
from .data.cache import read_bgr
from .data.labels import DataError, FaceImage
from .data.mosaic import FaceSamples, SampleSpec
from .detector_training import to_device
from .methods import Method, build_method
from .nets.unet import GENERATORS
from .patches import PatchGeometry, crop_grid, face_mask
from .run import Batch, RunArgs, batches, launch, options_of, resume, train
from .sources import DataArgs, open_training_sets, read_validation, tell_problems


@dataclass(frozen=True)
class RecoveryArgs:
    """How an attack is trained and judged.

    Attributes:
        data: clear pictures.
        run: how the run is carried out.
        method: name in `METHODS`: what is attacked.
        method_weights: of the method ``dart``.
        network: the attacker's, a name in `GENERATORS`.
        geometry: how the attacker cuts out faces.
        size: side of a training sample, pixels.
        learning_rate: of Adam.
        smallest: faces below this size (square root of area, pixels) are not judged.
        most: so many faces are judged at most.
    """

    data: DataArgs
    run: RunArgs
    method: str
    method_weights: Path | None = None
    network: str = "edge"
    geometry: PatchGeometry = field(default_factory=PatchGeometry)
    size: int = 320
    learning_rate: float = 1e-3
    smallest: float = 32.0
    most: int = 300


@dataclass(frozen=True)
class Recovery:
    """How near to the clear faces the overwritten and the recovered ones are, on average.

    Attributes:
        faces: number of faces that were judged.
        psnr_redacted, psnr_recovered: peak signal-to-noise ratio, dB.
        ssim_redacted, ssim_recovered: structural similarity, up to 1.
        picture: rows of clear, overwritten and recovered faces, ``[H, W, 3]`` uint8 BGR.
    """

    faces: int
    psnr_redacted: float
    psnr_recovered: float
    ssim_redacted: float
    ssim_recovered: float
    picture: NDArray[np.uint8]


def cut_out(images: Tensor, boxes: Sequence[Tensor], geometry: PatchGeometry) -> Tensor:
    """Faces with their surroundings, ``[F, 3, P, P]`` BGR 0..1, of images ``[N, 3, H, W]`` 0..255."""
    rows = []
    for image, faces in zip(images, boxes, strict=True):
        if len(faces):
            grid = crop_grid(faces, image.shape[-2], image.shape[-1], geometry)
            picture = (image[None] / 255).expand(len(faces), -1, -1, -1)
            rows.append(grid_sample(picture, grid, padding_mode="border", align_corners=False))
    return torch.cat(rows) if rows else images.new_zeros(0, 3, geometry.size, geometry.size)


class RecoveryTrainer:
    """The attacker's network; a `Trainee`."""

    SMALLEST = 16.0
    """Smaller faces have no detail that could be learned, pixels."""

    def __init__(self, args: RecoveryArgs, fabric: Fabric, validation: list[FaceImage]) -> None:
        if args.network not in GENERATORS:
            raise DataError(f"network: expected one of {', '.join(sorted(GENERATORS))}, got {args.network!r}")
        self.args, self.fabric, self.validation = args, fabric, validation
        self.options = options_of(args, ("learning_rate", "smallest", "most"))
        torch.manual_seed(args.run.seed)
        self.method = build_method(args.method, args.method_weights, fabric.device)
        self.network = GENERATORS[args.network]().to(fabric.device)
        self.forward: torch.nn.Module = self.network
        if fabric.world_size > 1:
            self.forward = DistributedDataParallel(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), args.learning_rate)
        self.mask = face_mask(args.geometry, fabric.device)
        self.step = 0

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Of `Trainee`."""
        clear, faces, _ = to_device(batch, self.fabric)
        faces = [boxes[(boxes[:, 2:] - boxes[:, :2]).prod(1) >= self.SMALLEST**2] for boxes in faces]
        redacted = torch.stack([_redacted(self.method, *pair) for pair in zip(clear, faces, strict=True)])
        wanted = cut_out(clear, faces, self.args.geometry)
        seen = cut_out(redacted.to(clear), faces, self.args.geometry)
        self.step += 1
        mask = self.mask
        if not len(wanted):
            # The other processes wait for a gradient, if only one of zeros.
            wanted = seen = clear.new_zeros(1, 3, self.args.geometry.size, self.args.geometry.size)
            mask = torch.zeros_like(mask)
        mask = mask.expand(len(seen), -1, -1, -1)
        with self.fabric.autocast():
            recovered = self.forward(seen, mask).float()
        loss = l1_loss(recovered * mask, wanted * mask) / self.mask.mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.learning_rate * 0.1 ** (self.step / self.args.run.steps)
        self.optimizer.step()
        return {"l1": loss.item()}

    def state(self) -> dict[str, Any]:
        """Of `Trainee`."""
        return {"step": self.step, "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Of `Trainee`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save_weights(self) -> None:
        """Writes ``attacker.safetensors``."""
        kept = {name: self.options[name] for name in ("method", "method_weights", "network", "geometry")}
        file = self.args.run.out / "attacker.safetensors"
        save_weights_file(file, self.network.state_dict(), {"kind": "attacker", **kept})

    def measure(self) -> dict[str, float]:
        """Of `Trainee`."""
        self._judged = judge(self.args, self.network, self.method, self.validation)
        return {name: getattr(self._judged, name) for name in ("psnr_redacted", "psnr_recovered", "ssim_recovered")}

    def picture(self, batch: Batch) -> NDArray[np.uint8]:
        """Of `Trainee`: the faces of the last measurement."""
        return self._judged.picture


def _redacted(method: Method, image: Tensor, boxes: Tensor) -> Tensor:
    pixels = np.ascontiguousarray(image.byte().permute(1, 2, 0).cpu().numpy())
    return torch.from_numpy(method(pixels, boxes.cpu().numpy())).permute(2, 0, 1)


@torch.no_grad()
def judge(args: RecoveryArgs, network: torch.nn.Module, method: Method, records: Sequence[FaceImage]) -> Recovery:
    """Attacks the faces of the records.

    Args:
        args: how faces are cut out, and which ones count.
        network: the attacker's.
        method: what is attacked.
        records: clear pictures that the attacker has not seen.

    Raises:
        DataError: no face is large enough.
    """
    device = next(network.parameters()).device
    clear: list[Tensor] = []
    redacted: list[Tensor] = []
    for record in records:
        boxes = record.boxes[~record.ignored]
        boxes = boxes[np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) >= args.smallest]
        if not len(boxes) or sum(len(part) for part in clear) >= args.most:
            continue
        image = read_bgr(record.path)
        faces = [torch.from_numpy(boxes)]
        for pixels, parts in ((image, clear), (method(image, boxes), redacted)):
            parts.append(cut_out(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), faces, args.geometry))
    if not clear:
        raise DataError(f"expected faces of at least {args.smallest} pixels in the validation images, there are none")
    x, seen = torch.cat(clear)[: args.most], torch.cat(redacted)[: args.most]
    mask = face_mask(args.geometry)
    recovered = torch.cat([network(part[None].to(device), mask.to(device)).cpu() for part in seen])
    inside = slice(args.geometry.margin, args.geometry.size - args.geometry.margin)
    wanted, blurred, attacked = (part[..., inside, inside] for part in (x, seen, recovered))
    sheet = torch.cat([torch.cat(list(part[:12]), 2) for part in (x, seen, seen * (1 - mask) + recovered * mask)], 1)
    return Recovery(
        len(x),
        _psnr(blurred, wanted),
        _psnr(attacked, wanted),
        _ssim(blurred, wanted),
        _ssim(attacked, wanted),
        (sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy(),
    )


def _psnr(faces: Tensor, clear: Tensor) -> float:
    return float(peak_signal_noise_ratio(faces, clear, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean"))


def _ssim(faces: Tensor, clear: Tensor) -> float:
    value = structural_similarity_index_measure(faces, clear, data_range=1.0)
    return float(value)  # type: ignore[arg-type]


def train_recovery(args: RecoveryArgs) -> Path:
    """Trains (or resumes) an attacker and returns the file of its weights.

    Raises:
        DataError: data, weights or an argument are missing or malformed.
        TrainingError: the loss runs away.
    """
    fabric = launch(args.run)
    trainer = RecoveryTrainer(args, fabric, read_validation(args.data))
    resume(trainer, args.run)
    sets, weights = open_training_sets(args.data, several=False)
    spec = SampleSpec(args.size, mosaic=0.0, face_size=(20.0, 160.0), scale=(0.4, 2.0), max_faces=64, photometric=False)
    samples = FaceSamples(sets, weights, spec, args.run.seed)
    train(trainer, batches(samples, args.run, fabric, trainer.step), args.run, fabric)
    tell_problems(sets)
    return args.run.out / "attacker.safetensors"


def evaluate_recovery(args: RecoveryArgs, attacker: Path) -> Recovery:
    """Attacks the validation images with trained weights; raises `DataError` as `train_recovery`."""
    try:
        with safe_open(attacker, "pt") as archive:
            trained = archive.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{attacker}: expected weights of 'dartblur train recover': {error}") from error
    options = options_of(args, ())
    for name in ("method", "method_weights", "network", "geometry"):
        if trained.get(name) != options[name]:
            raise DataError(
                f"{attacker}: expected an attacker trained with the same options; "
                f"{name} was {trained.get(name)!r}, now it is {options[name]!r}"
            )
    device = launch(args.run).device
    network = GENERATORS[args.network]().to(device)
    start_from(network, attacker, "")
    method = build_method(args.method, args.method_weights, device)
    return judge(args, network.eval(), method, read_validation(args.data))
