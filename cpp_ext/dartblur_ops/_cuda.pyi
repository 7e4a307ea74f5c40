"""The operations on a CUDA device; `dartblur_ops.cuda` is their door. Addresses and streams are plain numbers."""

Frames = tuple[int, int, int, int, int, int]
"""Address, number of frames, height, width, bytes between rows, bytes between frames."""
Slots = tuple[int, int, int, float, float]
"""Address of the boxes, of the scores (or 0), slots for each frame, threshold, box scale."""

MAX_FRAMES: int
MAX_SLOTS: int

def architectures() -> list[int]: ...
def unusable() -> str: ...
def device_of(address: int) -> int: ...
def wait(device: int, stream: int, other: int) -> None: ...
def composite(
    device: int,
    stream: int,
    frames: Frames,
    slots: Slots,
    patches: int,
    half: bool,
    side: int,
    margin: int,
    context: float,
    ellipse: bool,
    feather: float,
) -> None: ...
def letterbox(device: int, stream: int, frames: Frames, out: int, height: int, width: int) -> float: ...
def crop_faces(
    device: int,
    stream: int,
    frames: Frames,
    slots: Slots,
    out: int,
    side: int,
    margin: int,
    context: float,
    blur: bool,
) -> None: ...
def gaussian(device: int, stream: int, frames: Frames, slots: Slots) -> None: ...
def pixelate(device: int, stream: int, frames: Frames, slots: Slots, blocks: int) -> None: ...
def solid(device: int, stream: int, frames: Frames, slots: Slots, blue: int, green: int, red: int) -> None: ...
