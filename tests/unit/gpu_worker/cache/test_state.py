"""What a sequence keeps besides K/V changes when an iteration is over, and not before."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.cache.state import LayerState, RecurrentState

CPU = torch.device("cpu")


def inputs(start: int, stop: int) -> torch.Tensor:
    """Numbered inputs of a convolution of one channel (1, 1, n)."""
    return torch.arange(start, stop, dtype=torch.float32).view(1, 1, -1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_a_convolution_sees_the_inputs_before_however_they_are_divided(sizes: list[int], width: int) -> None:
    state, start = RecurrentState(CPU), 1
    for number, size in enumerate(sizes):
        state.begin(is_first=number == 0)
        joined = state.layer(0, LayerState).push(inputs(start, start + size), 0, width)
        start += size
        seen = [0.0] * width + list(range(1, start))
        assert joined.flatten().tolist()[-(size + width - 1) :] == seen[-joined.shape[-1] :][-(size + width - 1) :]
        assert state.layer(0, LayerState).conv_states[0].flatten().tolist() == seen[-width:]
        state.commit()


def test_an_iteration_that_is_not_finished_has_changed_nothing() -> None:
    state = RecurrentState(CPU)
    state.begin(is_first=True)
    state.layer(0, LayerState).recurrent_states[0] = torch.ones(2)
    state.commit()
    state.begin(is_first=False)
    state.layer(0, LayerState).recurrent_states[0].fill_(7)  # as models do, in place
    state.begin(is_first=False)  # the iteration above failed, or was dropped
    assert state.layer(0, LayerState).recurrent_states[0].tolist() == [1, 1]


def test_a_text_that_begins_again_begins_from_nothing() -> None:
    state = RecurrentState(CPU)
    state.begin(is_first=True)
    state.layer(0, LayerState).recurrent_states[0] = torch.ones(2)
    state.commit()
    state.begin(is_first=True)
    assert state.layer(0, LayerState).recurrent_states[0] is None
    assert state.nbytes == 0


def test_what_is_under_way_moves_too() -> None:
    state = RecurrentState(CPU)
    state.begin(is_first=True)
    state.layer(0, LayerState).push(inputs(0, 4), 0, 2)
    state.layer(1, LayerState).recurrent_states[0] = torch.ones(3)
    num_bytes = state.nbytes
    state.move(torch.device("meta"))
    assert state.layer(1, LayerState).recurrent_states[0].device.type == "meta"
    assert state.nbytes == num_bytes == 4 * (2 + 3)
