"""Several streams in one process, as ``dartblur serve config.yaml`` runs them.

::

    config.yaml --config--> ServiceSettings --Supervisor--> StreamRunner, StreamRunner, ...

`yaml_file` reads the file, `schema` says what may stand in it, `problems` names what is wrong, and `config` makes
settings of it. `supervisor` starts, exchanges and stops the streams; `runner` has one of them in a thread of its own,
and begins it anew when it fails; a `SharedBackend` lets them share a model. `serving` listens to signals, `systemd`
tells the service manager, and `health` asks a service from outside.
"""
