"""A recogniser of ours -> an ONNX file of insightface's convention, which `ArcFaceEncoder` and other programs read."""

import logging
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import MissingExtraError, UsageError
from lorasynth.storage.files import write_bytes


class _Scaled(nn.Module):
    """A network of pictures in [0, 1] as one of pictures in [-1, 1]."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, faces: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self.net(faces / 2 + 0.5)


def export_onnx(net: nn.Module, path: str | Path, size: int = 112) -> None:
    """Write a recogniser as one ONNX file: input Bx3xSxS, RGB in [-1, 1]. Output BxD. B is free.

    Args:
        net: pictures in [0, 1] -> embeddings; it is exported as it is in evaluation.
        path: of the file.
        size: S, pixels a side. Programs of this convention take 112 or more; at the network's own size nothing is resampled.

    Raises:
        MissingExtraError: the exporter's packages are not installed.
        UsageError: ``size`` is below 1.
    """
    if size < 1:
        raise UsageError(f"expected a size of at least 1 pixel, got {size}; 112 is usual")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError(f"{path}: writing ONNX needs its exporter; pip install onnx onnxscript") from None
    was_training = net.training
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)  # it says four times that torchvision is missing
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's own, about torch's inner workings
            program = torch.onnx.export(
                _Scaled(net).eval(),
                (torch.zeros(2, 3, size, size),),
                input_names=["input"],
                output_names=["embedding"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    finally:
        registry.setLevel(level)
        net.train(was_training)
    assert program is not None  # what dynamo=True gives
    write_bytes(path, program.model_proto.SerializeToString())
