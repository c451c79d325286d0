"""Audio soft tokens and a prompt to token ids: the Gemma 3n decoder."""
