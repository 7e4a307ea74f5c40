"""What lies in deploy/: parsed here, and verified by systemd where it is; images aren't built in tests."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[3] / "deploy"
UNIT = DEPLOY / "dartblur.service"
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.jetson"]


class Several(dict[str, str]):
    """Keeps all values of a key that stands there more than once."""

    def __setitem__(self, key: str, value: str) -> None:
        there = self.get(key)
        super().__setitem__(key, there + value if isinstance(there, list) and isinstance(value, list) else value)


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, dict_type=Several)  # type: ignore[type-var]
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_restarts_and_watches(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert 5 <= int(service["WatchdogSec"]) <= 60
    assert service["ExecStart"].split()[1:] == ["serve", "/etc/dartblur/config.yaml"]
    assert "-HUP" in service["ExecReload"]
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_the_unit_is_hardened(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert service["DynamicUser"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""
    assert service["DevicePolicy"] == "closed"
    assert "char-video4linux rw" in service["DeviceAllow"].split("\n")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze isn't installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # The program needn't be installed here.
    text = re.sub("^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    drop_in = tmp_path / f"{UNIT.name}.d"
    for with_jetson in (False, True):
        if with_jetson:
            drop_in.mkdir()
            shutil.copy(DEPLOY / "jetson.conf", drop_in)
        done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60)
        complaints = [line for line in done.stderr.splitlines() if UNIT.name in line or "jetson.conf" in line]
        assert complaints == []
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze isn't installed")
def test_the_exposure_stays_low(tmp_path: Path) -> None:
    text = re.sub("^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    (tmp_path / UNIT.name).write_text(text)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", tmp_path / UNIT.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd can't judge a unit that isn't installed")
    assert done.returncode == 0, done.stdout[-300:]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_not_root_and_look_after_themselves(path: Path) -> None:
    text = path.read_text()
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER (?!root|0\b)\S+", last, re.MULTILINE)
    assert '"serve", "--health"' in last
    assert re.search(r'^ENTRYPOINT \["dartblur"\]$', last, re.MULTILINE)
    assert "STOPSIGNAL SIGTERM" in last
    assert ":latest" not in text
    if path.suffix == ".jetson":
        assert "NOT BUILT" in text.split("\nARG")[0]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_copy_what_is_there(path: Path) -> None:
    root, text = DEPLOY.parent, path.read_text()
    sources = [name for line in re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    ignored = (DEPLOY / f"{path.name}.dockerignore").read_text().split()
    assert sources
    for name in sources:
        assert (root / name).exists(), name
        assert f"!{name}" in ignored


def test_compose() -> None:
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service = compose["services"]["dartblur"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DOCKERFILES[0].resolve()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service
    variables = re.findall(r"\$\{(\w+)(:-[^}]*)?\}", (DEPLOY / "config.example.yaml").read_text())
    assert {name for name, _ in variables} - {"NAME"} <= set(service["environment"])
