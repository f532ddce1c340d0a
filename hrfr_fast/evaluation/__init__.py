"""Evaluation: metrics, protocols, and the statistics that compare models.

Metrics know nothing of files: ``verification.py`` takes scores and labels of pairs, ``pair_rates.py`` embeddings and
millions of pairs of them, ``identification.py`` and ``open_set.py`` embeddings and labels of galleries and probes. A
protocol prepares what they take: ``evaluate.py`` from packed pair sets, ``gallery.py`` from a packed split,
``protocols/`` from public test sets. ``compare.py`` compares regimes on their decisions.
"""
