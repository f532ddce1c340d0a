"""A study of remedies: tuned and chosen on development pairs alone, then judged once on the test pairs."""
