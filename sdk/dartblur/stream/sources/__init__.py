"""Where clear frames come from: files, cameras, networks, pipelines, programs."""
