"""An engine that was compiled for a newer processor is found before it ends by SIGILL."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import platform
from pathlib import Path

import pytest

from installer.doctor import code
from installer.doctor.host import Host
from llmsvc.backend import engines
from llmsvc.errors import ConflictError, SettingError
from llmsvc.library import processor, settings


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package llama_cpp that says what it needs; the processor has SSE alone."""
    (tmp_path / "llama_cpp/lib").mkdir(parents=True)
    (tmp_path / "llama_cpp/__init__.py").write_text("raise SystemExit('imported')")
    needs = tmp_path / "llama_cpp" / processor.NEEDS
    needs.write_text("sse4_2 avx2 avx512f\n")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx512\n\nprocessor\t: 1\nflags\t\t: avx2\n")
    monkeypatch.setattr(processor, "CPUINFO", cpuinfo)
    find = importlib.util.find_spec

    def found(name: str) -> importlib.machinery.ModuleSpec | None:
        return (
            importlib.machinery.PathFinder.find_spec(name, [str(tmp_path)])
            if name == "llama_cpp"
            else find(name)
        )

    monkeypatch.setattr(importlib.util, "find_spec", found)
    return needs


def test_what_the_processor_lacks_is_named(engine: Path) -> None:
    assert processor.lacking("llama-cpp-python") == ["avx2", "avx512f"]
    with pytest.raises(
        ConflictError, match=r"lacks avx2, avx512f, which llama_cpp as installed needs"
    ) as error:
        processor.check("llama-cpp-python")
    assert "packaging/install.sh" in str(error.value.hint)
    engine.write_text("sse4_2\n")
    processor.check("llama-cpp-python")


def test_an_engine_that_does_not_tell_is_not_judged(engine: Path) -> None:
    engine.unlink()
    processor.check("llama-cpp-python")
    engine.write_text("avx2")
    processor.CPUINFO.write_text("CPU implementer\t: 0x41\n")
    processor.check("llama-cpp-python")


def test_arm_calls_them_features(engine: Path) -> None:
    engine.write_text("fp asimd sve")
    processor.CPUINFO.write_text("processor\t: 0\nFeatures\t: fp asimd evtstrm\n")
    assert processor.lacking("llama-cpp-python") == ["sve"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of wheels for x86_64")
def test_the_native_engine_needs_avx2(engine: Path) -> None:
    pytest.importorskip("xllamacpp")
    assert "avx2" in processor.lacking("native")


def test_a_model_says_it_in_its_own_words(engine: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.env"
    file.write_text("MODEL=/x/m.gguf\nENGINE=llama-cpp-python\n")
    model = settings.load("m", file)
    with pytest.raises(SettingError, match="ENGINE: this processor lacks avx2") as error:
        engines.load(model, None, None, print, tmp_path)  # type: ignore[arg-type]
    assert error.value.exit_code == 78


def test_doctor_says_it(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = code._processor(Host())
    assert finding.name == "processor" and "avx2" in finding.what
