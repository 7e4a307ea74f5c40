"""`Anonymizer`: a clear frame in, a frame that may leave out."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .backends.base import Backend, Look
from .backends.scan import Scan
from .boxes import outermost, outermost_of, scale_boxes
from .coverage import Coverage
from .detections import Detections
from .errors import FrameError, InputError
from .frame import Frame, Image, RedactedFrame, _Gate, check_image

Method = Literal["dart", "gaussian", "pixelate", "solid"]
METHODS: tuple[Method, ...] = get_args(Method)


class Anonymizer:
    """Finds the faces of a frame and overwrites them.

    Args:
        model: ``nano``, ``small`` or ``base``, a model bundle (folder or zip), or None for ``small``.
        method: ``dart`` (learned blur), ``gaussian``, ``pixelate`` or ``solid``.
        threshold: lowest score that counts as a face, 0..1; None for the model's own.
        box_scale: how much larger than the face the overwritten box is, >= 1; None for the model's own. On a GPU
            another one costs a second run of the model in frames with faces.
        backend: what runs the model; None for the CPU.
        shared: several threads use it, such as one for each camera: each has one frame under way at a time, and waits
            for the others where the backend has no room.
        scan: how closely frames are searched, on the CPU: at which size, and whether in tiles; None: as the model does.

    Raises:
        InputError: an argument is out of its range, or the bundle is broken (`BundleError`).
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        method: Method = "dart",
        threshold: float | None = None,
        box_scale: float | None = None,
        backend: Backend | None = None,
        shared: bool = False,
        scan: Scan | None = None,
    ) -> None:
        if method not in METHODS:
            raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        if backend is not None and scan is not None:
            raise InputError("scan: expected none beside a backend, which has its own: give it to the backend")
        if backend is None:
            from .backends.cpu import CpuBackend
            from .bundle import load_bundle

            backend = CpuBackend(load_bundle(model), scan=scan)
        if shared:
            from .backends.shared import SharedBackend

            backend = SharedBackend(backend)
        self._backend = backend
        self.method: Method = method
        self.threshold = backend.defaults.threshold if threshold is None else threshold
        self.box_scale = backend.defaults.box_scale if box_scale is None else box_scale
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold: expected a number above 0 and below 1, got {self.threshold}")
        if not 1 <= self.box_scale <= 4:
            raise InputError(f"box_scale: expected a number from 1 to 4, got {self.box_scale}")

    @property
    def depth(self) -> int:
        """Frames that may be begun before the first of them is asked for its result."""
        return self._backend.depth

    @property
    def at_once(self) -> int:
        """Threads that may use it at the same time, each with one frame under way."""
        return self._backend.at_once

    @property
    def model_name(self) -> str:
        """Name and version of the model, for records."""
        return self._backend.model_name

    def __call__(self, frame: Frame | Image | Any, *, in_place: bool = False) -> RedactedFrame:
        """Overwrites the faces of one frame.

        Args:
            frame: a `Frame`, or uint8 ``[H, W, 3]`` BGR: a NumPy array, or, where the backend runs on a GPU, an array
                of its memory (``__cuda_array_interface__`` or DLPack: PyTorch, CuPy, PyCUDA).
            in_place: overwrite in the caller's pixels, also where they are a view; otherwise they are copied once.

        Returns:
            The redacted frame, with the faces that were found.

        Raises:
            FrameError: the array is not such an image, can't be overwritten though it is to be, or has a size that the
                model doesn't take.
            FailClosedError: faces may have been missed; nothing may leave.
            BackendError: the backend failed.
        """
        return self.begin(frame, in_place=in_place).result()

    def begin(
        self,
        frame: Frame | Image | Any,
        *,
        in_place: bool = False,
        held: NDArray[np.float32] | None = None,
        weak: float | None = None,
    ) -> Pending:
        """Starts on a frame; several may be under way, see `depth`.

        Args:
            frame, in_place: as of a call. Until the result is there the caller leaves the pixels alone.
            held: boxes ``[n, 4]`` xyxy of faces that are covered whether the detector finds them or not, such as a
                tracker's.
            weak: lowest score that is told of, where that is below the threshold: for a tracker, to which a faint
                detection says that a face is still there.

        Raises:
            FrameError, BackendError: as of a call.
        """
        whole = frame if isinstance(frame, Frame) else None
        given = self._check(frame if whole is None else whole.image)
        image = _own(given, in_place)
        view = None
        if in_place and whole is None and image is not given:
            # Who goes on with pixels that were to be overwritten must not find them clear.
            if not given.flags.writeable:
                raise FrameError("in_place: expected pixels that can be written, got a read-only array: copy it first")
            view = given
        kept = np.zeros((0, 4), np.float32) if held is None else np.asarray(held, np.float32).reshape(-1, 4)
        look = self._backend.begin(image, self.threshold, scale_boxes(kept, self.box_scale), weak)
        return Pending(self, look, image, kept, whole, view)

    def _check(self, image: Any) -> Any:
        if isinstance(image, np.ndarray):
            return check_image(image)
        from .backends.gpu_arrays import is_on_gpu

        if not is_on_gpu(image):
            return check_image(image)
        if not self._backend.gpu_frames:
            what = type(image).__name__
            raise FrameError(f"expected a NumPy array, got a {what} in GPU memory: this backend runs on the CPU")
        return image

    def redact(self, image: Image | Any, detections: Detections) -> NDArray[np.float32]:
        """Overwrites the given faces in the image, in place; returns the boxes ``[n, 4]`` that it has covered."""
        covered = outermost(scale_boxes(detections.boxes, self.box_scale))
        look = self._backend.begin(self._check(image), self.threshold, covered)
        try:
            look.redact(covered, self.method)
            look.finish()
        finally:
            look.close()
        return covered


class Pending:
    """A frame that an `Anonymizer` has begun with. What is to be covered is up to the caller, who may also just ask for
    the `result`.
    """

    def __init__(
        self,
        anonymizer: Anonymizer,
        look: Look,
        image: Image,
        held: NDArray[np.float32],
        frame: Frame | None,
        view: Image | None = None,
    ) -> None:
        self._anonymizer, self._look, self._image, self._held = anonymizer, look, image, held
        self._frame, self._view = frame, view

    def detections(self) -> Detections:
        """The faces that were found, unless it raises `FailClosedError` or `BackendError`; waits for them."""
        try:
            return self._look.detections()
        except BaseException:
            self._look.close()
            raise

    def redact(
        self, detections: Detections, coverage: Coverage, zones: NDArray[np.float32] | None = None
    ) -> RedactedFrame:
        """Overwrites boxes, which ends it.

        Args:
            detections: what the redacted frame says was found.
            coverage: faces to cover, as large as they are; the box scale grows them.
            zones: boxes ``[n, 4]`` xyxy to cover as they are; by Gaussian blur in place of ``dart``, which is made for
                faces.

        Raises:
            FailClosedError, BackendError: as of a call of the anonymizer.
        """
        grown = scale_boxes(coverage.boxes, self._anonymizer.box_scale)
        shown = outermost_of(grown)
        faces = Coverage(grown, coverage.ids, coverage.reasons).take(shown)
        areas = Coverage.of(np.zeros((0, 4), np.float32) if zones is None else zones, "zone")
        return self.cover(detections, Coverage.join([faces, areas]), self._anonymizer.method)

    def cover(self, detections: Detections, coverage: Coverage, method: Method) -> RedactedFrame:
        """Overwrites boxes as they are, which ends it.

        Args:
            detections: what the redacted frame says was found.
            coverage: what to cover; zones last, and by Gaussian blur in place of ``dart``.
            method: one of `METHODS`, whatever the anonymizer's own is.

        Raises:
            FailClosedError, BackendError: as of a call of the anonymizer.
        """
        look, image = self._look, self._image
        zones = np.array([reason == "zone" for reason in coverage.reasons], bool)
        try:
            look.redact(coverage.boxes[~zones], method)
            if zones.any():
                look.redact(coverage.boxes[zones], "gaussian" if method == "dart" else method)
            look.finish()
        finally:
            look.close()
        if self._view is not None:
            np.copyto(self._view, image)
        frame = self._frame
        when = (0, 0.0, None, monotonic()) if frame is None else (frame.index, frame.time, frame.pts, frame.captured)
        return RedactedFrame(image, *when, detections, coverage, method, gate=_Gate(image))

    def result(self) -> RedactedFrame:
        """The frame with all faces covered that were found or held; waits for it. Once only.

        Raises:
            FailClosedError, BackendError: as of a call of the anonymizer.
        """
        detections = self.detections()
        coverage = [Coverage.of(detections.boxes, "detected"), Coverage.of(self._held, "held")]
        return self.redact(detections, Coverage.join(coverage))

    def discard(self) -> None:
        """Gives the frame up; harmless when it has ended."""
        self._look.close()


def _own(image: Any, in_place: bool) -> Any:
    """The image itself where it may be overwritten, else a copy, in the memory and of the type that it has."""
    if isinstance(image, np.ndarray):
        fit = in_place and image.flags.writeable and image.flags.c_contiguous
        return image if fit else np.array(image, order="C")
    if in_place:
        return image
    # PyTorch calls it clone, CuPy and PyCUDA copy.
    copy = getattr(image, "clone", None) or getattr(image, "copy", None)
    if copy is None:
        raise FrameError(f"expected a GPU array that can be copied, got {type(image).__name__}: pass in_place=True")
    return copy()
