"""Resampling as it is defined here: what the CPU's kernel, the matrix products and the GPU's kernels all compute.

Filters: cubic (Keys 1981 with a = -0.5), linear (triangle), box and Lanczos of three lobes (Duchon 1979), widened by
the shrink factor as PIL and DALI do; and nearest, which is the box filter never widened.
The centre of output pixel i lies at ``c = x0 + (i + 0.5) * step`` in source pixels, ``step = (x1 - x0) / out``; source
pixel j (centre j + 0.5) weighs ``f((j + 0.5 - c) / s)`` with ``s = max(1, |step|)``, the weights normalised to sum 1; a
tap beyond the edge reads the edge pixel; float32 between the two passes; one clamp and one rounding (half up) at the
end. The box filter is 1 where -0.5 + BOX_TIE < t <= 0.5 + BOX_TIE: pixels do fall on its edges (36 -> 24), and without
the nudge rounding errors would decide whether they count, which changes pixel values by up to 24.

numba compiles these values into the kernels of ``cpu.py`` and keeps what it compiled until that file changes: after a
change here ``touch cpu.py``.
"""

from hrfr_fast.sampling.augmentation import FILTERS

CUBIC, LINEAR, BOX, NEAREST, LANCZOS = (
    FILTERS.index(name) for name in ("cubic", "linear", "box", "nearest", "lanczos")
)
KEYS_A = -0.5
"""Parameter of the cubic filter: Catmull-Rom."""
BOX_TIE = 1e-4
"""Below 1 / (2 size), the least distance from an edge that is not a tie, and above the errors of float32."""
ERASE_VALUE = 128
"""Pixel value of erased rectangles."""
