"""Evaluation: metrics, protocols, and the statistics that compare models.

Metrics know nothing of files: ``verification.py`` takes scores and labels of pairs, ``identification.py`` embeddings
and labels. A protocol prepares what they take: ``evaluate.py`` from packed pair sets, ``gallery.py`` from a packed
split. Another protocol is another such file. ``compare.py`` compares regimes on their decisions.
"""
