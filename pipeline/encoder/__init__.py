"""Log-mel frames to audio soft tokens: the Universal Speech Model conformer."""
