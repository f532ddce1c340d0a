"""JPEG compression as arithmetic of integers: what it does to pixel values, without a file between.

Baseline JPEG (ITU-T T.81) of a YCbCr picture (JFIF) whose chroma is not subsampled (4:4:4): a face of 14 to 72 px has
little chroma to lose, and every 8x8 block stays on its own. Quantisation tables are those of T.81, annex K, scaled by
quality as libjpeg does; sides that are no multiple of 8 are padded with their last pixel. Colours are converted by
libjpeg's formulas with 16-bit fractions. The DCT is that of Loeffler, Ligtenberg and Moschytz (1989) in the integers of
libjpeg's "islow" method, which as it is linear between its two roundings is a product with one matrix of integers. So
the pixel values are libjpeg's (4:4:4, islow both ways, no smoothing) to the last bit; its files are not made.

All sums are below 2**53, so matrix products of float64 give the very integers too.
"""

import numpy as np
from numpy.typing import NDArray

MATRIX_BITS = 13
"""The matrix of the DCT is in units of 2**-13 / sqrt(8)."""
PASS_BITS = 2
"""Between the two passes of the DCT values keep so many bits after the point."""
LUMA_TABLE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip
"""Table K.1, of luma, row after row."""
CHROMA_TABLE = np.array([
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *[99] * 32,
])  # fmt: skip
"""Table K.2, of chroma."""
TO_YCC = np.array([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]])
"""Y, Cb, Cr of R, G, B, in units of 2**-16."""
TO_YCC_BIAS = np.array([32768, (128 << 16) + 32767, (128 << 16) + 32767])
RED_OF_CR, BLUE_OF_CB, GREEN_OF_CB, GREEN_OF_CR = 91881, 116130, -22554, -46802
"""Weights of chroma less 128 in R, G, B, in units of 2**-16."""


def quantisation_tables() -> NDArray[np.int64]:
    """int64 [101, 3, 8, 8]: the divisors of each coefficient of Y, Cb, Cr, by quality; row 0 is all 1 and not used."""
    quality = np.arange(1, 101)
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
    scaled = (np.stack([LUMA_TABLE, CHROMA_TABLE, CHROMA_TABLE]) * percent + 50) // 100
    tables = np.ones((101, 3, 64), np.int64)
    tables[1:] = np.clip(scaled, 1, 255)
    return tables.reshape(101, 3, 8, 8)


def dct_matrix() -> NDArray[np.int64]:
    """int64 [8, 8]: the DCT-II, row u of frequency u, times sqrt(8) in units of 2**-MATRIX_BITS.

    An entry may differ by 1 from the rounded cosine: it is a sum of the method's own rounded constants.
    """
    one = 1 << MATRIX_BITS
    left = np.array([
        [one, one, one, one], [11363, 9633, 6437, 2260], [10703, 4433, -4433, -10703], [9633, -2259, -11362, -6436],
        [one, -one, -one, one], [6437, -11362, 2261, 9633], [4433, -10704, 10704, -4433], [2260, -6436, 9633, -11363],
    ])  # fmt: skip
    odd = np.arange(8)[:, None] % 2
    return np.concatenate([left, np.where(odd, -left, left)[:, ::-1]], axis=1)
