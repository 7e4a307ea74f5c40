"""Where redacted frames go: files, recordings, servers, windows, the web page."""
