"""Where captions are pushed to: meetings, live videos, mixers, and whoever listens."""
