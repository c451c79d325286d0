"""Client bytes to 16 kHz float32 samples to log-mel frames."""
