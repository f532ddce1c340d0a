"""Scripts for those who work on hrfr-fast; its users need none of them."""
