"""The Kimi image and video processors of transformers, the second opinion and the peer of the benchmark."""

import contextlib
from types import SimpleNamespace
from typing import Any


def kimi_processors() -> Any:
    """Both processors as `image` and `video`.

    Raises:
        ImportError: torch, torchvision or transformers is absent.
    """
    import torch

    # torchvision built for CUDA cannot load its operators beside a CPU torch, and then fails to import for want of
    # these two; the processors use none of its operators.
    with contextlib.suppress(RuntimeError):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        kimi_processors.library = library  # type: ignore[attr-defined]
    import torchvision  # noqa: F401 - transformers would name the lack of it less plainly
    from transformers.models.kimi_k25.image_processing_kimi_k25 import Kimi_K25ImageProcessor
    from transformers.models.kimi_k25.video_processing_kimi_k25 import Kimi_K25VideoProcessor

    return SimpleNamespace(image=Kimi_K25ImageProcessor(), video=Kimi_K25VideoProcessor())
