"""Photo -> faces, each with a box and five landmarks. The model files are the user's own: nothing is downloaded.

Points are pixels of the photo (x, y). Shapes: N faces, A anchors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from lorasynth.encoders.graphs import Graph
from lorasynth.errors import MissingExtraError, ModelError

DETECTION_SIZE = 640
"""Pixels of the longer side of the picture that a detector looks at."""
STRIDES = (8, 16, 32)
ANCHORS_PER_CELL = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Face:
    """One face in a photo."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    landmarks: Float[np.ndarray, "5 2"]  # eye at the image's left, at its right, nose, corner of the mouth left, right
    score: float  # 0 to 1

    @property
    def width(self) -> float:
        """Pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Pixels."""
        return self.box[3] - self.box[1]


@runtime_checkable
class Detector(Protocol):
    """Finds faces. SCRFD, YuNet and a user's own are interchangeable by this."""

    def detect(self, image: Image.Image) -> list[Face]:
        """All faces of an RGB photo of any size, in any order.

        Raises:
            ModelError: the model's output is not what it should be.
        """
        ...


class Scrfd:
    """SCRFD with landmarks (Guo et al., ICLR 2022), insightface's det_10g.onnx and scrfd_10g_bnkps.onnx, over onnxruntime."""

    def __init__(self, path: str | Path, *, least_score: float = 0.5, most_overlap: float = 0.4):
        """Open a model file.

        Args:
            path: of the file.
            least_score: faces below it are not reported.
            most_overlap: of two boxes whose intersection over union is larger, only the better counts.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            ModelError: it is not a file of this kind.
        """
        self.graph, self.path = Graph(path), Path(path)
        self.least_score, self.most_overlap = least_score, most_overlap
        shape = self.graph.input_shape
        num_outputs = len(self.graph.output_shapes)
        if len(shape) != 4 or shape[1] not in (3, None) or shape[2] != shape[3] or num_outputs != 9:
            raise ModelError(
                f"{path}: expected SCRFD with landmarks (one input Bx3xHxW, nine outputs), got an input of shape {shape} and "
                f"{num_outputs} outputs; give det_10g.onnx or scrfd_10g_bnkps.onnx"
            )
        self.size = shape[2] or DETECTION_SIZE

    def detect(self, image: Image.Image) -> list[Face]:
        """All faces, best first.

        Raises:
            ModelError: the network does not run, or its outputs have the wrong shapes or are not finite.
        """
        small, scale = _shrink(image, self.size)
        canvas = Image.new("RGB", (self.size, self.size))  # letterbox: black on the right or below
        canvas.paste(small)
        values = (np.asarray(canvas, dtype=np.float32) - 127.5) / 128
        try:
            boxes, landmarks, scores = decode_scrfd(self.graph(values.transpose(2, 0, 1)[None]), self.size)
        except ValueError as error:
            raise ModelError(f"{self.graph.path}: {error}; give det_10g.onnx or scrfd_10g_bnkps.onnx") from None
        found = scores >= self.least_score
        boxes, landmarks, scores = boxes[found], landmarks[found], scores[found]
        return [
            _face(boxes[i], landmarks[i], float(scores[i]), scale) for i in suppress(boxes, scores, self.most_overlap)
        ]


class YuNet:
    """YuNet (Wu et al., Machine Intelligence Research 2023) by OpenCV's own class. Model and code are free for any use."""

    def __init__(
        self, path: str | Path, *, sure_score: float = 0.9, least_score: float = 0.5, most_overlap: float = 0.3
    ):
        """Open a model file, face_detection_yunet_*.onnx of the OpenCV Zoo.

        Args:
            path: of the file.
            sure_score: a photo without a face of this score shows none; OpenCV's default.
            least_score: faces below it are not reported. Those between the two count as other people in the photo.
            most_overlap: of two boxes whose intersection over union is larger, only the better counts; OpenCV's default.

        Raises:
            MissingExtraError: OpenCV is not installed.
            ModelError: OpenCV does not take the file.
        """
        try:
            import cv2
        except ImportError:
            raise MissingExtraError(f"{path}: YuNet needs OpenCV; pip install 'lorasynth[face]'") from None

        self.path, self.sure_score, self._error = Path(path), sure_score, cv2.error
        if not self.path.is_file():
            raise ModelError(f"{path}: expected YuNet's ONNX file, got no such file; check the path")
        try:
            self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), least_score, most_overlap)
        except cv2.error as error:
            raise ModelError(f"{path}: expected YuNet's ONNX file, got {_opencv_reason(error)}; get it again") from None

    def detect(self, image: Image.Image) -> list[Face]:
        """All faces, best first.

        Raises:
            ModelError: OpenCV cannot run the network, or its output is not finite.
        """
        small, scale = _shrink(image, DETECTION_SIZE)
        bgr = np.ascontiguousarray(np.asarray(small)[..., ::-1])
        try:
            self._net.setInputSize(small.size)
            rows = self._net.detect(bgr)[1]
        except self._error as error:
            raise ModelError(f"{self.path}: OpenCV cannot run it: {_opencv_reason(error)}; get YuNet's file") from None
        # Rows of 15: left, top, width, height; five points; score.
        table = np.zeros((0, 15)) if rows is None else np.asarray(rows, dtype=np.float64)
        if not np.isfinite(table).all():
            raise ModelError(f"{self.path}: the detector's output is not finite; get the file again")
        boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
        order = np.argsort(-table[:, 14], kind="stable")
        return [_face(boxes[i], table[i, 4:14].reshape(5, 2), float(table[i, 14]), scale) for i in order]


def decode_scrfd(
    outputs: Sequence[np.ndarray], size: int
) -> tuple[Float[np.ndarray, "A 4"], Float[np.ndarray, "A 5 2"], Float[np.ndarray, " A"]]:
    """Boxes (left, top, right, bottom), landmarks and scores of all anchors, in pixels of the network's input.

    A cell's anchors share one centre, stride · (column, row). The network gives distances from it in strides: leftwards, upwards,
    rightwards and downwards to the box. X and y to each landmark (Guo et al., section 3, and insightface's convention).

    Raises:
        ValueError: outputs of a wrong shape, or not finite.
    """
    flat = [output.reshape(-1, output.shape[-1]) for output in outputs if output.ndim >= 2]
    # NOTE: outputs have numbers for names; they are told apart by width (1, 4, 10), and strides by length.
    kinds = [sorted((o for o in flat if o.shape[1] == width), key=len, reverse=True) for width in (1, 4, 10)]
    lengths = [ANCHORS_PER_CELL * (size // stride) ** 2 for stride in STRIDES]
    if any([len(output) for output in kind] != lengths for kind in kinds):
        got = ", ".join(str(output.shape) for output in outputs)
        raise ValueError(f"expected outputs of {lengths} rows and 1, 4 and 10 columns, got {got}")
    if not all(np.isfinite(output).all() for output in flat):
        raise ValueError("the detector's output is not finite")
    parts = []
    for stride, scores, distances, offsets in zip(STRIDES, *kinds, strict=True):
        row, column = np.divmod(np.arange((size // stride) ** 2), size // stride)
        centre = np.repeat(np.stack([column, row], axis=1) * stride, ANCHORS_PER_CELL, axis=0).astype(np.float32)
        corners = np.concatenate([centre - distances[:, :2] * stride, centre + distances[:, 2:] * stride], axis=1)
        points = centre[:, None] + offsets.reshape(-1, 5, 2) * stride
        parts.append((corners, points, scores[:, 0]))
    boxes, landmarks, all_scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return boxes, landmarks, all_scores


def suppress(
    boxes: Float[np.ndarray, "A 4"], scores: Float[np.ndarray, " A"], most_overlap: float
) -> Int[np.ndarray, " N"]:
    """Indices of the boxes to keep, best first: greedy non-maximum suppression by intersection over union."""
    rest = np.argsort(-scores, kind="stable")
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[rest, :2])
        opposite = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(opposite - corner, 0), axis=1)
        rest = rest[shared <= most_overlap * (areas[best] + areas[rest] - shared)]
    return np.array(kept, dtype=np.int64)


def _shrink(image: Image.Image, size: int) -> tuple[Image.Image, np.ndarray]:
    """The photo with its longer side at ``size`` pixels, and its pixels per pixel of that, in x and y. Small photos grow."""
    ratio = size / max(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return small, np.array([image.width / width, image.height / height])


def _face(box: np.ndarray, landmarks: np.ndarray, score: float, scale: np.ndarray) -> Face:
    """A face in pixels of the photo, from pixels of the shrunken one."""
    left, top, right, bottom = (box.reshape(2, 2).astype(np.float64) * scale).ravel().tolist()
    return Face(box=(left, top, right, bottom), landmarks=landmarks.astype(np.float64) * scale, score=score)


def _opencv_reason(error: Exception) -> str:
    """OpenCV's own words, without the place in its source and over one line."""
    return " ".join(str(error).split(") ", 1)[-1].split())
