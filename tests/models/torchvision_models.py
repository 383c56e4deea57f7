"""torchvision's networks with random weights and statistics, and images that networks tell apart."""

import numpy as np
import pytest


def torchvision_models():
    """torchvision.models; under a PyTorch without its C++ operators these are declared empty first."""
    torch = pytest.importorskip("torch")
    try:
        from torchvision import models
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision_models.library = library  # an operator lives as long as its library
        from torchvision import models
    return models


def randomized(make, images=None, seed=0):
    """`make()` in evaluation mode with random weights, biases and statistics.

    Given images, the batch norms take the statistics of these, for with others a deep network forgets what it sees,
    and 1.5 times the variances, for with just these rounding errors grow from layer to layer.
    """
    import torch

    with torch.device("meta"):
        model = make()
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif tensor.ndim > 1:
                limit = (6 / tensor[0].numel()) ** 0.5
                uniform(tensor, -limit, limit)
            elif name.endswith("running_var"):
                uniform(tensor, 0.5, 2.0)
            elif name.endswith("weight"):
                uniform(tensor, 0.5, 1.0)
            else:
                uniform(tensor, -0.2, 0.2)
    model.eval()
    if images is not None:
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        torchvision_logits(model, images)
        for norm in norms:
            norm.running_var *= 1.5
        model.eval()
    return model


def two_images(size):
    """Float32 [2, size, size, 3] in [0, 1], unlike each other in brightness, color and texture."""
    rng = np.random.default_rng(3)
    ramp = np.linspace(0, 1, size)[:, None, None] * np.array([1.0, 0.6, 0.1])
    noise = rng.uniform(0, 1, (2, size, size, 3))
    return np.stack([0.7 * ramp + 0.3 * noise[0], 0.2 * noise[1] ** 4]).astype(np.float32)


def torchvision_logits(model, images, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """The network's logits of images in [0, 1], normalized as torchvision's presets do."""
    import torch

    normalized = (images - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        return model(torch.tensor(normalized.transpose(0, 3, 1, 2))).numpy()
