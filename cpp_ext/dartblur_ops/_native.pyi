import numpy as np
from numpy.typing import NDArray

def patch_margin(side: int, context: float) -> int: ...
def letterbox(frame: NDArray[np.uint8], out: NDArray[np.float32]) -> float: ...
def crop_faces(
    frame: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    out: NDArray[np.float32],
    margin: int,
    context: float,
    blur: bool,
) -> None: ...
def composite(
    frame: NDArray[np.uint8],
    patches: NDArray[np.float32],
    boxes: NDArray[np.float32],
    margin: int,
    context: float,
    ellipse: bool,
    feather: float,
) -> None: ...
def gaussian(frame: NDArray[np.uint8], boxes: NDArray[np.float32]) -> None: ...
def pixelate(frame: NDArray[np.uint8], boxes: NDArray[np.float32], blocks: int) -> None: ...
def solid(frame: NDArray[np.uint8], boxes: NDArray[np.float32], color: tuple[int, int, int]) -> None: ...
def yuv_to_bgr(
    y: NDArray[np.uint8],
    u: NDArray[np.uint8],
    v: NDArray[np.uint8],
    red: float,
    blue: float,
    full: bool,
    out: NDArray[np.uint8],
) -> None: ...
def bgr_to_yuv(
    frame: NDArray[np.uint8],
    red: float,
    blue: float,
    full: bool,
    y: NDArray[np.uint8],
    u: NDArray[np.uint8],
    v: NDArray[np.uint8],
) -> None: ...
