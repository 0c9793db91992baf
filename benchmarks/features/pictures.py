"""How far a picture is from the one it stands for."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Picture = NDArray[np.uint8]
# Same to the last bit: PSNR would be infinite.
BEST_PSNR = 99.0
SIGMA, RADIUS = 1.5, 5


def psnr(picture: Picture, reference: Picture) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 99.

    Args:
        picture: uint8 [H, W, 3].
        reference: uint8 [H, W, 3].
    """
    error = float(np.mean((picture.astype(np.float64) - reference) ** 2))
    return BEST_PSNR if error == 0 else min(BEST_PSNR, 10 * float(np.log10(255**2 / error)))


def ssim(picture: Picture, reference: Picture) -> float:
    """Return the structural similarity, mean over pixels and channels.

    Wang et al. 2004, doi 10.1109/TIP.2003.819861, with its Gaussian window of 11 pixels.

    Args:
        picture: uint8 [H, W, 3].
        reference: uint8 [H, W, 3].
    """
    a, b = picture.astype(np.float64), reference.astype(np.float64)

    def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred: NDArray[np.float64] = gaussian_filter(values, (SIGMA, SIGMA, 0), radius=(RADIUS, RADIUS, 0))
        return blurred

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    light, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_a * mean_b + light) * (2 * covariance + contrast)
    below = (mean_a**2 + mean_b**2 + light) * (variance_a + variance_b + contrast)
    return float(np.mean(above / below))
