"""The stages of tools/gpu_check.py: ``parts.py`` lists them, ``runner.py`` runs them, the others are they."""
