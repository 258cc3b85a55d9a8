"""Quantizers: the battery, closed forms of what the papers say, several processes, and what a user may get wrong."""

import itertools
import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from lowerbound import testing
from lowerbound.config import override, parse
from lowerbound.errors import ConfigError
from lowerbound.noise import of_rows, seeded
from lowerbound.parallel import ALONE, World, sharing
from lowerbound.quantizers import FSQ, VQ, Quantizer, ResidualVQ, Usage, nearest, seeds, statistics
from lowerbound.testing.base import double


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with seeded("tests of quantizers"):
        yield
    torch.set_num_threads(threads)


VARIANTS = {
    "codebook": VQ.Config(codes=5, dim=3),
    "random at first, none revived": VQ.Config(codes=5, dim=3, initial=0, revive=0),
    "three batches of k-means": VQ.Config(codes=40, dim=3, initial=3),
    "directions": VQ.Config(codes=5, dim=3, cosine=True),
    "directions by gradient": VQ.Config(codes=5, dim=3, cosine=True, decay=None, revive=0.2),
    "by gradient": VQ.Config(codes=5, dim=3, decay=None),
    "by gradient, as in the paper": VQ.Config(codes=5, dim=3, decay=None, initial=0, revive=0),
    "revived often": VQ.Config(codes=50, dim=3, decay=0.5, revive=0.5),
    "residuals": ResidualVQ.Config(quantizer=VQ.Config(codes=4, dim=3), depth=3),
    "residuals by gradient": ResidualVQ.Config(quantizer=VQ.Config(codes=4, dim=3, decay=None), depth=2),
    "no codebook": FSQ.Config(levels=(2, 3, 4)),
}


def check_name(check) -> str:
    return check.__name__.replace("_", "-")


@pytest.mark.parametrize("check", testing.QUANTIZER_CHECKS, ids=check_name)
@pytest.mark.parametrize("variant", VARIANTS)
def test_battery(variant: str, check):
    check(testing.QuantizerCase(VARIANTS[variant]))


@pytest.mark.parametrize("decay", [0.9, None])
def test_one_code(decay: float | None):
    vq = VQ.Config(codes=1, dim=2, decay=decay).build().train()
    for _ in range(3):
        vq(torch.randn(2, 2, 3, 3))
        vq.after_step()
    assert vq.space((3, 3)).levels == 1
    assert (vq.encode(torch.randn(2, 2, 3, 3)) == 0).all()


def plain(codes: int = 7, dim: int = 3, **fields: object) -> VQ:
    """A random codebook that is neither initialized nor revived."""
    with seeded("plain"):
        return parse(VQ.Config, {"codes": codes, "dim": dim, "initial": 0, "revive": 0, **fields}).build()


def rows(h: Tensor) -> Tensor:
    return h.movedim(1, -1).reshape(-1, h.shape[1])


def vectors(vq: VQ, e: Tensor) -> VQ:
    """Put these vectors into the codebook."""
    with torch.no_grad():
        if vq.learned:
            vq.weight.copy_(e)
        else:
            vq.count.fill_(1.0)
            vq.total.copy_(e)
    return vq


# ---- the nearest


@pytest.mark.parametrize("shape", [(50, 7, 3), (1, 1, 1), (20, 1, 4), (0, 5, 2), (300, 64, 16)])
@pytest.mark.parametrize("at_once", [2**26, 100])
def test_nearest_is_that_of_all_distances(shape, at_once, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lowerbound.quantizers.base._DISTANCES", at_once)
    n, codes, dim = shape
    with double():
        x, e = torch.randn(n, dim) + 3, torch.randn(codes, dim)
        brute = torch.cdist(x, e, compute_mode="donot_use_mm_for_euclid_dist")
        assert torch.equal(nearest(x, e), brute.argmin(1))
    assert nearest(torch.zeros(1, 2), torch.ones(4, 2)) == 0  # the first of equals


def test_cosine_is_the_nearest_direction():
    with double():
        vq, h = plain(cosine=True).eval(), 5 * torch.randn(4, 3, 2, 2)
        z, codes, loss = vq(h)
        scores = torch.cosine_similarity(rows(h)[:, None], vq.total[None], dim=-1)
        assert torch.equal(codes.flatten(), scores.argmax(1))
        assert torch.allclose(z.square().sum(1), torch.ones(4, 2, 2))
        # |a - b|^2 = 2 - 2 cos
        expected = 0.25 * (2 - 2 * scores.max(1).values).reshape(4, -1).mean(1) / 3
        assert torch.allclose(loss, expected)
        assert torch.equal(vq(7 * h).codes, codes)


@pytest.mark.parametrize("decay", [0.9, None])
def test_renumbered_codes_change_nothing_but_numbers(decay):
    with double():
        a, b, order = plain(decay=decay), plain(decay=decay), torch.randperm(7)
        vectors(b, a.vectors.detach()[order])
        for _ in range(3):
            h = torch.randn(4, 3, 2, 2)
            (z, codes, loss), other = a(h), b(h)
            assert torch.equal(order[other.codes], codes)
            assert torch.allclose(other.z, z)
            assert torch.allclose(other.loss, loss)
            a.after_step()
            b.after_step()
            assert torch.allclose(b.vectors, a.vectors[order], atol=1e-12)


@pytest.mark.parametrize("config", [VQ.Config(codes=9, dim=3), VQ.Config(codes=9, dim=3, cosine=True)])
def test_codes_of_distinct_vectors_come_back(config: VQ.Config):
    with double():
        vq = config.build().eval()
        codes = torch.arange(9).reshape(1, 3, 3)
        assert torch.equal(vq.encode(vq.decode(codes)), codes)


# ---- gradients


@pytest.mark.parametrize("decay", [0.9, None])
@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_gradients_are_those_of_equation_3(decay, beta):
    """d/dh: the decoder's at z, and β 2 (h - e) / n. d/de: 2 (e - h) / n of the vectors that chose it, without β."""
    with double():
        vq, h, g = plain(decay=decay, beta=beta), torch.randn(4, 3, 2, 2, requires_grad=True), torch.randn(4, 3, 2, 2)
        z, codes, loss = vq(h)
        (straight,) = torch.autograd.grad((z * g).sum(), h, retain_graph=True)
        assert torch.equal(straight, g)
        (commitment,) = torch.autograd.grad(loss.sum(), h, retain_graph=True)
        n = 3 * 2 * 2  # elements of an image
        assert torch.allclose(commitment, beta * 2 * (h - z).detach() / n)
        error = (h - z).detach().square().flatten(1).mean(1)
        assert torch.allclose(loss.detach(), (beta + (decay is None)) * error)
        if decay is None:
            (moved,) = torch.autograd.grad(loss.sum() + (z * g).sum(), vq.weight)
            expected = torch.zeros(7, 3).index_add_(0, codes.flatten(), rows(2 * (z - h).detach() / n))
            assert torch.allclose(moved, expected)
        else:
            assert not list(vq.parameters())


def test_the_decoders_gradient_is_taken_at_the_code_vectors():
    with double():
        vq, h = plain(), torch.randn(4, 3, 2, 2, requires_grad=True)
        z, codes, _ = vq(h)
        assert torch.equal(z, vq.decode(codes))
        (grad,) = torch.autograd.grad(z.pow(3).sum(), h)
        at = vq.decode(codes).requires_grad_()
        assert torch.equal(grad, torch.autograd.grad(at.pow(3).sum(), at)[0])


# ---- moving averages


def test_moving_averages_of_a_fixed_assignment_have_a_closed_form():
    """N_t = γ^t N_0 + (1 - γ) Σ γ^(t-s) n_s, m likewise, e = m / N with N smoothed (appendix A.1)."""
    decay, steps = 0.8, 6
    with double():
        vq = plain(codes=3, dim=2, decay=decay)
        centres = torch.tensor([[10.0, 0.0], [-10.0, 0.0], [0.0, 30.0]])
        vectors(vq, centres)
        n, m = decay**steps * torch.ones(3), decay**steps * centres
        for s in range(1, steps + 1):
            k = torch.randint(2, (4, 2, 2))  # the third is never chosen
            h = centres[k] + 0.1 * torch.randn(4, 2, 2, 2)
            assert torch.equal(vq(h.movedim(-1, 1)).codes, k)
            vq.after_step()
            weight = (1 - decay) * decay ** (steps - s)
            for i in range(3):
                n[i] += weight * (k == i).sum()
                m[i] += weight * h[k == i].sum(0)
        assert torch.allclose(vq.count, n, rtol=1e-12)
        smoothed = (n + 1e-5) / (n.sum() + 3e-5) * n.sum()
        assert torch.allclose(vq.vectors, m / smoothed[:, None], rtol=1e-12)
        assert torch.allclose(vq.vectors[2], centres[2], rtol=1e-3)  # stays where it was


def test_passes_of_one_step_count_as_one_batch():
    with double():
        a, b, h = plain(), plain(), torch.randn(4, 3, 2, 2)
        a(h)
        a.after_step()
        b(h[:1])
        b(h[1:])
        b.after_step()
        assert torch.allclose(a.vectors, b.vectors, rtol=1e-12)
        assert torch.allclose(a.count, b.count)
        before = a.vectors
        a.after_step()  # nothing was gathered
        assert torch.equal(a.vectors, before)


def test_the_average_of_two_codebooks_is_one():
    """The average of N and of m: every vector lies between the two, nearer to that of the larger count."""
    with double():
        a, b = plain(codes=2, dim=1), plain(codes=2, dim=1)
        a.count.copy_(torch.tensor([3.0, 1.0]))
        a.total.copy_(torch.tensor([[3.0], [5.0]]))
        b.count.copy_(torch.tensor([1.0, 1.0]))
        b.total.copy_(torch.tensor([[5.0], [7.0]]))
        for key, t in a.state_dict().items():
            t.lerp_(b.state_dict()[key], 0.5) if t.is_floating_point() else None
        assert torch.allclose(a.vectors, torch.tensor([[2.0], [6.0]]), rtol=1e-4)


@pytest.mark.parametrize("decay", [0.9, None])
def test_codes_that_nothing_chooses_are_put_on_vectors_of_the_batch(decay):
    far = torch.full((4, 2), 100.0) + torch.arange(4)[:, None]
    vq = vectors(plain(codes=5, dim=2, decay=decay, revive=0.2), torch.cat([torch.zeros(1, 2), far]))
    with seeded("revive"):
        for step in range(300):
            h = torch.randn(4, 2, 2, 2)
            vq(h)
            vq.after_step()
            if decay is None and step == 0:
                assert vq.revived == 0  # the count of one that they began with is an average of many batches
            if vq.revived:
                break
    assert vq.revived == 4
    assert vq.count[1:].eq(16 / 5).all()
    distances = torch.cdist(vq.vectors[1:].detach(), rows(h))
    assert distances.min(1).values.max() < 1e-3  # Laplace smoothing moves them by a hundred-thousandth
    assert len(vq(h).codes.unique()) > 1


def test_codes_in_use_are_not_revived():
    vq = plain(codes=4, dim=2, revive=0.1)
    corners = 10 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    vectors(vq, corners)
    for _ in range(50):
        vq(corners.T.reshape(1, 2, 2, 2))
        vq.after_step()
    assert vq.revived == 0
    assert torch.allclose(vq.vectors, corners, rtol=1e-3)


# ---- k-means on the first batches


def clusters(n: int, codes: int) -> tuple[Tensor, Tensor]:
    """n maps of 4 x 4 vectors around distant centres, and the centres [codes, 2]."""
    angle = 2 * math.pi * torch.arange(codes) / codes
    centres = 100 * torch.stack([angle.cos(), angle.sin()], 1)
    k = torch.arange(n * 16) % codes
    x = centres[k] + torch.randn(len(k), 2)
    return x[torch.randperm(len(x))].reshape(n, 4, 4, 2).movedim(-1, 1), centres


@pytest.mark.parametrize("decay", [0.99, None])
def test_k_means_finds_the_clusters(decay):
    vq = VQ.Config(codes=8, dim=2, decay=decay).build()
    h, centres = clusters(16, 8)
    vq(h)
    vq.after_step()
    assert vq.waiting == 0
    assert torch.cdist(centres, vq.vectors.detach()).min(1).values.max() < 2
    x = rows(h)
    n, sums = statistics(x, nearest(x, vq.vectors), 8)
    assert torch.equal(vq.count, n)  # a fixed point of Lloyd's: the means of what is nearest to them
    assert torch.allclose(vq.vectors, sums / n[:, None], rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_k_means_of_one_batch_is_nearly_optimal(seed: int):
    """4,096 vectors of a normal in 2 dimensions on 16 codes: below the 0.1175 of four levels for each (Max 1960)."""
    with seeded(seed):
        vq, h = VQ.Config(codes=16, dim=2).build(), torch.randn(64, 2, 8, 8)
        vq(h)
        vq.after_step()
        assert float(vq.eval()(h).loss.mean() / 0.25) < 0.112


def test_fewer_vectors_than_codes_are_used_all_and_more_are_waited_for():
    """A vector becomes a code, batch after batch, until there are as many as codes; then k-means is over."""
    vq, seen = VQ.Config(codes=40, dim=2, revive=0).build(), []
    for step in range(3):
        h = torch.randn(1, 2, 4, 4)
        seen.append(rows(h))
        assert vq.waiting == 1, step
        vq(h)
        vq.after_step()
        if step < 2:
            assert torch.cdist(torch.cat(seen), vq.vectors).min(1).values.max() < 1e-3
            assert int((vq.count >= 1).sum()) == 16 * (step + 1)
    assert vq.waiting == 0
    assert bool((vq.count >= 1).all())
    assert vq.count.sum() == 48


@pytest.mark.parametrize("initial", [1, 3])
def test_as_many_batches_as_asked(initial: int):
    vq = VQ.Config(codes=4, dim=2, initial=initial).build()
    for step in range(initial + 2):
        assert int(vq.waiting) == max(0, initial - step)
        vq(torch.randn(4, 2, 4, 4))
        vq.after_step()
        if int(vq.waiting) == 0 and step == initial - 1:
            assert vq.count.sum() == initial * 64


def test_seeds_are_far_from_each_other_and_repeat_only_when_used_up():
    x = torch.tensor([[0.0], [0.0], [0.0], [5.0], [9.0]])
    for i in range(20):
        with seeded(i):
            chosen = seeds(x, torch.full((3, 1), -1.0), torch.ones(3, dtype=torch.bool))
        assert sorted(chosen.flatten().tolist()) == [0.0, 5.0, 9.0]
    kept = seeds(x, torch.tensor([[5.0], [7.0], [7.0]]), torch.tensor([False, True, True]))
    assert kept[0] == 5
    assert sorted(kept.flatten().tolist()) == [0.0, 5.0, 9.0]
    few = seeds(x[3:], torch.full((40, 1), -1.0), torch.ones(40, dtype=torch.bool))
    assert {5.0, 9.0} <= set(few.flatten().tolist()) <= {5.0, 9.0, -1.0}


def test_seeds_have_chances_in_proportion_to_squared_distances():
    x = torch.tensor([[1.0], [2.0], [3.0]])
    with seeded("chances"):
        drawn = [float(seeds(x, torch.zeros(2, 1), torch.tensor([False, True]))[1]) for _ in range(1400)]
    counts = torch.tensor([drawn.count(v) for v in (1.0, 2.0, 3.0)], dtype=torch.float64)
    expected = 1400 * torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64) / 14
    assert float(((counts - expected) ** 2 / expected).sum()) < 20  # chi-squared, two degrees of freedom


def test_training_goes_on_where_it_was_saved():
    """In the midst of k-means, and after: the state dict is all there is."""
    config = VQ.Config(codes=40, dim=2, initial=2, revive=0.3, decay=0.3)
    for stop in range(6):
        whole, begun, resumed = config.build(), config.build(), config.build()
        begun.load_state_dict(whole.state_dict())
        for _ in range(4):  # what it was before it took up the state does not matter
            resumed.after_step()
            resumed(torch.randn(2, 2, 4, 4))
        for step in range(6):
            if step == stop:
                resumed.load_state_dict(begun.state_dict(), strict=True)
            for vq in (whole, begun if step < stop else resumed):
                with seeded(step):
                    vq(torch.randn(1, 2, 4, 4))
                    vq.after_step()
        assert all(torch.equal(t, resumed.state_dict()[k]) for k, t in whole.state_dict().items())
        assert whole.revived > 0


def test_distortion_falls():
    """A thousand vectors of a normal in 2 dimensions: 16 codes reach the known distortion of optimal quantizers."""
    vq = VQ.Config(codes=16, dim=2, decay=0.9).build()
    for _ in range(100):
        vq(torch.randn(16, 2, 8, 8))
        vq.after_step()
    loss = float(vq.eval()(torch.randn(100, 2, 8, 8)).loss.mean() / 0.25)
    # nothing is below 2^(-2 R) at a rate of R = 2 bits a dimension; four levels for each reach 0.1175 (Max 1960)
    assert 2**-4 < loss < 0.1175


# ---- several processes


def _train(config: VQ.Config, h: Tensor, world: World) -> dict[str, Tensor]:
    with seeded("build"):
        vq = config.build()
    for step, batch in enumerate(h):
        with seeded("step", step), sharing(world, len(batch)) as rows:
            vq(batch[rows.start : rows.stop])
            with of_rows(None):
                vq.after_step()
    return vq.state_dict()


def test_two_processes_have_the_codebook_of_one():
    fixed = VQ.Config(codes=12, dim=3, initial=0, revive=0, decay=0.7)
    configs = [
        fixed,
        override(fixed, {"initial": 2, "revive": 0.4}),
        override(fixed, {"initial": 1, "revive": 0.4, "decay": None}),
        VQ.Config(codes=100, dim=3, initial=1),  # more than a batch has
    ]
    h = torch.randn(6, 5, 3, 2, 2) + 0.3 * torch.arange(6)[:, None, None, None, None]
    for config in configs:
        one = _train(config, h, ALONE)
        for each in testing.in_threads(2, lambda world, config=config: _train(config, h, world)):
            assert all(torch.allclose(t, each[k], atol=1e-5) for k, t in one.items())
        assert one["revived"] > 0 or config is not configs[1]
    assert one["waiting"] == 0  # k-means is of the vectors of both: the codes have all of them


# ---- residuals


def test_residual_codes_are_greedy_and_their_vectors_add_up():
    with double():
        rq = ResidualVQ.Config(quantizer=VQ.Config(codes=6, dim=3, initial=0), depth=4).build().eval()
        books = [vq.vectors for vq in rq.vqs]
        h = torch.randn(3, 3, 2, 2, requires_grad=True)
        z, codes, loss = rq(h)
        left, total, expected = rows(h).detach(), torch.zeros(12, 3), torch.zeros(3)
        for e, k in zip(books, codes.unbind(1), strict=True):
            assert torch.equal(torch.cdist(left, e).argmin(1), k.flatten())
            left, total = left - e[k.flatten()], total + e[k.flatten()]
            # the commitment holds every partial sum to h
            expected += 0.25 * (rows(h).detach() - total).square().reshape(3, -1).mean(1)
        assert torch.allclose(rows(z), total)
        assert torch.allclose(loss, expected)
        g = torch.randn_like(z)
        assert torch.equal(torch.autograd.grad((z * g).sum(), h, retain_graph=True)[0], g)
        sums = torch.stack([rq.vqs[d].decode(codes[:, d]) for d in range(4)]).cumsum(0)
        commitment = 0.25 * 2 * (h - sums).sum(0).detach() / 12
        assert torch.allclose(torch.autograd.grad(loss.sum(), h)[0], commitment)


def test_residual_codes_come_back_where_finer_vectors_are_short():
    """encode(decode(k)) = k where all that follows a depth is shorter than half the distances of its vectors."""
    with double():
        rq = ResidualVQ.Config(quantizer=VQ.Config(codes=4, dim=2, initial=0), depth=3).build().eval()
        square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        for d, vq in enumerate(rq.vqs):
            vectors(vq, square / 3**d)
        codes = torch.tensor(list(itertools.product(range(4), repeat=3))).reshape(64, 3, 1, 1)
        assert torch.equal(rq.encode(rq.decode(codes)), codes)
        vectors(rq.vqs[1], 3 * square)  # and not where they are long
        assert not torch.equal(rq.encode(rq.decode(codes)), codes)


def test_depth_one_is_a_codebook():
    with double():
        rq = ResidualVQ.Config(quantizer=VQ.Config(codes=6, dim=3, initial=0), depth=1).build().eval()
        h = torch.randn(3, 3, 2, 2)
        (z, codes, loss), (one_z, one_codes, one_loss) = rq(h), rq.vqs[0](h)
        assert torch.equal(codes[:, 0], one_codes)
        assert torch.equal(z, one_z)
        assert torch.equal(loss, one_loss)
        assert torch.equal(rq.encode(rq.decode(codes)), codes)


# ---- levels


@pytest.mark.parametrize("levels", [(2,), (3,), (2, 2), (3, 4), (8, 5, 5, 5), (7, 2, 3)])
def test_levels_are_all_reached_and_numbered_once(levels: tuple[int, ...]):
    with double():
        fsq = FSQ.Config(levels=levels).build()
        codes = torch.arange(math.prod(levels)).reshape(-1, 1, 1)
        z = fsq.decode(codes)
        assert torch.equal(fsq.codes_of(z), codes)
        for d, n in enumerate(levels):
            expected = torch.arange(-(n // 2), n - n // 2) / (n // 2)
            assert torch.equal(z[:, d].unique(), expected)
        digits = torch.tensor(list(itertools.product(*map(range, reversed(levels))))).flip(1)  # the first is the lowest
        assert torch.equal(rows(z * (fsq.levels // 2)).long(), digits - torch.tensor(levels) // 2)
        # every level has inputs: those far out, and those between the roundings
        n = torch.tensor(levels).reshape(-1, 1, 1)
        lines = torch.linspace(-9, 9, 20001).reshape(-1, 1, 1, 1).expand(-1, len(levels), 1, 1)
        reached, reached_codes, loss = fsq(lines)
        assert all(len(reached[:, d].unique()) == count for d, count in enumerate(levels))
        assert torch.equal(fsq.decode(reached_codes), reached)
        assert (loss == 0).all()
        assert n.prod() == fsq.space((2, 2)).levels


def test_levels_round_what_the_paper_bounds():
    """The nearest whole number to b(h), with the gradient of b; h = 0 is at the level 0 for odd and even numbers."""
    with double():
        fsq = FSQ.Config(levels=(5, 4)).build()
        h = torch.randn(6, 2, 2, 2, requires_grad=True)
        odd, even = h[:, 0], h[:, 1]
        b = torch.stack([2 * 0.999 * odd.tanh(), 1.5 * 0.999 * (even + math.tan(0.5 / (1.5 * 0.999))).tanh() - 0.5], 1)
        z, g = fsq(h).z, torch.randn_like(h)
        assert torch.equal(z, b.round() / 2)
        through, expected = (torch.autograd.grad((t * g).sum(), h)[0] for t in (z, b / 2))
        assert torch.allclose(through, expected)
        assert (FSQ.Config(levels=(3, 4, 5, 8)).build()(torch.zeros(1, 4, 1, 1)).z == 0).all()


# ---- how full a codebook is


def test_usage():
    usage = Usage(8)
    usage.add(torch.tensor([[0, 1], [1, 2]]))
    usage.add(torch.tensor([2, 2, 2, 0]))
    p = torch.tensor([2, 2, 4], dtype=torch.float64) / 8
    assert usage.counts.tolist() == [2, 2, 4, 0, 0, 0, 0, 0]
    assert (usage.dead, usage.share) == (5, 3 / 8)
    assert usage.bits == pytest.approx(1.5)
    assert usage.nats == pytest.approx(float(-(p * p.log()).sum()))
    assert usage.perplexity == pytest.approx(2**1.5)
    even = Usage(5)
    even.add(torch.arange(5).repeat(3))
    assert (even.share, even.dead) == (1, 0)
    assert even.perplexity == pytest.approx(5)


# ---- what a user may get wrong


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (VQ.Config, {"codes": 0}, "codes: expected a whole number above 0, got 0"),
        (VQ.Config, {"dim": 0}, "dim: expected a whole number above 0, got 0"),
        (VQ.Config, {"beta": -1}, "beta: expected a number of at least 0, got -1"),
        (VQ.Config, {"decay": 1}, "decay: expected a number of at least 0 and below 1 or null, got 1"),
        (VQ.Config, {"initial": -1}, "initial: expected a whole number of at least 0"),
        (VQ.Config, {"revive": 1.0}, "revive: expected a number of at least 0 and below 1"),
        (FSQ.Config, {"levels": [8, 1]}, r"levels: expected numbers of levels of at least 2.*got \[8, 1\]"),
        (FSQ.Config, {"levels": []}, r"levels: expected numbers of levels of at least 2.*got \[\]"),
        (FSQ.Config, {"levels": [2] * 31}, "levels: .* less than 2.31 codes"),
        (ResidualVQ.Config, {"depth": 0}, "depth: expected a whole number above 0, got 0"),
        (ResidualVQ.Config, {"quantizer": {"cosine": True}}, "quantizer: expected cosine=false"),
    ],
)
def test_what_is_wrong_is_said(config: type[Quantizer.Config], values: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        parse(config, values)


# ---- what the batteries find


def test_the_battery_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch):
    case = testing.QuantizerCase(VQ.Config(codes=5, dim=3))
    with monkeypatch.context() as m:
        m.setattr("lowerbound.quantizers.vq._straight_through", lambda x, z: z + 0.1 * (x - z))
        with pytest.raises(AssertionError, match=r"decode\(codes\) and z differ"):
            testing.quantizer_decodes_its_codes_to_what_it_puts_out(case)
    with monkeypatch.context() as m:
        m.setattr("lowerbound.quantizers.vq._straight_through", lambda x, z: z.detach() + 0 * x)
        with pytest.raises(AssertionError, match="no gradient goes straight through"):
            testing.quantizer_gradients_reach_its_input_and_its_parameters(case)
    with monkeypatch.context() as m:
        m.delattr(Quantizer, "_apply")
        with pytest.raises(AssertionError, match="half precision"):
            testing.quantizer_is_the_same_in_every_precision(case)
    with monkeypatch.context() as m:
        m.setattr("lowerbound.quantizers.vq._no_autocast", lambda h: nullcontext())
        with pytest.raises(AssertionError, match="inside autocast"):
            testing.quantizer_is_the_same_in_every_precision(case)
    with monkeypatch.context() as m:
        m.setattr(VQ, "_check", lambda self, h: None)
        with pytest.raises(AssertionError, match="another width"):
            testing.quantizer_refuses_vectors_of_another_width(case)


def test_one_graph():
    """torch.compile takes a pass whole, in train mode too."""
    for config in (VQ.Config(codes=5, dim=3), ResidualVQ.Config.example(), FSQ.Config(levels=(3, 4, 5))):
        quantizer = config.build().train()
        compiled = torch.compile(quantizer, backend="eager", fullgraph=True)
        h = torch.randn(2, 3, 2, 2)
        for _ in range(3):
            assert torch.equal(compiled(h).z, quantizer(h).z)
            quantizer.after_step()
