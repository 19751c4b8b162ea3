"""What a key looks like, and which errors in it show without a look-up."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc.accounts import keys
from llmsvc.errors import SettingError

BASE62 = string.ascii_letters + string.digits
# a key once given out must stay well formed in every later version
OLD_KEY = "sk-llm-" + "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg" + "2RLVoH"


def test_a_new_key_is_well_formed_as_text_and_as_bytes():
    key = keys.generate()
    assert len(key) == keys.LENGTH == 56
    assert set(key.removeprefix("sk-llm-")) <= set(BASE62)
    assert keys.well_formed(key)
    assert keys.well_formed(key.encode())


def test_no_two_keys_are_alike():
    assert len({keys.generate() for _ in range(1000)}) == 1000


def test_the_form_does_not_change_between_versions():
    assert keys.well_formed(OLD_KEY)
    assert keys.digest(b"p" * 32, OLD_KEY).hex() == (
        "b854ce30cd4b82964619b746425bb7d52c9c994c67b287a55c1c3d3c6d62b445"
    )


@given(st.integers(7, keys.LENGTH - 1), st.sampled_from(BASE62))
def test_any_one_wrong_character_shows(position, other):
    typo = OLD_KEY[:position] + other + OLD_KEY[position + 1 :]
    assert keys.well_formed(typo) == (typo == OLD_KEY)


@given(st.integers(7, keys.LENGTH - 2))
def test_two_characters_that_changed_places_show(position):
    swapped = OLD_KEY[:position] + OLD_KEY[position + 1] + OLD_KEY[position] + OLD_KEY[position + 2 :]
    assert not keys.well_formed(swapped)


@pytest.mark.parametrize(
    "text", ["", "sk-llm-", OLD_KEY + "\n", OLD_KEY + "0", OLD_KEY[:-1], "\u017f" + OLD_KEY[1:]]
)
def test_what_is_not_a_key_is_refused(text):
    assert not keys.well_formed(text)


@given(st.binary(max_size=80))
def test_any_bytes_are_looked_at_without_an_error(raw):
    keys.well_formed(raw)


def test_the_digest_depends_on_key_and_pepper():
    first, second = keys.generate(), keys.generate()
    assert keys.digest(b"p" * 32, first) == keys.digest(b"p" * 32, first.encode())
    assert len({keys.digest(p, k) for p in (b"p" * 32, b"q" * 32) for k in (first, second)}) == 4


def test_the_display_prefix_shows_six_random_characters():
    assert keys.display_prefix(OLD_KEY) == "sk-llm-012345"


def test_a_generated_pepper_can_be_read(tmp_path):
    file = tmp_path / "pepper"
    text = keys.generate_pepper()
    file.write_text(text)
    assert keys.read_pepper(file) == bytes.fromhex(text.strip())
    assert len(keys.read_pepper(file)) == 32


@pytest.mark.parametrize("text", [b"", b"0" * 63, b"0" * 65, b"g" * 64, b"\xff" * 64, b"0" * 64 + b"\n\n"])
def test_a_broken_pepper_is_named_but_not_shown(tmp_path, text):
    file = tmp_path / "pepper"
    file.write_bytes(text)
    with pytest.raises(SettingError) as caught:
        keys.read_pepper(file)
    assert str(caught.value) == f"{file}: must hold 64 hex digits and a newline"


def test_a_missing_pepper_says_so(tmp_path):
    with pytest.raises(SettingError, match="pepper is missing"):
        keys.read_pepper(tmp_path / "pepper")
