"""Row LSTM and Diagonal BiLSTM: the paper's recurrences a state at a time, what is seen, probabilities, sampling."""

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_worlds import (
    SMALL_WORLDS,
    WORLDS,
    built,
    dependence,
    expect_all_outputs_to_depend_on_the_condition,
    expect_positions_as_in_a_full_pass,
    expect_probabilities_to_add_up_to_one,
    expect_the_samples_of_full_passes,
)
from lowerbound.networks.base import Shape
from lowerbound.networks.pixelrnn import DiagonalBiLSTM, Diagonals, DiagonalStates, RowLSTM, RowStates
from lowerbound.testing import LABEL
from lowerbound.testing.base import double, shake_parameters


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ROW = RowLSTM.Config(width=9, layers=2, first_kernel=3, out_width=30)
DIAGONAL = DiagonalBiLSTM.Config(width=9, layers=2, first_kernel=3, out_width=30)
NETWORKS = {
    "row": ROW,
    "row, a wider kernel, skip connections": RowLSTM.Config(width=6, layers=3, kernel=5, out_width=3, skip=True),
    "diagonal": DIAGONAL,
    "diagonal, skip connections": DiagonalBiLSTM.Config(width=6, layers=3, first_kernel=5, out_width=3, skip=True),
}


# ---- the recurrences, a position at a time


def equation_3(sums: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Gates [o, f, i, g] and the cell before -> state and cell."""
    o, f, i, g = sums.split(len(cell))
    c = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("kernel", [3, 5])
@torch.no_grad()
def test_row_states_are_those_of_the_paper(kernel: int):
    """Section 3.1: K^is is of the position and those to its left, K^ss of the row above on both sides."""
    h, (H, W), side = 3, (4, 5), kernel // 2
    with double():
        states = RowStates(h, kernel, 1, 0)
        shake_parameters(states)
        x = torch.randn(1, H, W, 2 * h)
        found = states(x, x, None)[0]
    k_is, bias = states.input.weight, states.input.bias  # [4h, 2h, 1, side + 1]
    k_ss = states.state.weight.unflatten(1, (kernel, h))  # [4h, kernel, h]
    zero, state, cell = torch.zeros(h).double(), {}, {}
    for i in range(H):
        for j in range(W):
            sums = bias.clone()
            for d in range(side + 1):
                if j - d >= 0:
                    sums += k_is[:, :, 0, side - d] @ x[0, i, j - d]
            for d in range(-side, side + 1):
                sums += k_ss[:, d + side] @ state.get((i - 1, j + d), zero)
            state[i, j], cell[i, j] = equation_3(sums, cell.get((i - 1, j), zero))
            assert float((found[i, j] - state[i, j]).abs().max()) < 1e-12


@pytest.mark.parametrize("size", [(4, 5), (5, 3), (1, 4), (4, 1), (1, 1)])
@torch.no_grad()
def test_diagonal_states_are_those_of_the_paper(size: Shape):
    """Section 3.2: neighbours in the row and above, in both directions, the leftward map a row lower."""
    h, (H, W) = 3, size
    with double():
        states = DiagonalStates(h, (2, H, W), 1, 0)
        shake_parameters(states)
        y, x = torch.randn(1, H, W, 2 * h), torch.randn(1, H, W, 2)
        found = states(y, x, None)[0]
    zero = torch.zeros(h).double()
    made: list[dict] = []
    for direction, ahead in enumerate((-1, 1)):
        state, cell = {}, {}
        in_row, above = states.state[direction].split(h)
        for i in range(H):
            for j in range(W) if direction == 0 else reversed(range(W)):
                given = states.right(y[0, i, j]) if direction == 0 else states.left(torch.cat([y[0, i, j], x[0, i, j]]))
                sums = given + state.get((i, j + ahead), zero) @ in_row + state.get((i - 1, j), zero) @ above
                state[i, j], cell[i, j] = equation_3(sums, cell.get((i, j + ahead), zero))
        made.append(state)
    for i in range(H):
        for j in range(W):
            expected = made[0][i, j] + made[1].get((i - 1, j), zero)
            assert float((found[i, j] - expected).abs().max()) < 1e-12


@pytest.mark.parametrize("size", [(3, 4), (4, 3), (1, 3), (3, 1)])
def test_diagonals_are_taken_apart_and_joined(size: Shape):
    H, W = size
    maps = torch.arange(2 * 5 * H * W * 2).reshape(2, 5, H, W, 2)
    diagonals = Diagonals(H, W)
    parts = [part for part, _ in diagonals.split(maps)]
    for d, part in enumerate(parts):
        expected = [maps[:, :, i, d - i] for i in range(H) if 0 <= d - i < W]
        assert torch.equal(part, torch.stack(expected, 1))
    assert torch.equal(diagonals.join(parts), maps)


def test_layers_add_what_their_states_say():
    """Figure 5, and the skip connections of section 3.3."""
    with double():
        net = built(NETWORKS["row, a wider kernel, skip connections"], 1, 1, (3, 4))
        x = torch.randn(2, 3, 4, 1)
        h, skipped = net.first(x), 0.0
        for layer in net.layers:
            states = layer.states(h, x, None)
            skipped = skipped + states @ layer.skip.weight.T
            h = h + states @ layer.up.weight.T + layer.up.bias
        expected = net.out(torch.relu(net.mix(torch.relu(h + skipped))))
        assert torch.allclose(net._maps(x, None), expected)


# ---- what an output depends on


@pytest.mark.parametrize(("channels", "features", "outputs"), [(1, 1, 1), (1, 3, 2), (3, 3, 6)])
@pytest.mark.parametrize("size", [(4, 7), (7, 4)])
def test_the_diagonal_has_no_blind_spot(size: Shape, channels: int, features: int, outputs: int):
    with double():
        net = built(DIAGONAL, features, outputs, size, channels)
        seen = dependence(net, features, size)
    for (p, i, j, f, k, l), value in np.ndenumerate(seen.numpy()):
        assert value == ((k, l, f % channels) < (i, j, p % channels)), (p, i, j, f, k, l)


def row_context(config: RowLSTM.Config, size: Shape) -> np.ndarray:
    """[H, W, H, W]: which positions an output of a Row LSTM sees, by the sets that its parts gather."""
    (H, W), side, first = size, config.kernel // 2, config.first_kernel // 2

    def inside(places):
        return {(i, j) for i, j in places if 0 <= i < H and 0 <= j < W}

    rows = range(1, first + 1)
    features = {
        (i, j): inside([(i - a, j + b) for a in rows for b in range(-first, first + 1)] + [(i, j - b) for b in rows])
        for i in range(H)
        for j in range(W)
    }
    for _ in range(config.layers):
        states: dict = {}
        for i in range(H):
            for j in range(W):
                inputs = [features[p] for p in inside((i, j - d) for d in range(side + 1))]
                above = [states[p] for p in inside((i - 1, j + d) for d in range(-side, side + 1))]
                states[i, j] = set().union(*inputs, *above)
        features = {p: features[p] | states[p] for p in features}
    seen = np.zeros((H, W, H, W), bool)
    for (i, j), places in features.items():
        for k, l in places:
            seen[i, j, k, l] = True
    return seen


@pytest.mark.parametrize("first_kernel", [3, 5])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_row_lstm_sees_a_triangle(kernel: int, first_kernel: int):
    size = (4, 12)
    config = RowLSTM.Config(width=6, layers=1, first_kernel=first_kernel, kernel=kernel, out_width=6)
    with double():
        seen = dependence(built(config, 1, 1, size), 1, size)[0, :, :, 0].numpy()
    assert np.array_equal(seen, row_context(config, size))
    # to the right, the half of the first kernel in the row above, and half a kernel more in each above that
    far = [max(l for l in range(12) if seen[3, 0, k, l]) for k in (2, 1, 0)]
    assert far == [first_kernel // 2 + n * (kernel // 2) for n in range(3)]
    assert not seen[3, 0, 2, 11], "a blind spot"


def test_a_wider_first_kernel_sees_more():
    size = (3, 12)
    seen = [row_context(RowLSTM.Config(layers=1, first_kernel=k), size)[2, 5].sum() for k in (3, 5, 7)]
    assert seen[0] < seen[1] < seen[2] < 2 * 12 + 5


@pytest.mark.parametrize("network", [ROW, DIAGONAL], ids=["row", "diagonal"])
@pytest.mark.parametrize("size", [(4, 6), (6, 4)])
def test_channels_are_in_order(network, size: Shape):
    with double():
        seen = dependence(built(network, 3, 6, size, channels=3), 3, size).numpy()
    for (p, i, j, f, k, l), value in np.ndenumerate(seen):
        assert not value or (k, l, f % 3) < (i, j, p % 3), (p, i, j, f, k, l)
    for i, j in np.ndindex(*size):  # the first channel of a position sees all of those of the position before it
        if j:
            assert seen[0, i, j, :, i, j - 1].all()
        assert seen[4, i, j, 0, i, j]
        assert seen[5, i, j, :2, i, j].all()


@pytest.mark.parametrize("network", [ROW, DIAGONAL], ids=["row", "diagonal"])
@pytest.mark.parametrize("context_size", [(1, 1), (2, 3)])
def test_every_output_depends_on_the_condition(network, context_size: Shape):
    expect_all_outputs_to_depend_on_the_condition(network, context_size)


# ---- the model


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("world", WORLDS)
def test_samples_are_those_of_full_passes(network, world: str):
    expect_the_samples_of_full_passes(network, world)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_position_alone_is_as_in_a_full_pass(network, world: str):
    expect_positions_as_in_a_full_pass(network, world)


@pytest.mark.parametrize("network", [ROW, DIAGONAL], ids=["row", "diagonal"])
@pytest.mark.parametrize(("likelihood", "space"), SMALL_WORLDS)
@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["alone", "given a label"])
def test_probabilities_add_up_to_one(network, likelihood, space, given):
    expect_probabilities_to_add_up_to_one(network, likelihood, space, given)
