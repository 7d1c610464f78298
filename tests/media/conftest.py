"""The Kimi processors of transformers as a second opinion, where torchvision is installed."""

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def kimi_processors():
    torch = pytest.importorskip("torch")
    try:
        library = torch.library.Library("torchvision", "DEF")
        # torchvision built for CUDA cannot load its operators beside a CPU torch, and then fails to import for want of
        # these two; the processors use none of its operators.
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass
    pytest.importorskip("torchvision", reason="the Kimi processors of transformers need torchvision")
    from transformers.models.kimi_k25.image_processing_kimi_k25 import Kimi_K25ImageProcessor
    from transformers.models.kimi_k25.video_processing_kimi_k25 import Kimi_K25VideoProcessor

    return SimpleNamespace(image=Kimi_K25ImageProcessor(), video=Kimi_K25VideoProcessor(), library=library)
