"""What sources and sinks share: colours, orientation, the forms of video and picture files."""
