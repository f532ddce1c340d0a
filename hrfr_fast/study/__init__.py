"""Study: every regime trained over several seeds, scored alike, compared with error bars, in one report."""
