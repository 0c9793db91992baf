"""SeaCache's filter."""

import math

import pytest
import torch

from service.engine.features.wiener import filtered, gains

SHARES = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (9, 4), (1, 6), (1, 1)])
def test_gains_follow_the_formula(size):
    found = gains(*size, SHARES)
    assert found.shape == (5, *size)
    torch.testing.assert_close(found.mean((1, 2)), torch.ones(5))
    for row, noise in zip(found, SHARES.tolist(), strict=True):
        if noise in (0.0, 1.0):
            continue
        expected = torch.empty(size)
        for i in range(size[0]):
            for j in range(size[1]):
                up, across = min(i, size[0] - i) / size[0], min(j, size[1] - j) / size[1]
                power = max(math.hypot(up, across), 1 / max(size)) ** -2.0
                clean = 1 - noise
                expected[i, j] = clean * power / (clean**2 * power + noise**2)
        torch.testing.assert_close(row, expected / expected.mean())


def test_a_clean_picture_passes_whole_and_noise_loses_its_high_frequencies():
    pictures = torch.randn(5, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    behind = filtered(pictures, SHARES)
    torch.testing.assert_close(behind[0], pictures[0])
    passed = gains(9, 12, SHARES)
    high = passed[:, 4, 6] / passed[:, 0, 1]
    assert (high.diff() < 0).all()
    assert behind.isfinite().all()


@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_it_is_the_gain_in_the_frequency_domain(size):
    pictures = torch.randn(5, 2, *size, generator=torch.Generator().manual_seed(1))
    expected = torch.fft.ifft2(torch.fft.fft2(pictures) * gains(*size, SHARES)[:, None])
    assert expected.imag.abs().max() < 1e-6
    torch.testing.assert_close(filtered(pictures, SHARES), expected.real)


def test_rows_are_filtered_one_by_one_in_single_precision():
    pictures = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(2)).bfloat16()
    together = filtered(pictures, SHARES)
    assert together.dtype == torch.float32
    for row in range(5):
        alone = filtered(pictures[row : row + 1], SHARES[row : row + 1])
        torch.testing.assert_close(together[row], alone[0])
    assert not torch.allclose(filtered(pictures, SHARES, beta=3.0), together)
