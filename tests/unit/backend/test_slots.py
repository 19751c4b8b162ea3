"""Which slot a request gets."""

import pytest

from llmsvc.backend.native.slots import Slots, fingerprints

SYSTEM = "You are helpful. " * 100


def ask(slots, user, *texts):
    slot, keep = slots.take(user, fingerprints(texts))
    slots.give(slot)
    return slot.number, keep


def test_a_conversation_comes_back_to_its_slot_after_others_of_the_same_system_prompt():
    slots = Slots(4, per_user=False)
    homes = {user: ask(slots, user, SYSTEM, f"{user} asks")[0] for user in "abcd"}
    assert sorted(homes.values()) == [0, 1, 2, 3]
    for turn in range(1, 4):
        said = [f"turn {number} " * 50 for number in range(turn)]
        for user in "abcd":
            assert ask(slots, user, SYSTEM, f"{user} asks", *said)[0] == homes[user]


def test_a_new_conversation_takes_the_slot_that_was_left_longest_ago():
    slots = Slots(2, per_user=False)
    old, _ = ask(slots, "a", "one " * 500)
    new, _ = ask(slots, "b", "two " * 500)
    for _ in range(3):
        assert ask(slots, "b", "two " * 500)[0] == new
    assert ask(slots, "c", "three " * 500)[0] == old


def test_slots_that_are_taken_are_not_given_again():
    slots = Slots(2, per_user=False)
    first, _ = slots.take("a", fingerprints(["x"]))
    second, _ = slots.take("a", fingerprints(["x"]))
    assert {first.number, second.number} == {0, 1}
    slots.give(first)
    assert slots.take("b", fingerprints(["y"]))[0] is first


@pytest.mark.parametrize(("per_user", "kept"), [(False, True), (True, False)])
def test_what_another_user_left_helps_only_where_it_may(per_user, kept):
    slots = Slots(1, per_user=per_user)
    ask(slots, "a", SYSTEM, "hello")
    assert ask(slots, "b", SYSTEM, "hello")[1] is kept
    assert ask(slots, "b", SYSTEM, "hello", "more")[1] is True


def test_fingerprints_tell_where_prompts_part():
    one, other = fingerprints(["a" * 600, "b"]), fingerprints(["a" * 600, "c"])
    assert len(one) == 4
    assert [mine == its for mine, its in zip(one, other, strict=True)] == [True, True, True, False]
    assert len(fingerprints(["x" * 10_000_000])) < 50_000


def test_a_long_prompt_is_put_behind_those_that_come_after_it():
    slots = Slots(4, per_user=False)
    long, _ = slots.take("a", fingerprints(["word " * 3000]))
    short, _ = slots.take("b", fingerprints(["hello"]))
    assert (long.number, short.number) == (3, 0)


def three_conversations():
    """Slots with a conversation each, of a, b and c."""
    slots = Slots(3, per_user=False)
    taken = [slots.take(user, talk(user))[0] for user in "abc"]
    assert [slot.number for slot in taken] == [0, 1, 2]
    for slot in taken:
        slots.give(slot)
    return slots


def talk(user):
    return fingerprints([f"{user} " * 500])


def test_a_long_prompt_is_put_last_though_another_slot_was_left_longer_ago():
    slots = three_conversations()
    assert ask(slots, "a", "a " * 500)[0] == 0
    assert slots.take("d", fingerprints(["word " * 3000]))[0].number == 2


def test_a_short_request_does_not_wait_for_a_long_prompt_though_the_slot_behind_it_was_left_longer_ago():
    slots = three_conversations()
    others = [slots.take(user, talk(user))[0] for user in "ac"]
    long, _ = slots.take("d", fingerprints(["word " * 3000]))
    for slot in others:
        slots.give(slot)
    assert ask(slots, "a", "a " * 500)[0] == 0
    assert long.number == 1
    before, _ = slots.take("e", fingerprints(["hello"]))
    assert before.number == 0
    slots.give(before)
    # once it is read it keeps nobody waiting
    long.unread = 0
    assert ask(slots, "f", "hello")[0] == 2
