"""What the distribution must have."""

import pytest

from installer import packages


@pytest.mark.parametrize("engine", [True, False])
def test_the_compiled_engine_needs_openmp_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch, engine: bool
) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: object() if engine else None)
    assert ("libgomp1" in packages.wanted(database=True)) is engine
    assert ("libgomp1" in packages.wanted(database=False)) is engine


def test_a_package_is_missing_where_what_is_needed_of_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(packages, "PATH", "/nowhere")
    assert all(packages.missing(package) for package in ("libgomp1", "postgresql", "polkitd"))
    monkeypatch.setattr(packages.ctypes.util, "find_library", lambda name: f"lib{name}.so.1")
    assert not packages.missing("libgomp1")
