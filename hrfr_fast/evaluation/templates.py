"""Templates: several pictures of a person as one embedding, the pictures of one medium (a video) counting once.

A medium is the mean of its pictures within the template, the template the sum of its media, brought to norm 1; a
picture may be weighted by the score of the face detector (Whitelam et al., "IARPA Janus Benchmark-B", CVPRW
2017, and the public evaluation of InsightFace). The mean of a medium divides by its number of pictures, so a template
is one weighted sum of its pictures, and pictures can be added as they are embedded, in any order.
"""

import numpy as np
from numpy.typing import NDArray


class TemplatePool:
    """The templates of N pictures, made as the embeddings of the pictures arrive.

    Args:
        templates, media: int64 [N], the template and the medium of each picture, any integers.
        scores: float [N], the weight of each picture; None: all alike.
    """

    def __init__(
        self, templates: NDArray[np.int64], media: NDArray[np.int64], scores: NDArray[np.float64] | None = None
    ) -> None:
        self.ids, self._row = np.unique(templates, return_inverse=True)
        _, medium = np.unique(media, return_inverse=True)
        _, group, size = np.unique(
            self._row * (medium.max() + 1) + medium, return_inverse=True, return_counts=True
        )  # fmt: skip
        self._weight = (np.ones(len(templates)) if scores is None else np.asarray(scores, np.float64)) / size[group]
        self._sums: NDArray[np.float32] | None = None

    def add(self, start: int, embeddings: NDArray[np.float32]) -> None:
        """Add the embeddings [n, D] of pictures start .. start + n - 1."""
        part = slice(start, start + len(embeddings))
        if self._sums is None:
            self._sums = np.zeros((len(self.ids), embeddings.shape[1]), np.float32)
        np.add.at(self._sums, self._row[part], embeddings * self._weight[part, None].astype(np.float32))

    def features(self) -> NDArray[np.float32]:
        """The templates, float32 [T, D] of norm 1, in the order of ``ids``; zero where every weight was zero.

        Takes no further pictures afterwards: the sums themselves become the templates.
        """
        assert self._sums is not None, "no embeddings were added"
        features, self._sums = self._sums, None
        norms = np.sqrt(np.einsum("td,td->t", features, features))[:, None]
        features /= np.where(norms > 0, norms, 1)
        return features


def pool(
    embeddings: NDArray[np.float32],
    templates: NDArray[np.int64],
    media: NDArray[np.int64],
    scores: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The templates of N embedded pictures: their numbers, rising, int64 [T], and unit rows, float32 [T, D]."""
    templates_pool = TemplatePool(templates, media, scores)
    templates_pool.add(0, embeddings)
    return templates_pool.ids, templates_pool.features()
