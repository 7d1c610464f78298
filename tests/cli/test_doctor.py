"""`k25 doctor`: what it finds is what is there."""

import json
import subprocess
import sys

import pytest

from k25.cli import doctor


def _findings(capsys):
    doctor.main(json_=True)
    return {each["topic"]: each for each in json.loads(capsys.readouterr().out)["findings"]}


def test_every_finding_that_is_not_there_names_a_remedy(capsys):
    findings = _findings(capsys)
    assert {"machine", "k25[serve]", "sandbox for programs", "browser for agents"} <= findings.keys()
    assert all(each["remedy"] for each in findings.values() if each["state"] == "no")


def test_an_extra_with_a_missing_package_is_told_apart_from_one_that_is_whole(monkeypatch, capsys):
    installed = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: _absent(name) if name == "fastapi" else installed(name))
    findings = _findings(capsys)
    assert findings["k25[serve]"]["state"] == "no"
    assert "missing: fastapi" in findings["k25[serve]"]["found"]
    assert findings["k25[serve]"]["remedy"] == "pip install 'k25[serve]'"
    assert findings["k25[model]"]["state"] == "yes"


def test_every_extra_of_the_distribution_is_looked_at():
    offered = {match["extra"] for line in doctor.requires("k25") or () if (match := doctor._REQUIREMENT.match(line))}
    assert offered - {"all", "dev"} == doctor.EXTRAS.keys()


def test_extras_include_those_that_they_are_made_of(monkeypatch):
    monkeypatch.setattr(doctor, "version", _absent)
    assert {"numpy", "av", "torch", "fastapi"} <= set(doctor.missing_packages("serve"))


def test_a_machine_without_torch_can_be_examined():
    code = "import sys; sys.modules['torch'] = None; from k25.cli.doctor import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "k25[model]" in done.stdout


def _absent(name):
    raise doctor.PackageNotFoundError(name)


@pytest.mark.parametrize("line", ["k25[media,model]; extra == 'serve'", 'torch<3,>=2.10; extra == "model"'])
def test_a_line_of_the_metadata_is_read(line):
    assert doctor._REQUIREMENT.match(line)
