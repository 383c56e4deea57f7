"""Data sets, pipelines, the pixel grid and the InfiMNIST-like generator; importing it loads no TFDS and no Grain."""

from advjax.data.crops import CenterCrop, RandomCrop
from advjax.data.dataset import Dataset
from advjax.data.digits import load_digits
from advjax.data.image_folder import image_folder
from advjax.data.images import ImageSet
from advjax.data.infimnist import InfimnistLike, calibrate, infimnist_like, misclassified_share
from advjax.data.mixture import Mixture
from advjax.data.originals import data_read, digest
from advjax.data.pipeline import Resident
from advjax.data.rows import batches, filled
from advjax.data.sources import imagenet, load
from advjax.data.standardized import Standardized, padded_grey, yuv_contrast
from advjax.data.stream import ExampleError, Stream
from advjax.data.transforms import to_float, to_uint8
from advjax.data.yuv import contrast_normalize, rgb_to_yuv

__all__ = [
    "Dataset",
    "load",
    "load_digits",
    "data_read",
    "digest",
    "ImageSet",
    "Mixture",
    "imagenet",
    "image_folder",
    "CenterCrop",
    "RandomCrop",
    "to_float",
    "to_uint8",
    "Standardized",
    "padded_grey",
    "yuv_contrast",
    "rgb_to_yuv",
    "contrast_normalize",
    "Resident",
    "Stream",
    "ExampleError",
    "batches",
    "filled",
    "InfimnistLike",
    "infimnist_like",
    "misclassified_share",
    "calibrate",
]
