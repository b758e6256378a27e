"""Who may see whom in a drawn world: one table, nobody in two places, and the people that shipped models learned from."""

import pytest

from lorasynth.errors import UsageError
from lorasynth.gallery import Split
from lorasynth.recipes import RECIPES, get_recipe
from lorasynth.worlds.subjects import Role, everybody, persons_of, role_of, split_of

DRAWN = [recipe for name in RECIPES if (recipe := get_recipe(name)).world]


@pytest.mark.slow
def test_nobody_has_two_roles_or_two_splits():
    people = [person for role in Role for person in everybody(role)]
    assert len(people) == len(set(people))
    in_galleries = [person for split in Split for person in everybody(split)]
    assert len(in_galleries) == len(set(in_galleries)) == 10_000 + 10_000 + 100_000


def test_every_person_knows_role_and_split():
    for role in Role:
        people = everybody(role)
        assert {role_of(people[i]) for i in (0, len(people) // 2, -1)} == {role}
    for split in Split:
        people = everybody(split)
        assert {split_of(people[i]) for i in (0, len(people) // 2, -1)} == {split}
        assert people[0] in people
    assert split_of(everybody(Role.ENCODER)[0]) is None
    assert (role_of(90_000), split_of(90_000)) == (None, None)
    assert 90_000 not in everybody(Split.TRAIN)


@pytest.mark.slow
def test_shipped_models_people_stay_who_they_were():
    assert persons_of(Role.EVALUATED, 100) == list(range(100))
    assert persons_of(Role.MEASURED, 32) == list(range(5_000, 5_032))
    assert persons_of(Role.BENCHMARKED, 32) == list(range(7_000, 7_032))
    assert persons_of(Role.CHOOSING, 128) == list(range(10_000, 10_128))
    assert persons_of(Role.STRANGERS, 200) == list(range(11_000, 11_200))
    assert persons_of(Role.STOPPING, 32) == list(range(15_000, 15_032))
    assert persons_of(Role.THRESHOLD, 200) == list(range(19_000, 19_200))
    assert persons_of(Role.ZOO, 2_000) == list(range(100_000, 102_000))
    assert persons_of(Role.ZOO, 40_000, offset=3_000) == list(range(103_000, 143_000))
    assert persons_of(Role.PILOT, 96) == list(range(150_000, 150_096))
    assert everybody(Role.BASE) == tuple(range(200_000, 300_000))
    assert persons_of(Role.ENCODER, 6_000) == list(range(300_000, 306_000))
    assert persons_of(Role.CRITIC, 20_000) == list(range(350_000, 370_000))
    assert persons_of(Role.RECOGNISER, 20_000) == list(range(400_000, 420_000))
    assert persons_of(Role.READER, 6_000) == list(range(480_000, 486_000))


@pytest.mark.parametrize("recipe", DRAWN, ids=lambda recipe: recipe.name)
def test_recipes_people_have_one_purpose(recipe):
    zoo, through = recipe.zoo, recipe.end_to_end.through
    with_lora = set(persons_of(Role.ZOO, zoo.people))
    pictures_only = set(persons_of(Role.ZOO, through.people, offset=through.first_person))
    pilot = set(persons_of(Role.PILOT, zoo.pilot_people * zoo.pilot_rounds))
    assert not with_lora & pictures_only
    assert not pilot & (with_lora | pictures_only)


def test_people_in_order_lead_past_a_gap():
    people = everybody(Role.ZOO)
    assert people[49_999:50_001] == (149_999, 151_000)
    assert (people[-1], len(people)) == (199_999, 99_000)


@pytest.mark.parametrize(("who", "kind"), [(Split.HELD_OUT, "split 'held_out'"), (Role.EVALUATED, "role 'evaluated'")])
def test_too_many_people_are_refused(who, kind):
    most = len(everybody(who))
    with pytest.raises(UsageError, match=f"{kind} holds {most} people; expected 1 to that many, got {most + 1}"):
        persons_of(who, most + 1)
