import numpy as np

from hrfr_fast.evaluation.templates import TemplatePool, pool


def test_media_are_pooled_first_then_templates_in_whatever_order_pictures_come():
    rng = np.random.default_rng(0)
    templates = rng.integers(0, 5, 60) * 10 + 3
    media = rng.integers(0, 4, 60) - 7  # numbers that several templates share, as IJB's may
    scores = rng.random(60)
    embeddings = rng.standard_normal((60, 4)).astype(np.float32)
    expected = []
    for template in np.unique(templates):
        parts = [
            (embeddings * scores[:, None])[(templates == template) & (media == medium)].mean(axis=0)
            for medium in np.unique(media[templates == template])
        ]
        total = np.sum(parts, axis=0)
        expected.append(total / np.linalg.norm(total))
    ids, features = pool(embeddings, templates, media, scores)
    assert ids.tolist() == np.unique(templates).tolist() and features.dtype == np.float32
    assert np.allclose(features, expected, atol=1e-6)
    batches = TemplatePool(templates, media, scores)
    for start in (40, 0, 20):
        batches.add(start, embeddings[start : start + 20])
    assert np.allclose(batches.features(), expected, atol=1e-6)


def test_a_template_without_weight_is_zero_and_no_number_is_lost():
    _, features = pool(np.ones((2, 3), np.float32), np.array([1, 2]), np.array([1, 1]), np.array([0.0, 2.0]))
    assert features[0].tolist() == [0, 0, 0] and np.allclose(features[1], 3**-0.5)
