"""The context and the layers on the GPU that a new model gets, and when one is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llmsvc.config import Config
from llmsvc.library import catalogue, fit, gguf, installing, memory, settings, sizing, store
from llmsvc.library.memory import Holder, Room
from tests.hub import Hub, Repository
from tests.unit.library import ggufs
from tests.unit.library.test_fit import META as SEVEN_B

GIGA = 10**9


@pytest.fixture
def header(tmp_path: Path) -> gguf.Header:
    """A model of 7 billion weights in 4 GB, trained for 128k tokens: 128 KiB of context a token."""
    file = tmp_path / "m.gguf"
    file.write_bytes(ggufs.gguf({**SEVEN_B, "llama.context_length": 131072}))
    return dataclasses.replace(gguf.read_header(file), size=4 * GIGA)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "has_gpu", lambda engine: True)


def room(free: float, gpu: float | None = None, **more: object) -> Room:
    total = max(free, 64)
    return Room(
        int(free * GIGA),
        None if gpu is None else int(gpu * GIGA),
        total=int(total * GIGA),
        gpu_total=None if gpu is None else int(gpu * GIGA),
        **more,  # type: ignore[arg-type]
    )


def test_with_much_memory_it_is_32768_tokens_and_no_more(header: gguf.Header) -> None:
    chosen = sizing.choose("m", header, room(64))
    assert (chosen.n_ctx, chosen.n_gpu_layers, chosen.fits, chosen.notes) == (32768, None, True, ())


def test_a_model_that_was_trained_for_less_gets_that(header: gguf.Header) -> None:
    chosen = sizing.choose("m", dataclasses.replace(header, context_length=8192), room(64))
    assert chosen.n_ctx == 8192
    assert chosen.notes == (
        "coding agents will fail: they need a context of 16384 tokens, and it was trained for no more",
    )


@pytest.mark.parametrize("free", [5.5, 6, 8, 10])
def test_it_is_the_largest_that_fits_with_some_room_to_spare(header: gguf.Header, free: float) -> None:
    chosen = sizing.choose("m", header, room(free))
    assert 2048 <= chosen.n_ctx < 32768
    assert chosen.n_ctx % 1024 == 0
    needed = fit.estimate(sizing.wanted("m", chosen.n_ctx), header).needed
    assert needed == chosen.needed <= 0.9 * free * GIGA
    assert fit.estimate(sizing.wanted("m", chosen.n_ctx + 1024), header).needed > 0.9 * free * GIGA
    assert f"its context is {chosen.n_ctx} tokens" in chosen.notes[0]
    assert any("coding agents" in note for note in chosen.notes) is (chosen.n_ctx < 16384)


def test_one_that_just_fits_gets_the_smallest_context(header: gguf.Header) -> None:
    chosen = sizing.choose("m", header, room(5))
    assert (chosen.n_ctx, chosen.fits) == (2048, True)


def test_not_now_is_not_never(header: gguf.Header) -> None:
    chosen = sizing.choose("m", header, room(2, holders=(Holder("firefox", 71, "bob", 60 * GIGA),)))
    assert (chosen.n_ctx, chosen.fits) == (2048, False)
    assert "it does not fit now: it needs 4.7 GB and 2.0 GB is free" in chosen.notes[0]
    assert "much is held by firefox (pid 71, bob) 60.0 GB" in chosen.notes[0]


def test_what_can_never_fit_is_refused_with_the_numbers(header: gguf.Header) -> None:
    small = Room(2 * GIGA, total=4 * GIGA)
    with pytest.raises(fit.FitError) as refused:
        sizing.choose("m", header, small)
    assert (
        "m can never fit: with only 2048 tokens of context it needs 4.7 GB of memory" in refused.value.message
    )
    assert "4.0 GB is all that this machine has" in refused.value.message
    assert "--force" in str(refused.value.hint)
    assert refused.value.details["needed"] > refused.value.details["total"] == 4 * GIGA
    assert sizing.choose("m", header, small, force=True).n_ctx == 2048


def test_the_quantization_that_would_fit_is_named(header: gguf.Header) -> None:
    entry = catalogue.lookup("mistral")
    big = dataclasses.replace(header, size=entry.files["Q8_0"].size)
    with pytest.raises(fit.FitError) as refused:
        sizing.choose("mistral-q8_0", big, Room(5 * GIGA, total=5 * GIGA), entry=entry)
    assert "mistral:q3_k_m would fit" in str(refused.value.hint)
    assert refused.value.details["quantization"] == "mistral:q3_k_m"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("vram", "n_ctx", "layers"),
    [(24, 32768, None), (10, 32768, None), (7.5, 8192, None), (6, 8192, 24), (1, 8192, 0)],
)
def test_a_gpu_gets_all_layers_or_as_many_as_fit(
    header: gguf.Header, vram: float, n_ctx: int, layers: int | None
) -> None:
    chosen = sizing.choose("m", header, room(64, vram))
    assert chosen.fits
    assert fit.fits(
        fit.estimate(sizing.wanted("m", chosen.n_ctx, chosen.n_gpu_layers), header), room(64, vram)
    )
    if layers is None:
        assert chosen.n_gpu_layers is None
        assert chosen.n_ctx >= 8192
    else:
        assert chosen.n_ctx == n_ctx
        assert chosen.n_gpu_layers is not None
        assert chosen.n_gpu_layers == pytest.approx(layers, abs=6)
        assert f"{chosen.n_gpu_layers} of 33 layers fit onto the GPU" in chosen.notes


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_nobody_can_ask_gets_all_layers(header: gguf.Header) -> None:
    assert sizing.choose("m", header, room(64, None)).n_gpu_layers is None


def test_every_model_of_the_catalogue_fits_somewhere_and_some_nowhere_here() -> None:
    fits = {
        free: {
            entry.name
            for entry in catalogue.load().values()
            if sizing.largest_quantization(entry, room(free))
        }
        for free in (1, 8, 24, 128)
    }
    assert fits[128] == set(catalogue.load())
    assert {"smollm2", "gemma3"} <= fits[1] < fits[8] < fits[24] < fits[128]
    assert "llama3.3-70b" not in fits[24]
    assert "mistral" in fits[8]


# ---------------------------------------------------------------------------------------------------------
# Through an installation


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with 4 GB of memory."""
    monkeypatch.setattr(memory, "room", lambda name=None: Room(2 * GIGA, total=4 * GIGA))


def big(**meta: ggufs.Value) -> bytes:
    """A model that needs more, for the sake of its context."""
    shape = {
        "llama.attention.head_count_kv": 4096,
        "llama.block_count": 512,
        "llama.attention.key_length": 4096,
    }
    return ggufs.gguf({**SEVEN_B, **shape, **meta}, data=bytes(8 << 20))


@pytest.mark.usefixtures("machine")
def test_one_that_never_fits_is_not_copied(conf: Config, host: Path, models: Path) -> None:
    file = host / "big.gguf"
    file.write_bytes(big())
    with pytest.raises(fit.FitError):
        installing.add(str(file), config=conf)
    assert [path for path in models.rglob("*") if not path.name.startswith(".")] == []
    installed = installing.add(str(file), config=conf, options=installing.Options(force=True))
    assert settings.load("big")["N_CTX"] == 2048
    assert "it does not fit now" in installed.notes[0]


@pytest.mark.usefixtures("machine")
def test_a_download_of_one_ends_as_soon_as_its_header_is_there(hub: Hub, conf: Config, models: Path) -> None:
    contents = big() + bytes(120 << 20)
    hub.repositories["o/r"] = Repository({"big.gguf": contents})
    with pytest.raises(fit.FitError, match="big can never fit"):
        installing.add("o/r/big.gguf", config=conf)
    assert hub.sent < len(contents) // 2
    assert [path for path in models.rglob("*") if not path.name.startswith(".")] == []


@pytest.mark.usefixtures("machine")
def test_one_that_is_no_model_ends_as_early(hub: Hub, conf: Config) -> None:
    contents = ggufs.gguf({**SEVEN_B, "general.type": "mmproj"}, data=bytes(100 << 20))
    hub.repositories["o/r"] = Repository({"mm.gguf": contents})
    with pytest.raises(Exception, match=r"hf:o/r/mm\.gguf is no model of its own but mmproj data"):
        installing.add("o/r/mm.gguf", config=conf)
    assert hub.sent < len(contents) // 2


def test_what_was_chosen_is_written_and_explained(conf: Config, host: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    file = host / "m.gguf"
    file.write_bytes(ggufs.gguf(SEVEN_B))
    monkeypatch.setattr(memory, "room", lambda name=None: Room(2 * GIGA, total=4 * GIGA))
    installing.add(str(file), config=conf)
    n_ctx = settings.load("m")["N_CTX"]
    assert 2048 < n_ctx < 16384
    text = " ".join(store.env_file("m").read_text().replace("# ", "").split())
    assert "trained for 32768 tokens" in text
    assert f"With {n_ctx} it needs" in text
    assert "More takes more memory. Coding agents need 16384." in text


@pytest.mark.usefixtures("gpu")
def test_layers_that_do_not_fit_onto_the_gpu_are_written(conf: Config, host: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    file = host / "m.gguf"
    file.write_bytes(ggufs.gguf(SEVEN_B))
    here = Room(64 * GIGA, int(1.2 * GIGA), total=64 * GIGA, gpu_total=2 * GIGA)
    monkeypatch.setattr(memory, "room", lambda name=None: here)
    installing.add(str(file), config=conf)
    loaded = settings.load("m")
    assert 0 <= loaded["N_GPU_LAYERS"] < 33
    assert loaded.lines["N_GPU_LAYERS"]


def test_a_model_for_embeddings_is_set_up_as_one(conf: Config, host: Path) -> None:
    file = host / "m.gguf"
    file.write_bytes(ggufs.gguf({**SEVEN_B, "llama.pooling_type": 1}))
    installed = installing.add(str(file), config=conf)
    assert settings.load("m")["N_CTX"] == 4096, "its batch is as long"
    assert settings.load("m")["EMBEDDING"] is True
    assert installed.notes == (), "no word about coding agents"


def test_a_reranker_is_set_up_as_one(conf: Config, host: Path) -> None:
    file = host / "m.gguf"
    head = ("cls.output.weight", (256,), 0)
    file.write_bytes(ggufs.gguf({**SEVEN_B, "llama.pooling_type": 4}, [*ggufs.TENSORS, head]))
    installed = installing.add(str(file), config=conf)
    loaded = settings.load("m")
    assert (loaded["ENGINE"], loaded["RERANK"], loaded["EMBEDDING"]) == ("native", True, False)
    assert (loaded["N_CTX"], loaded.slots) == (4096, 1)
    (note,) = installed.notes
    assert "ENGINE=native" in note
    assert "/v1/rerank" in note
    assert store.model("m").problem is None
