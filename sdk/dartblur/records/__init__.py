"""What is written down of a stream, without pixels: audit log, metrics, log lines; and rendering from an audit log."""
