"""`llmsvc alert`: one line that says what happened and where to look, whatever is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from llmsvc import paths
from llmsvc.cli import alert, main
from llmsvc.systemd.rollback import Rollback

LAST = Rollback(1700000000.0, "broken", "is truncated", "good", None)


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "ROLLBACK", tmp_path / "rollback.json")
    monkeypatch.setattr(paths, "GPU_LOST", tmp_path / "gpu-lost")
    return tmp_path


@pytest.mark.parametrize("kind", alert._TEXTS)
@pytest.mark.parametrize("last", [None, LAST, dataclasses.replace(LAST, to=None)])
def test_every_kind_is_one_line_whatever_is_known(
    capsys: pytest.CaptureFixture[str], kind: str, last: Rollback | None
) -> None:
    if last:
        paths.ROLLBACK.write_text(json.dumps(dataclasses.asdict(last)))
    assert main.main(["alert", kind]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "See: " in out


def test_a_rollback_names_both_models_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    paths.ROLLBACK.write_text(json.dumps(dataclasses.asdict(LAST)))
    main.main(["alert", "rollback"])
    out = capsys.readouterr().out
    assert all(word in out for word in ("broken", "is truncated", "good"))


def test_a_lost_gpu_is_told_in_the_drivers_words_and_no_link_is_followed(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    paths.GPU_LOST.write_text("CUDA error:\n out of luck\n")
    main.main(["alert", "gpu-lost"])
    assert "(CUDA error: out of luck)" in capsys.readouterr().out
    paths.GPU_LOST.write_text("\x1b[31mred" + 10000 * "x")
    main.main(["alert", "gpu-lost"])
    out = capsys.readouterr().out
    assert "(?[31mred" in out and len(out) < 600
    paths.GPU_LOST.unlink()
    (run / "secret").write_text("secret")
    paths.GPU_LOST.symlink_to(run / "secret")
    main.main(["alert", "gpu-lost"])
    assert "secret" not in capsys.readouterr().out


def test_an_unknown_kind_is_a_usage_error() -> None:
    assert main.main(["alert", "nosuch"]) == 2
