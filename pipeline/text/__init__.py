"""Token ids to text that is certain, utterances and subtitles."""
