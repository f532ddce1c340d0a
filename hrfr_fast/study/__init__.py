"""The study: every regime over several seeds, judged alike, compared with error bars, in one report."""
