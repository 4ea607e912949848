"""Places for connections: who works keeps its own, who waits longest gives way, and the rest are turned away."""

from dataclasses import dataclass

from scheduler_svc.process.connection_room import ConnectionRoom


@dataclass(eq=False)
class Guest:
    gave_way: bool = False

    def give_way(self) -> None:
        self.gave_way = True


def full_room(size: int = 3) -> tuple[ConnectionRoom, list[Guest]]:
    room, guests = ConnectionRoom("test", size), [Guest() for _ in range(size)]
    assert all(room.enter(guest) for guest in guests)
    return room, guests


def test_there_is_room_up_to_the_size() -> None:
    room, guests = full_room()
    assert len(room) == 3
    assert not any(guest.gave_way for guest in guests)


def test_who_waits_longest_gives_way() -> None:
    room, guests = full_room()
    assert room.enter(Guest())
    assert room.enter(Guest())
    assert [guest.gave_way for guest in guests] == [True, True, False]
    assert len(room) == 3


def test_who_works_does_not_give_way_and_waits_anew_afterwards() -> None:
    room, guests = full_room()
    room.note_working(guests[0])
    assert room.enter(Guest())
    assert [guest.gave_way for guest in guests] == [False, True, False]
    room.note_waiting(guests[0])
    room.note_waiting(guests[2])  # again: its turn stays
    assert room.enter(Guest())
    assert [guest.gave_way for guest in guests] == [False, True, True]


def test_where_all_work_a_new_one_is_turned_away_until_one_leaves() -> None:
    room, guests = full_room()
    for guest in guests:
        room.note_working(guest)
    newcomer = Guest()
    assert not room.enter(newcomer)
    room.leave(newcomer)
    assert len(room) == 3
    room.leave(guests[1])
    assert room.enter(newcomer)
    assert not any(guest.gave_way for guest in guests)


def test_who_has_left_takes_no_place_by_a_late_word() -> None:
    room, guests = full_room()
    room.leave(guests[0])
    room.leave(guests[0])
    room.note_waiting(guests[0])
    assert len(room) == 2
    assert room.enter(Guest())
    assert not guests[0].gave_way


def test_some_who_are_turned_away_may_stay_to_hear_why() -> None:
    room, guests = full_room()
    stay = [Guest() for _ in range(1000)]
    num_staying = sum(map(room.turn_away, stay))
    assert 0 < num_staying < 100
    assert len(room) == 3
    room.leave(stay[0])
    assert room.turn_away(Guest())
    assert not room.turn_away(Guest())
    assert not any(guest.gave_way for guest in guests)
