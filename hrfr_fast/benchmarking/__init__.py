"""``hrfr-fast bench``: engines and the training step on the user's own data and machine, and what limits a run."""
