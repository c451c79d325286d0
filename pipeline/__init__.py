"""What happens to one stream: audio bytes in, transcript and translation events out."""
