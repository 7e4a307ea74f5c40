from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("yaml")

from dartblur.backends.scan import Scan
from dartblur.errors import InputError
from dartblur.protection.policy import Protection
from dartblur.records.logs import FORMATS, LEVELS
from dartblur.service.config import SINK_SCHEMES, SOURCE_SCHEMES, load_config
from dartblur.service.problems import ConfigError
from dartblur.service.schema import LogKeys, ServiceKeys, StreamDefaults, StreamKeys, json_schema
from dartblur.session import StreamSettings
from dartblur.stream import open_sink, open_source
from dartblur.stream.options import SinkOptions, SourceOptions

Write = Callable[[str], Path]

DEPLOY = Path(__file__).parents[3] / "deploy"
SDK = DEPLOY.parent / "sdk"


def problems(write: Write, text: str) -> list[str]:
    """All lines, without the name of the file."""
    path = write(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert raised.value.exit_code == 2
    assert str(raised.value) == "\n".join(raised.value.problems)
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in raised.value.problems)
    return [line.removeprefix(f"{path}: ") for line in raised.value.problems]


def of_stream(write: Write, keys: str) -> list[str]:
    """The lines for a stream that is right but for these keys."""
    return problems(write, f"page: http://127.0.0.1:0\nstreams: {{door: {{source: 0, sinks: page, {keys}}}}}")


def test_a_config_becomes_settings(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "sesame")
    token = tmp_path / "token"
    token.write_text("a-long-token\n")
    settings = load_config(
        write(f"""
            page: http://127.0.0.1:8080
            metrics: 127.0.0.1:9090
            token_file: {token}
            log: {{format: json, level: debug}}
            defaults: {{sinks: [page], hold: 2, method: gaussian, blur_zones: ["0,0,10,10"], rtsp_transport: udp}}
            streams:
              door:
                source: rtsp://me:${{CAMERA_PASSWORD}}@cam/1
                sinks: [page, out-%Y.mp4]
                hold: 3
                lookahead: 4
                codec: h265
                audit: door.jsonl
              back: {{source: 0, hold: null, blur_zones: []}}
        """)
    )
    door, back = settings.streams["door"], settings.streams["back"]
    assert door.source == "rtsp://me:sesame@cam/1"
    assert (door.name, door.sinks, door.hold, door.lookahead) == ("door", ("page", "out-%Y.mp4"), 3, 4)
    assert (door.method, door.blur_zones, door.audit) == ("gaussian", ("0,0,10,10",), Path("door.jsonl"))
    assert (door.source_options.rtsp_transport, door.sink_options.codec) == ("udp", "h265")
    assert (back.source, back.sinks, back.hold, back.blur_zones) == ("0", ("page",), None, ())
    assert (settings.page, settings.metrics) == ("http://127.0.0.1:8080", "127.0.0.1:9090")
    assert settings.token == door.sink_options.token == "a-long-token"
    assert "a-long-token" not in repr(settings)
    assert (settings.log_format, settings.log_level) == ("json", "debug")


def test_what_is_not_said_is_as_without_a_config(write: Write) -> None:
    settings = load_config(write("streams: {a: {source: in.mp4, sinks: out.mkv, overwrite: true}}"))
    assert settings.streams["a"] == StreamSettings(
        "in.mp4", ("out.mkv",), name="a", sink_options=SinkOptions(overwrite=True)
    )


def test_the_keys_are_the_attributes_of_the_settings() -> None:
    attributes = {each.name for kind in (StreamSettings, SourceOptions, SinkOptions) for each in fields(kind)}
    # The name is the key of the stream, and a token doesn't belong in the file.
    assert set(StreamKeys.model_fields) == attributes - {"name", "token", "source_options", "sink_options"}
    assert set(StreamKeys.model_fields) - set(StreamDefaults.model_fields) == {"source"}


def test_the_defaults_are_those_of_the_settings() -> None:
    of_settings = {
        each.name: each.default for kind in (StreamSettings, SourceOptions, SinkOptions) for each in fields(kind)
    }
    for name, key in StreamDefaults.model_fields.items():
        if name != "sinks":
            default = tuple(key.default) if isinstance(key.default, list) else key.default
            assert default == of_settings[name], name


@pytest.mark.parametrize("name", ["hold", "lookahead", "timeout", "self_check"])
def test_the_bounds_are_those_of_the_protection(name: str, write: Write) -> None:
    [bounds] = [each for each in json_schema()["$defs"]["StreamDefaults"]["properties"][name]["anyOf"] if len(each) > 1]
    highest = bounds["maximum"]
    lowest = bounds.get("minimum", bounds.get("exclusiveMinimum"))
    Protection(**{name: highest})
    for beyond in (highest + 1, lowest - 1):
        with pytest.raises(InputError):
            Protection(**{name: beyond})
        assert of_stream(write, f"{name}: {beyond}")
    if "exclusiveMinimum" in bounds:
        with pytest.raises(InputError):
            Protection(**{name: lowest})
        assert of_stream(write, f"{name}: {lowest}")


def test_formats_and_levels_are_those_of_the_log() -> None:
    for name, choices in (("format", FORMATS), ("level", LEVELS)):
        for choice in choices:
            LogKeys.model_validate({name: choice})
    assert json_schema()["$defs"]["LogKeys"]["properties"]["level"]["enum"] == list(LEVELS)


@pytest.mark.parametrize("scheme", SOURCE_SCHEMES)
def test_the_schemes_of_sources_are_known(scheme: str) -> None:
    with pytest.raises(InputError) as raised:
        open_source(f"{scheme}://", SourceOptions(stall=0.1)).close()
    assert "another scheme" not in str(raised.value)


@pytest.mark.parametrize("scheme", SINK_SCHEMES)
def test_the_schemes_of_sinks_are_known(scheme: str, clip: Path) -> None:
    with open_source(clip) as source, pytest.raises(InputError) as raised:
        open_sink(f"{scheme}://", source).discard()
    assert "another scheme" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("hold: long", "streams.door.hold: expected a number, got 'long'"),
        ("hold: true", "streams.door.hold: expected a number, got true"),
        ("hold: -1", "streams.door.hold: expected 0 or more, got -1"),
        ("hold: 61", "streams.door.hold: expected at most 60, got 61"),
        ("hold: .nan", "streams.door.hold: expected a finite number, got nan"),
        ("lookahead: 2.5", "streams.door.lookahead: expected a whole number, got 2.5"),
        ("lookahead: [1]", "streams.door.lookahead: expected a whole number, got a list"),
        ("lookahead: {}", "streams.door.lookahead: expected a whole number, got keys and their values, empty"),
        ("timeout: 0", "streams.door.timeout: expected more than 0, got 0"),
        ("threshold: 1", "streams.door.threshold: expected less than 1, got 1"),
        ("box_scale: 0.5", "streams.door.box_scale: expected 1 or more, got 0.5"),
        ("on_fault: off", "streams.door.on_fault: expected solid, hold, drop or stop, got false"),
        ("method: mosaic", "streams.door.method: expected dart, gaussian, pixelate or solid, got 'mosaic'"),
        ("realtime: 'yes'", "streams.door.realtime: expected true or false, got 'yes'"),
        ("realtime: 1", "streams.door.realtime: expected true or false, got 1"),
        ("reconnect:", "streams.door.reconnect: expected true or false, got nothing"),
        ("quality: 99", "streams.door.quality: expected at most 51, got 99"),
        ("codec: vp9", "streams.door.codec: expected h264 or h265, got 'vp9'"),
        ("rtsp_transport: tls", "streams.door.rtsp_transport: expected tcp or udp, got 'tls'"),
        ("segment: 0.5", "streams.door.segment: expected 1 or more, got 0.5"),
        ("loop: true", "streams.door.loop: expected realtime with it, got loop alone: add realtime: true"),
        ("audit: [x]", "streams.door.audit: expected the name of a file, got a list"),
        ("encoder: ''", "streams.door.encoder: expected some text, got ''"),
        ("hodl: 3", "streams.door.hodl: unknown key: did you mean hold?"),
        ("token: secret", "streams.door.token: unknown key: "),
        ("blur_zones: 7", "streams.door.blur_zones: expected a list, got 7"),
        ("blur_zones: ['1,2,3']", "streams.door.blur_zones.0: zone '1,2,3': expected x0,y0,x1,y1 in pixels or percent"),
        ("clear_zones: ['0,0,9,9', '9,0,5,9']", "streams.door.clear_zones.1: zone '9,0,5,9': expected x0 < x1"),
    ],
)
def test_a_bad_key_is_named(keys: str, expected: str, write: Write) -> None:
    [line] = of_stream(write, keys)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "streams: expected a value, the key is missing: add it"),
        ("streams:", "streams: expected keys and their values, got nothing"),
        ("streams: {}", "streams: expected at least one stream, got none"),
        ("streams: [door]", "streams: expected keys and their values, got a list"),
        ("7", "the file: expected keys and their values, got 7"),
        ("streams: {door: 0}", "streams.door: expected keys and their values, got 0"),
        ("streams: {door: {sinks: a.jpg}}", "streams.door.source: expected a value, the key is missing: add it"),
        ("streams: {door: {source: 0}}", "streams.door.sinks: expected at least one sink, got none"),
        ("streams: {door: {source: 0, sinks: []}}", "streams.door.sinks: expected at least one sink, got none"),
        ("streams: {door: {source: 0, sinks: [1]}}", "streams.door.sinks.0: expected text, got 1"),
        ("streams: {door: {source: 0, sinks: page}}", "streams.door.sinks.0: expected a page, the service has none"),
        ("streams: {door: {source: 0, sinks: a.mp4}}", "streams.door.sinks.0: expected a name for each start"),
        ("streams: {door: {source: 0, sinks: 'ftp://x'}}", "streams.door.sinks.0: expected page, a file, a folder"),
        ("streams: {door: {source: 'rstp://x', sinks: 'd/'}}", "streams.door.source: expected a file or v4l2:"),
        ("streams: {door: {source: {a: 1}, sinks: 'd/'}}", "streams.door.source: expected text, got keys and"),
        ("streams: {door: {source: true, sinks: 'd/'}}", "streams.door.source: expected text, got true"),
        ("streams: {door: {source: 0, sinks: [d, d]}}", "streams.door: expected outputs of its own, 'd' is also one"),
        ("streams: {a/b: {source: 0, sinks: 'd/'}}", "streams.a/b: expected a name of letters, digits and ._-"),
        ("streams: {1: {source: 0, sinks: 'd/'}}", "streams.1: expected a name of letters"),
        ("streams: {a: {source: 0, sinks: 'd/'}}\npages: x", "pages: unknown key: did you mean page?"),
        ("streams: {a: {source: 0, sinks: 'd/'}}\nlog: {level: loud}", "log.level: expected debug, info,"),
        ("streams: {a: {source: 0, sinks: 'd/'}}\nlog: {levle: info}", "log.levle: unknown key: did you mean level?"),
        ("streams: {a: {source: 0, sinks: 'd/'}}\ndefaults: {hold: x}", "defaults.hold: expected a number, got 'x'"),
        ("streams: {a: {source: 0, sinks: 'd/'}}\ndefaults: {source: 0}", "defaults.source: unknown key: "),
        ("streams: {a: {source: 0, sinks: 'd/'}}\nbackend: gpu", "backend: expected auto, cpu, tensorrt or"),
        ("streams: {a: {source: 0, sinks: 'd/'}}\nbackend: tensorrt", "backend tensorrt: expected an engine, got none"),
        ("streams: {a: {source: 0, sinks: 'd/'}}\ntoken_file: no", "token_file: expected the name of a file, got "),
        ("streams: {a: {source: 0, sinks: 'd/'}}\ntoken_file: nowhere", "token_file: nowhere: can't be read: No such"),
    ],
)
def test_a_bad_file_is_named(text: str, expected: str, write: Write) -> None:
    [line] = problems(write, text)
    assert line.startswith(expected)


def test_two_streams_may_not_write_the_same(write: Write) -> None:
    text = "streams: {a: {source: 0, sinks: d, audit: x}, b: {source: 1, sinks: [d, e], audit: x}}"
    assert problems(write, text) == [
        "streams.b: expected outputs of its own, 'd' is also one of streams.a",
        "streams.b: expected outputs of its own, 'x' is also one of streams.a",
    ]


def test_all_problems_are_told_at_once(write: Write) -> None:
    lines = problems(write, "streams: {a: {source: 0, hold: x, quality: 99}, b: {}}\nlog: {format: xml}\nnope: 1")
    assert [line.split(":")[0] for line in lines] == [
        "streams.a.hold",
        "streams.a.quality",
        "streams.b.source",
        "log.format",
        "nope",
    ]


def test_environment_variables(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAM", "sesame")
    monkeypatch.delenv("GONE", raising=False)
    settings = load_config(write("streams: {a: {source: 'x${CAM}$${CAM}$CAM', sinks: d}}"))
    assert settings.streams["a"].source == "xsesame${CAM}$CAM"
    assert problems(write, "streams: {a: {source: '${GONE}', sinks: ['${0X}']}}") == [
        "streams.a.source: expected the environment variable GONE, it isn't set: set it",
        "streams.a.sinks.0: expected the name of an environment variable in ${...}, got '0X'",
    ]


def test_messages_hold_no_passwords(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAM", "sesame")
    text = (
        "streams: {a: {source: 'rstp://u:${CAM}@h/', sinks: ['ftp://u:hunter2@h/'], audit: 'http://u:hunter2@h/'}, "
        "b: {source: 0, sinks: 'http://u:hunter2@h/'}, c: {source: 0, sinks: 'http://u:hunter2@h/'}}"
    )
    lines = [
        *problems(write, text),
        *problems(write, "streams: {a: {source: 0, sinks: d, hold: '${CAM}', quality: 'http://u:hunter2@h/'}}"),
        *problems(write, "streams: {a: {source: 0, sinks: d, blur_zones: ['rtsp://u:hunter2@h/']}}"),
    ]
    assert len(lines) == 6
    assert not any("sesame" in line or "hunter2" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("streams:\n  a: {source: 0\n  b: 1", ":3:4", "expected ',' or '}'"),
        ("streams:\n\ta: 1", ":2:1", "found character '\\t' that cannot start any token"),
        ("streams:\n  a: {hold: 1}\n  a: {hold: 2}", ":3:3", "a: expected each key once, got it twice"),
        ("log: {level: info, level: debug}", ":1:20", "level: expected each key once, got it twice"),
        ("a: *nobody", ":1:4", "found undefined alias"),
        ("a: !!python/object:os.system x", ":1:4", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", ":2:1", "but found another document"),
    ],
)
def test_broken_yaml_is_told_with_its_line(text: str, place: str, problem: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(InputError) as raised:
        load_config(path)
    message = str(raised.value)
    assert message.startswith(f"{path}{place}: ")
    assert problem in message
    assert "\n" not in message


def test_anchors_and_merges_of_yaml_work(write: Write) -> None:
    text = "streams:\n  a: &base {source: 0, sinks: d, hold: 2}\n  b: {<<: *base, source: 1, sinks: e}"
    settings = load_config(write(text))
    assert (settings.streams["b"].source, settings.streams["b"].hold) == ("1", 2)


def test_a_file_that_is_none(write: Write, tmp_path: Path) -> None:
    path = write("")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected YAML as text in UTF-8"):
        load_config(path)
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        load_config(tmp_path)
    with pytest.raises(InputError, match="can't be read: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_token_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    text = f"token_file: {tmp_path / 'token'}\nstreams: {{a: {{source: 0, sinks: d}}}}"
    assert problems(write, text) == [f"token_file: {tmp_path / 'token'}: expected a token, the file is empty"]


def test_the_example_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "sesame")
    settings = load_config(DEPLOY / "config.example.yaml")
    assert len(settings.streams) == 2
    for stream in settings.streams.values():
        assert stream.zones is not None


def test_the_schema_describes_all_keys() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert set(schema["properties"]) == set(ServiceKeys.model_fields)
    assert schema["additionalProperties"] is False

    def described(keys: dict[str, Any]) -> bool:
        return all("description" in key for key in keys.values())

    assert described(schema["properties"])
    assert described(schema["$defs"]["StreamKeys"]["properties"])


def test_the_schema_takes_the_example() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    yaml = pytest.importorskip("yaml")
    jsonschema.validate(yaml.safe_load((DEPLOY / "config.example.yaml").read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"streams": {"a": {"source": 0, "hodl": 1}}}, schema)


@pytest.mark.parametrize(("absent", "named"), [("pydantic", "pydantic"), ("yaml", "pyyaml")])
def test_a_library_that_is_missing_is_named(absent: str, named: str, write: Write) -> None:
    path = write("streams: {a: {source: 0, sinks: d}}")
    program = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from dartblur.errors import InputError\n"
        "try:\n"
        "    from dartblur.service.config import load_config\n"
        "    from pathlib import Path\n"
        f"    load_config(Path({str(path)!r}))\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(SDK)})
    assert done.stdout == f"serve: needs {named}: pip install 'dartblur-edge[live]'\n"


def test_the_model_and_how_closely_it_looks(write: Write) -> None:
    streams = "streams: {a: {source: 0, sinks: d}}\n"
    choice = load_config(write(f"{streams}model: base\ndetect_size: auto\ndetect_budget: 0.05\ntiles: 3x2")).choice
    assert (str(choice.model), choice.scan) == ("base", Scan("auto", (3, 2), 0.05))
    assert load_config(write(f"{streams}detect_size: 960")).choice.scan == Scan(960)
    assert load_config(write(streams)).choice.scan == Scan()
    assert problems(write, f"{streams}tiles: many") == [
        "tiles: expected 'auto' or columns x rows such as 3x2, got 'many'"
    ]
