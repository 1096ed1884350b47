"""Images, masks and probability maps at the size of the original images.

Run folders hold probabilities at `image_size`. Distances in millimetres belong to the frame that the pixel size was
published for, which is the original image.
"""

import numpy as np

from xbuslib.data import images


def mask(case) -> np.ndarray:
    """(H, W) bool reference mask at original resolution, the union of its files; `case`: a row of itertuples()."""
    return np.logical_or.reduce([images.read_mask(path) for path in images.mask_files(case)])


def image(case) -> np.ndarray:
    """(H, W) uint8 grey image at original resolution."""
    return images.read_grey(case.image)


def at_size(probabilities: np.ndarray, width: int, height: int) -> np.ndarray:
    """(S, S) probabilities of a stretched frame as (height, width), bilinear; averaged where that is smaller."""
    import torch  # here, so that reading tables and masks does not wait for it
    from torch.nn.functional import interpolate

    small = torch.from_numpy(np.ascontiguousarray(probabilities, np.float32))[None, None]  # (1, 1, S, S)
    large = interpolate(small, size=(height, width), mode="bilinear", antialias=True)[0, 0]
    return large.clamp(0, 1).numpy()  # its rounding exceeds 1 in the last digit
