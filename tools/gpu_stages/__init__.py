"""The stages of tools/gpu_check.py: ``parts.py`` lists them, ``runner.py`` runs them, each other file is one stage."""
