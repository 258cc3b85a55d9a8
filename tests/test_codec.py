"""What is coded comes back to the last bit, and takes what its probabilities say."""

import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Distribution

from lowerbound.codec import archive, exact, numerics
from lowerbound.codec.archive import Archive
from lowerbound.codec.bits_back import BitsBack
from lowerbound.codec.channel import AT_ONCE, WORD, Message, Reading, Writing, intervals
from lowerbound.codec.choice import PLAINLY, Way, scheme_of, why_not
from lowerbound.codec.container import BLOCK, Container
from lowerbound.codec.elementary import exp, logistic, logistic_table, normal
from lowerbound.codec.scheme import Mismatch, Settings
from lowerbound.codec.symbols import coded, coded_in_bins, in_bin
from lowerbound.codec.tiles import Layout, Tiles
from lowerbound.config import components
from lowerbound.distributions import Bernoulli, Categorical, DiscretizedNormal, LogisticMixture
from lowerbound.errors import ModelError, UserError
from lowerbound.families import Categorical as CategoricalFamily
from lowerbound.families import DiscretizedNormal as NormalFamily
from lowerbound.families import LogisticMixture as MixtureFamily
from lowerbound.model import Diffusing, LatentModel, Model, Ordered
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.vae import VAE
from lowerbound.networks.made import MADE
from lowerbound.networks.mlp import MLP
from lowerbound.networks.nade import NADE
from lowerbound.networks.pixelcnn import PixelCNN
from lowerbound.networks.pixelcnnpp import PixelCNNPP
from lowerbound.networks.pixelrnn import DiagonalBiLSTM
from lowerbound.networks.transformer import Transformer
from lowerbound.noise import seeded
from lowerbound.space import Space
from lowerbound.testing import ModelCase, shake_parameters

pytestmark = pytest.mark.usefixtures("surroundings")


# ---- functions that are the same everywhere


def test_functions_are_those_of_their_names():
    x = np.linspace(-30, 30, 100_001)
    assert np.abs(exp(x) / np.exp(x) - 1).max() < 1e-10
    assert np.abs(logistic_table()(x) - scipy.special.expit(x)).max() < 1e-5
    assert np.abs(logistic(x) - scipy.special.expit(x)).max() < 1e-10
    assert np.abs(normal()(x) - scipy.special.ndtr(x)).max() < 1e-6
    assert np.all(np.diff(normal()(x)) >= 0)
    p = np.linspace(1e-6, 1 - 1e-6, 10_001)
    assert np.abs(normal()(normal().inverse(p)) - p).max() < 1e-14


def test_their_values_are_the_same_bits_on_every_machine():
    x = np.linspace(-9, 9, 4097)
    values = np.concatenate([exp(x), logistic(x), normal()(x), logistic_table()(x), in_bin(np.arange(2**14))])
    assert hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()[:16] == "495c6fb5306a8a40"


# ---- the coder


def test_a_message_takes_what_its_probabilities_say():
    """Within 0.01 % and a word of -Σ log2 P, of what it was told and of what that was rounded from."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(20, 0.3), AT_ONCE + 1000) + 1e-5
    x = (p.cumsum(1) < rng.random((len(p), 1)) * p.sum(1, keepdims=True)).sum(1)
    edges = intervals(np.concatenate([np.zeros((len(p), 1)), p.cumsum(1)], 1))
    channel, message = Writing(), Message()
    channel.symbols(edges, x)
    message.push(channel.spans)
    bits, told = WORD * len(message.words), channel.spans[0].bits
    true = -np.log2(p[np.arange(len(p)), x] / p.sum(1)).sum()
    assert abs(bits - told) < 1e-4 * told + WORD
    assert abs(bits - true) < 1e-4 * true + WORD
    again = Message(message.words)
    assert np.array_equal(again.pop(edges), x)
    assert again.is_empty


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=1, max_size=8), st.randoms())
@settings(max_examples=60, deadline=None)
def test_any_weights_are_coded(rows: list[list[float]], random):
    """Zeros, ones, all zero, one value that has everything: each value of each can be written."""
    K = max(2, *(len(row) for row in rows))
    weights = np.array([row + [0.0] * (K - len(row)) for row in rows])
    edges = intervals(np.concatenate([np.zeros((len(rows), 1)), weights.cumsum(1)], 1))
    assert (np.diff(edges) > 0).all()
    x = np.array([random.randrange(K) for _ in rows])
    channel, message = Writing(), Message()
    channel.symbols(edges, x)
    message.push(channel.spans)
    assert np.array_equal(message.pop(edges), x)
    assert message.is_empty


def test_how_edges_lie_in_memory_changes_nothing():
    edges = intervals(np.asfortranarray(np.random.default_rng(0).random((50, 6)).cumsum(1)))
    x = np.arange(50) % 5
    channel, message = Writing(), Message()
    channel.symbols(edges, x)
    message.push(channel.spans)
    assert np.array_equal(message.pop(np.asfortranarray(edges)), x)


def spread(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


COLOUR, GREY = Space((3, 5, 4), levels=256), Space((1, 5, 4), levels=17)
DISTRIBUTIONS: dict[str, Distribution] = {
    "bernoulli": Bernoulli(4 * spread(30, 1, 5, 4), Space((1, 5, 4), levels=2)),
    "categorical": Categorical(3 * spread(30, 17, 1, 5, 4), GREY),
    "codes": Categorical(3 * spread(30, 9, 5, 4), Space((5, 4), levels=9, ordered=False)),
    "normal": DiscretizedNormal(spread(30, 3, 5, 4), spread(30, 3, 5, 4) - 3, COLOUR),
    "narrow normal": DiscretizedNormal(9 * spread(30, 3, 5, 4), spread(30, 3, 5, 4) - 7, COLOUR),
    "logistics": LogisticMixture(
        *(spread(30, 5, 5, 4), spread(30, 5, 3, 5, 4), spread(30, 5, 3, 5, 4) - 3, spread(30, 5, 3, 5, 4).tanh()),
        COLOUR,
    ),
    "grey logistics": LogisticMixture(
        *(spread(30, 5, 5, 4), spread(30, 5, 1, 5, 4), spread(30, 5, 1, 5, 4) - 2, spread(30, 5, 0, 5, 4)), GREY
    ),
    "three levels": DiscretizedNormal(spread(30, 7), spread(30, 7), Space((7,), levels=3)),
}


@pytest.mark.parametrize("p", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_draws_take_their_log_probability(p: Distribution):
    with seeded(0):
        x = p.sample()
    flat, channel, message = x.reshape(30, -1).numpy().astype(np.int64), Writing(), Message()
    coded(p, channel, 30, flat)
    message.push(channel.spans)
    said = -p.log_prob(x).double().sum().item() / np.log(2)
    assert sum(s.bits for s in channel.spans) == pytest.approx(said, rel=1e-3)
    assert np.array_equal(coded(p, Reading(message), 30), flat)
    assert message.is_empty


@pytest.mark.parametrize("p", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_any_event_can_be_written(p: Distribution):
    """However unlikely: the lowest and highest values, and noise."""
    top = getattr(p, "levels") - 1  # noqa: B009
    D = p.event_shape.numel()
    x = np.random.default_rng(0).integers(0, top + 1, (30, D))
    x[0], x[1] = 0, top
    channel, message = Writing(), Message()
    coded(p, channel, 30, x)
    message.push(channel.spans)
    assert np.array_equal(coded(p, Reading(message), 30), x)


def test_bins_have_the_masses_of_the_normal_and_give_their_bits_back():
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=5000), np.exp(rng.normal(size=5000) - 2)
    before = rng.integers(1, 2**32, size=5000, dtype=np.uint32)
    message = Message(before)
    index = coded_in_bins(mean, scale, Reading(message))
    u = (in_bin(index) - mean) / scale
    assert abs(u.mean()) < 4 / np.sqrt(5000)
    assert u.std() == pytest.approx(1, abs=4 / np.sqrt(10_000))
    channel = Writing()
    coded_in_bins(mean, scale, channel, index)
    message.push(channel.spans)
    assert np.array_equal(message.words, before)


# ---- models


def built(config: Model.Config, space: Space, scale: float = 0.3) -> Model:
    with seeded("codec"):
        model = config.build(space)
    shake_parameters(model, "codec", scale=scale)
    return model.eval()


SMALL = MLP.Config(hidden=(16,))
VECTOR = Space((1, 4, 4), levels=17)
MODELS: dict[str, tuple[Model.Config, Space]] = {
    "pixelcnn": (Autoregressive.Config(network=PixelCNN.Config(width=8, blocks=2)), VECTOR),
    "colour": (
        Autoregressive.Config(network=PixelCNN.Config(width=8, blocks=1), likelihood=CategoricalFamily()),
        Space((3, 3, 4), levels=256),
    ),
    "pixelcnn++": (
        Autoregressive.Config(
            network=PixelCNNPP.Config(width=8, levels=1, blocks=1), likelihood=MixtureFamily(components=3)
        ),
        Space((3, 4, 4), levels=256),
    ),
    "transformer": (
        Autoregressive.Config(network=Transformer.Config(width=8, layers=2, heads=2), likelihood=CategoricalFamily()),
        VECTOR,
    ),
    "rnn": (Autoregressive.Config(network=DiagonalBiLSTM.Config(width=4, layers=2)), VECTOR),
    "made": (Autoregressive.Config(network=MADE.Config(hidden=(40,))), VECTOR),
    "nade": (Autoregressive.Config(network=NADE.Config(hidden=20)), VECTOR),
    "vae": (VAE.Config(latent=(3,), encoder=SMALL, decoder=SMALL), Space((1, 4, 4), levels=2)),
    "grey vae": (VAE.Config(latent=(3,), encoder=SMALL, decoder=SMALL, likelihood=NormalFamily()), VECTOR),
}


def images(space: Space, n: int, seed: int = 0) -> np.ndarray:
    """Noise, a constant, a ramp, the two ends."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, space.levels, (n, *space.shape)).astype(np.uint8)
    x[1::5], x[2::5] = 0, (space.levels or 2) - 1
    x[3::5] = np.arange(space.dims).reshape(space.shape) % (space.levels or 2)
    return x


@pytest.mark.parametrize("float32", [False, True], ids=["portable", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_images_come_back(name: str, float32: bool, tmp_path: Path):
    config, space = MODELS[name]
    model, x = built(config, space), images(space, 45)
    with torch.no_grad(), seeded(0):
        x[20:] = model.sample(25).numpy()
    written = archive.write(tmp_path / "a.lb", model, x, {}, block=20, float32=float32)
    assert written.bits == 8 * (tmp_path / "a.lb").stat().st_size
    with Container(tmp_path / "a.lb") as container:
        archived = Archive(container, model)
        assert np.array_equal(archived[0:45], x)
        assert np.array_equal(archived[39:42], x[39:42])  # across two blocks
    assert written.framing <= 8 * 64 + 8 * 8 * 3


@pytest.mark.parametrize("name", [n for n in MODELS if "vae" not in n])
def test_a_file_is_as_long_as_the_exact_likelihood_says(name: str):
    config, space = MODELS[name]
    model = built(config, space)
    with torch.no_grad(), seeded(0):
        x = model.sample(400)
        said = -model.log_density(x).double().sum().item() / np.log(2)
    with numerics.repeatable():
        scheme = scheme_of(model).kind(model, Settings(400, 400, 0))
        bits = WORD * len(scheme.encode(x.numpy()).words)
    assert bits == pytest.approx(said, rel=1e-3, abs=64)


@pytest.mark.parametrize("name", ["vae", "grey vae"])
def test_a_chain_is_as_long_as_the_bound_says(name: str):
    """Within four standard errors of the bound, over draws of both; initial bits aside."""
    model = built(*MODELS[name], scale=0.1)  # posteriors within the bins
    with torch.no_grad(), seeded(0):
        x = model.sample(600)
        bound = -model.log_weights(x, draws=50).double() / np.log(2)  # [50, 600]
    with numerics.repeatable():
        c = BitsBack(model, Settings(16, 600, 3)).encode(x.numpy())
    net, error = WORD * len(c.words) - c.initial, (bound.std(0).square().sum() * (1 + 1 / 50)).sqrt().item()
    assert net == pytest.approx(bound.mean(0).sum().item(), abs=4 * error + 64)
    assert c.initial > 0


def test_bits_back_gives_the_initial_message_back():
    """And notices where it doesn't: other latents were pushed than popped."""
    model, x = built(*MODELS["vae"]), images(Space((1, 4, 4), levels=2), 30)
    scheme = BitsBack(model, Settings(4, 30, 2))
    with numerics.repeatable():
        words = scheme.encode(x).words
        assert np.array_equal(scheme.decode(words, 30), x)
        assert isinstance(model, VAE)
        torch.nn.init.normal_(next(model.encoder.parameters()))
        with pytest.raises(Mismatch, match="does not end at the bits it began with"):
            scheme.decode(words, 30)


def test_the_first_images_of_a_chain_take_the_initial_bits_of_one():
    """Popped one by one until the message can pay for more."""
    model, x = built(*MODELS["vae"]), images(Space((1, 4, 4), levels=2), 200)
    with numerics.repeatable():
        slow = BitsBack(model, Settings(16, 200, 16)).encode(x)
        paced = BitsBack(model, BitsBack.settings_for(model, x, 200, None)).encode(x)
    assert paced.initial <= slow.initial + 64
    assert len(paced.words) <= len(slow.words) + 8


@pytest.mark.parametrize("config", components(Model.Config), ids=lambda c: c.type_name())
def test_every_model_compresses_or_says_why_not(config: type[Model.Config], tmp_path: Path):
    case = ModelCase.of(config)
    model = case.build()
    y = case.y(7)
    labels = y.numpy() if isinstance(y, torch.Tensor) else None
    if reason := why_not(model):
        assert reason[-1] not in ".;"
        with pytest.raises(ModelError, match="can't compress"):
            archive.write(tmp_path / "a.lb", model, case.x(3).numpy(), {})
        assert not [*tmp_path.iterdir()]
        return
    x, diffuses = case.x(7).numpy(), isinstance(model, Diffusing) and model.config.steps is None
    archive.write(tmp_path / "a.lb", model, x, {}, y=labels, way=Way(steps=2) if diffuses else PLAINLY, block=5)
    with Container(tmp_path / "a.lb") as container:
        assert np.array_equal(Archive(container, model, labels)[0:7], x)


# ---- the same bits everywhere


@pytest.mark.parametrize("name", MODELS)
def test_the_portable_path_needs_no_batch_and_no_threads(name: str):
    """Written in a batch of 9 on one thread, read in one of 40 on two. It takes what float32 takes, to 0.5 %, and to
    what other draws of z make of it."""
    model, spread = built(*MODELS[name], scale=0.1 if "vae" in name else 0.3), 0.0  # posteriors within the bins
    with torch.no_grad(), seeded(0):
        x = model.sample(9).numpy()
    own, kind, settings = exact.portable(model), scheme_of(model).kind, Settings(40, 40, 2)
    with exact.computing():
        words = kind(own, settings, filled=False).encode(x).words
    torch.set_num_threads(2)
    try:
        with exact.computing():
            assert np.array_equal(kind(own, settings).decode(words, 9), x)
    finally:
        torch.set_num_threads(1)
    with numerics.repeatable():
        if isinstance(model, LatentModel):
            spread = model.log_weights(torch.from_numpy(x), draws=50).std(0).square().sum().sqrt().item() / np.log(2)
        there = len(kind(model, settings).encode(x).words)
    assert there == pytest.approx(len(words), rel=5e-3, abs=2 + 6 * spread / WORD)


def test_sums_are_exact_in_any_order():
    x, w = spread(7, 300).double(), spread(300, 5).double() / 3
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    pairs = (
        lambda x, w: x @ w,
        lambda x, w: x.cumsum(1)[:, -1],
        lambda x, w: x.sum(1),
        lambda x, w: torch.nn.functional.conv1d(x[..., None], w.T[..., None]),
    )
    for f in pairs:
        with exact.computing():
            one, other = f(x, w), f(x[:, order], w[order])
        assert torch.equal(one, other)
    assert not torch.equal(x @ w, x[:, order] @ w[order])


@pytest.mark.parametrize(
    "f",
    [
        *(torch.exp, torch.sigmoid, torch.tanh, torch.nn.functional.silu, torch.nn.functional.gelu),
        *(torch.nn.functional.elu, torch.nn.functional.relu, lambda x: torch.softmax(x, 0)),
        *(torch.nn.functional.softplus, torch.nn.functional.logsigmoid, torch.sin, torch.cos, torch.expm1, torch.erf),
        *(lambda x: torch.log(x.exp()), lambda x: torch.log_softmax(x, 0), lambda x: torch.logsumexp(x, 0)),
        *(lambda x: 1e-4 ** (x / 9), lambda x: x**2, lambda x: x.mean(0), lambda x: (1 + x**2).rsqrt()),
    ],
)
def test_functions_of_the_portable_path_are_those_of_torch(f):
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    with exact.computing():
        ours = f(x)
    assert torch.allclose(ours, f(x), atol=2e-5, rtol=1e-8)


@pytest.mark.parametrize(
    "f",
    [
        *(torch.nn.LayerNorm([6, 5]), torch.nn.GroupNorm(2, 4), torch.nn.BatchNorm2d(4), torch.nn.MaxPool2d(2)),
        lambda x: torch.nn.functional.scaled_dot_product_attention(x, x + 1, x),
        lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x - 1, is_causal=True),
        lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=torch.eye(6).bool()),
    ],
)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e2])
def test_norms_and_attention_of_the_portable_path_are_those_of_torch(f, size: float):
    if isinstance(f, torch.nn.Module):
        f = exact.portable(f)
        for number, values in enumerate(f.state_dict().values()):
            values.copy_(torch.linspace(0.5, 2 + number, values.numel()).view(values.shape) if values.shape else values)
    x = spread(3, 4, 6, 5).double() * size
    with exact.computing():
        ours, alone = f(x), f(x[1:2])
    assert torch.allclose(ours, f(x), atol=1e-4 * max(1, size), rtol=2e-2 if size < 1 else 1e-3)
    assert torch.equal(ours[1:2], alone)


def test_what_is_not_known_to_be_the_same_everywhere_is_refused():
    x = torch.rand(3, 3, dtype=torch.float64) + 1
    with (
        exact.computing(),
        pytest.raises(ModelError, match="linalg_vector_norm is not known to be the same on every machine"),
    ):
        torch.linalg.vector_norm(x)
    with exact.computing(), pytest.raises(ModelError, match="too large to be summed exactly"):
        (1e7 * x) @ x


def test_values_are_chosen_in_order_by_the_probabilities_of_one_pass():
    model = built(*MODELS["colour"])
    assert isinstance(model, Ordered)
    x, log_p, seen = torch.from_numpy(images(model.space, 6)), torch.zeros(6), []

    def chosen(p: Distribution, only: slice, place: tuple[int, int]) -> torch.Tensor:
        value = x[:, only, place[0], place[1]].long()
        seen.append(place)
        log_p.add_(p.log_probs[:, :, only, 0, 0].gather(1, value[:, None])[:, 0, 0])  # pyright: ignore
        return value

    with torch.no_grad():
        assert torch.equal(model.spell(6, chosen), x)
        assert torch.allclose(log_p, model.log_prob(x), atol=1e-3)
    assert seen[::3] == model.order


# ---- tiles


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_images_of_any_size_are_tiles_and_back(sizes: list[tuple[int, int]], C: int):
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 256, (C, h, w)).astype(np.uint8) for h, w in sizes]
    layout = Layout(sizes, (C, 4, 3))
    tiles = Tiles(layout, lambda i: x[i])
    parts = np.concatenate([tiles[k : min(k + 3, len(tiles))] for k in range(0, len(tiles), 3)])
    assert parts.shape == (len(layout), C, 4, 3)
    for i, image in enumerate(x):
        own = layout.tiles(i)
        assert np.array_equal(layout.joined(i, parts[own.start : own.stop]), image)


# ---- mistakes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, np.ndarray, bytes]:
    model, x = built(*MODELS["vae"]), images(Space((1, 4, 4), levels=2), 40)
    path = tmp_path_factory.mktemp("written") / "a.lb"
    archive.write(path, model, x, {"names": [f"{i}" for i in range(40)]}, block=25)
    return model, x, path.read_bytes()


def decoded(path: Path, model: Model) -> np.ndarray:
    with Container(path) as container:
        archived = Archive(container, model)
        return archived[0 : len(archived)]


def test_a_flipped_bit_is_said_wherever_it_is(written, tmp_path: Path):
    model, _, whole = written
    head = 8 * 56
    for at in [*range(head), *range(head, 8 * len(whole), 29)]:
        other = bytearray(whole)
        other[at // 8] ^= 1 << at % 8
        (tmp_path / "b.lb").write_bytes(other)
        with pytest.raises(UserError, match=r"b\.lb"):
            decoded(tmp_path / "b.lb", model)


def test_a_file_that_is_cut_off_is_said_wherever_it_is_cut(written, tmp_path: Path):
    model, _, whole = written
    for length in range(len(whole)):
        (tmp_path / "b.lb").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut off|no file that"):
            decoded(tmp_path / "b.lb", model)
    (tmp_path / "b.lb").write_bytes(whole + b"x")
    with pytest.raises(UserError, match="1 bytes follow its last block"):
        decoded(tmp_path / "b.lb", model)


def rewritten(whole: bytes, at: int, value: int, size: int = 4) -> bytes:
    """A number of the head changed, and its checksum made right again."""
    table = int.from_bytes(whole[48:52], "little")
    head = whole[:at] + value.to_bytes(size, "little") + whole[at + size : 52]
    body = whole[56 : 56 + table]
    return head + zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little") + whole[56:]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: rewritten(w, 16, 0), "says what no file says"),  # images
        (lambda w: rewritten(w, 16, 2**32 - 1), "says what no file says"),
        (lambda w: rewritten(w, 20, 2**32 - 1), "says what no file says"),  # images of a block
        (lambda w: rewritten(w, 12, 2**31), "says what no file says"),  # rows
        (lambda w: rewritten(w, 10, 200, 1), "says what no file says"),  # pace
        (lambda w: rewritten(w, 8, 2, 1), "written by a newer lowerbound"),
        (lambda w: b"PK\x03\x04" + w[4:], "no file that `lowerbound compress` wrote"),
        (lambda w: b"", "no file that `lowerbound compress` wrote"),
        (lambda w: w.replace(b"\r\n", b"\n"), "no file that `lowerbound compress` wrote"),
        (lambda w: rewritten(w, 24, 7, 1), "another model"),
    ],
)
def test_what_is_none_of_these_files_is_said(written, tmp_path: Path, change, match: str):
    model, _, whole = written
    (tmp_path / "b.lb").write_bytes(change(whole))
    with pytest.raises(UserError, match=match):
        decoded(tmp_path / "b.lb", model)


def test_a_block_that_was_made_up_gives_no_pixels(written, tmp_path: Path):
    """A message of random words, with a checksum that is right."""
    model, _, whole = written
    with Container(_file(tmp_path, whole)) as container:
        start, length, _ = container._starts[0]
    rng = np.random.default_rng(0)
    for n in (4, length, 5000):
        message = bytes(rng.integers(1, 256, n, dtype=np.uint8))
        head = n.to_bytes(4, "little")
        block = head + zlib.crc32(message, zlib.crc32(head)).to_bytes(4, "little") + message
        other = whole[: start - BLOCK.size] + block + whole[start + length :]
        with pytest.raises(UserError, match="block 0 is no message of this model"):
            decoded(_file(tmp_path, other), model)


def _file(folder: Path, content: bytes) -> Path:
    (folder / "c.lb").write_bytes(content)
    return folder / "c.lb"


def test_another_model_is_said(written, tmp_path: Path):
    _, _, whole = written
    other = built(VAE.Config(latent=(3,), encoder=SMALL, decoder=SMALL), Space((1, 4, 4), levels=2), scale=0.31)
    with pytest.raises(ModelError, match="with another model, or with other weights"):
        decoded(_file(tmp_path, whole), other)


@pytest.mark.parametrize("name", numerics.surroundings())
def test_the_float_path_refuses_other_surroundings(written, tmp_path: Path, monkeypatch, name: str):
    model, x, _ = written
    path = tmp_path / "a.lb"
    archive.write(path, model, x, {}, float32=True)
    assert np.array_equal(decoded(path, model), x)
    here = {**numerics.surroundings(), name: "of another kind"}
    monkeypatch.setattr(numerics, "surroundings", lambda: here)
    with pytest.raises(ModelError, match=rf"can't be read here: another {name} \(here of another kind\)$"):
        decoded(path, model)


def test_threads_of_the_caller_change_nothing(written, tmp_path: Path):
    model, x, _ = written
    torch.set_num_threads(2)
    try:
        archive.write(tmp_path / "a.lb", model, x, {}, block=25, float32=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert np.array_equal(decoded(tmp_path / "a.lb", model), x)


def test_nothing_is_left_where_a_file_does_not_decode(written, tmp_path: Path, monkeypatch):
    model, x, _ = written
    right = BitsBack.decode
    monkeypatch.setattr(BitsBack, "decode", lambda self, words, n, y: 1 - right(self, words, n, y))
    with pytest.raises(RuntimeError, match="block 0 does not decode to its images"):
        archive.write(tmp_path / "a.lb", model, x, {})
    assert not [*tmp_path.iterdir()]
