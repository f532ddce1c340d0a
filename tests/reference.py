"""Reference of the resampling definition and the augmentation in float64, with which every engine is compared.

Written from the definition alone, with dense weight matrices and none of the package's kernels.
"""

import numpy as np


def weight(t, filter):
    if filter in ("box", "nearest"):  # open below, closed above; the nudge decides ties, not rounding errors
        return np.where((t > -0.5 + 1e-4) & (t <= 0.5 + 1e-4), 1.0, 0.0)
    t = np.abs(t)
    if filter == "cubic":  # Keys 1981, a = -0.5
        near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        return np.where(t < 1, near, np.where(t < 2, far, 0.0))
    if filter == "lanczos":
        return np.where(t < 3, np.sinc(t) * np.sinc(t / 3), 0.0)
    return np.maximum(1 - t, 0.0)


def matrix(start, stop, size, out, filter="cubic"):
    """[out, size] weights; taps beyond the edge are added to the edge pixel's."""
    step = (stop - start) * size / out
    filter_scale = 1.0 if filter == "nearest" else max(1.0, abs(step))
    result = np.zeros((out, size))
    for i in range(out):
        centre = start * size + (i + 0.5) * step
        taps = np.arange(int(np.floor(centre - 3 * filter_scale)) - 1, int(np.ceil(centre + 3 * filter_scale)) + 2)
        weights = weight((taps + 0.5 - centre) / filter_scale, filter)
        np.add.at(result[i], np.clip(taps, 0, size - 1), weights / weights.sum())
    return result


def separable(picture, vertical, horizontal):
    rows = np.tensordot(vertical, picture, axes=1)
    return np.einsum("ixc,jx->ijc", rows, horizontal, optimize=True)


def gaussian(size, sigma):
    """[size, size] blur matrix, radius ceil(3 sigma), reflect-101 borders."""
    radius = int(np.ceil(3 * sigma))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    result = np.zeros((size, size))
    padded = np.pad(np.arange(size), radius, mode="reflect")
    for i in range(size):
        np.add.at(result[i], padded[i : i + 2 * radius + 1], weights)
    return result


def execute(picture, augmentation, row, out):
    """float64 pixel values [out, out, 3] of one uint8 picture [size, size, 3], before clamp and rounding."""
    from hrfr_fast.sampling.augmentation import FILTERS

    frame = picture.astype(np.float64)
    small, up = int(augmentation.degrade[row]), "cubic"
    if augmentation.order[row] >= 0:
        frame, up = chain(frame, augmentation, row), FILTERS[augmentation.up[row]]
    elif small:
        shrink = matrix(0.0, 1.0, len(frame), small, FILTERS[augmentation.filter[row]])
        frame = separable(frame, shrink, shrink)
    x0, y0, x1, y1 = augmentation.box[row].astype(np.float64)
    frame = separable(frame, matrix(y0, y1, len(frame), out, up), matrix(x0, x1, len(frame), out, up))
    if augmentation.blur[row] > 0:
        blur = gaussian(out, float(augmentation.blur[row]) * out)
        frame = separable(frame, blur, blur)
    colour = augmentation.colour[row].astype(np.float64)
    frame = np.clip(frame @ colour[:, :3].T + colour[:, 3], 0, 255)
    x0, y0, x1, y1 = augmentation.erase[row].astype(np.float64) * out
    if x1 > x0:
        frame[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))] = 128
    return frame


def chain(frame, augmentation, row):
    """The degraded picture, float64 [small, small, 3] of whole pixel values, of float64 [size, size, 3]."""
    from hrfr_fast.sampling.augmentation import FILTERS
    from hrfr_fast.sampling.degradation import ORDERS

    small, size = int(augmentation.degrade[row]), len(frame)
    axis, sigma = matrix(0.0, 1.0, size, small, FILTERS[augmentation.filter[row]]), float(augmentation.optics[row])
    steps = ORDERS[augmentation.order[row]].split("-")
    if sigma:
        blur_first = steps.index("blur") < steps.index("down")
        axis = axis @ gaussian(size, sigma * size) if blur_first else gaussian(small, sigma * small) @ axis
    frame = separable(frame, axis, axis)
    for step in steps[2:]:
        if step == "noise":
            frame = frame + sensor_noise(small, augmentation.noise[row], int(augmentation.noise_key[row]))
        elif augmentation.jpeg[row]:
            frame = jpeg(frame, int(augmentation.jpeg[row]))
    return whole(frame)


def whole(frame):
    return np.floor(np.clip(frame, 0, 255) + 0.5)


def sensor_noise(small, spread, key):
    """Sums of four bytes, less their mean, times the spread of each channel and of all three."""
    from hrfr_fast.runtime.philox import NOISE, philox

    words = philox(key, 0, np.arange(small * small), purpose=NOISE).astype("<u4")
    sums = words.view(np.uint8).reshape(small, small, 4, 4).astype(int).sum(axis=3) - 510
    return (sums[..., :3] * int(spread[0]) + sums[..., 3:] * int(spread[1])) / 65536


def jpeg(frame, quality):
    """What libjpeg makes of the picture: the arithmetic of our engines is compared with its files."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(whole(frame).astype(np.uint8)).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file)).astype(np.float64)
