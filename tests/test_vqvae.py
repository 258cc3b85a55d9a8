"""A VQ-VAE's bound against the sum over all grids of codes, its samples, gradients and levels."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lowerbound import testing
from lowerbound.errors import ModelError, UserError
from lowerbound.families import (
    Bernoulli,
    Categorical,
    DiagonalNormal,
    LogisticMixture,
    Noiseless,
    Point,
    SharedScaleNormal,
)
from lowerbound.model import Draw, Model
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.flow import Flow
from lowerbound.models.vae import VAE
from lowerbound.models.vqvae import VQVAE, Level, level_names
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.made import MADE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import Reconstruction
from lowerbound.quantizers import FSQ, VQ, Quantizer, ResidualVQ
from lowerbound.space import Density, Space
from lowerbound.testing.base import double, expect_frequencies


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PRIOR = Autoregressive.Config(network=MADE.Config(hidden=(6,)), context=4, context_blocks=1, embedding=2)
FEW = VQ.Config(codes=3, dim=2, initial=0)
TWO = VQ.Config(codes=2, dim=2, initial=0)
BINARY = Space((1, 2, 4), levels=2)  # 256 images
LARGER = Space((1, 4, 4), levels=2)  # 65,536, for two levels


def config(*levels: tuple[int, Quantizer.Config], **parts: Any) -> VQVAE.Config:
    levels = levels or ((2, FEW),)
    made = tuple(Level(factor=factor, quantizer=quantizer) for factor, quantizer in levels)
    options = {"priors": (PRIOR,) * len(levels), "likelihood": Bernoulli(), "width": 4, "inner": 2, "blocks": 1}
    return VQVAE.Config(**{"levels": made, **options, **parts})  # pyright: ignore[reportArgumentType]


def built(c: VQVAE.Config, space: Space = BINARY, given: tuple[Space, ...] = (), shake: float = 0.7) -> VQVAE:
    model = testing.ModelCase(c, space, given).build("vqvae", shake=shake)
    assert isinstance(model, VQVAE)
    return model


ONE_LEVEL = config(), BINARY
TWO_LEVELS = config((4, TWO), (2, TWO)), LARGER


def all_codes(model: VQVAE) -> tuple[Tensor, ...]:
    """Every combination of codes, level by level: [G, *shape] each."""
    levels = model.spaces[0].levels
    assert levels is not None
    flat = testing.all_events(Space((sum(space.dims for space in model.spaces),), levels=levels, ordered=False), 2**16)
    assert flat is not None
    parts = flat.split([space.dims for space in model.spaces], 1)
    return tuple(part.reshape(-1, *space.shape) for part, space in zip(parts, model.spaces, strict=True))


def world_of(space: Space) -> Tensor:
    world = testing.all_events(space, 2**16)
    assert world is not None
    return world


def marginal(model: VQVAE, x: Tensor, y: Tensor | None = None) -> Tensor:
    """log p(x|y), by the sum over all codes: [N]."""
    codes = all_codes(model)
    y = None if y is None else y[:1].expand(len(codes[0]))
    log_p, p = model.log_p_codes(codes, y).sum(0), model.decode(codes)
    return torch.cat([torch.logsumexp(p.log_prob(part[:, None]) + log_p, 1) for part in x.split(4096)])


# --- the battery, over models of other parts

VARIANTS = {
    "two levels": (config((4, TWO), (2, TWO)), LARGER, ()),
    "given a label": (config(), BINARY, (testing.LABEL,)),
    "given a label and attributes": (config(), BINARY, (testing.LABEL, Space((2,)))),
    "uniform codes": (config(priors=()), BINARY, ()),
    "a codebook by gradient": (config((2, FEW.model_copy(update={"decay": None}))), BINARY, ()),
    "several codes of a place": (config((2, ResidualVQ.Config(quantizer=FEW, depth=2))), BINARY, ()),
    "no codebook": (config((2, FSQ.Config(levels=(3, 2)))), BINARY, ()),
    "a single code": (config((2, FEW.model_copy(update={"codes": 1}))), BINARY, ()),
    "categorical pixels": (config(likelihood=Categorical()), Space((1, 2, 2), levels=3), ()),
    "mixtures of logistics": (
        config(likelihood=LogisticMixture(components=2)),
        Space((3, 2, 2), levels=256),
        (),
    ),
    "dequantized pixels": (config(likelihood=DiagonalNormal()), Space((1, 2, 2), levels=3), ()),
    "no density of a picture": (config(likelihood=Noiseless(sigmoid=False)), Space((3, 4, 4), levels=256), ()),
    "blocks computed twice": (config(checkpoint=True), BINARY, ()),
}
# what can't be as the battery has it: MADE's and the embedding's gradients where there is but one place, or one code
LEFT_OUT = {
    **dict.fromkeys(
        ("two levels", "categorical pixels", "mixtures of logistics", "dequantized pixels"),
        (testing.model_gradients_reach_every_parameter,),
    ),
    "a single code": (testing.model_gradients_reach_every_parameter, testing.model_uses_its_condition),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_battery(variant: str):
    c, space, given = VARIANTS[variant]
    case = testing.ModelCase(c, space, given)
    testing.run_checks(c, [check for check in testing.MODEL_CHECKS if check not in LEFT_OUT.get(variant, ())], case)
    expected = Density.NONE if variant.startswith("no density") else Density.BOUND
    assert case.build().density is expected


# --- the bound


@pytest.mark.parametrize(("c", "space"), [ONE_LEVEL, TWO_LEVELS], ids=["one level", "two levels"])
def test_the_bound_is_below_the_sum_over_all_codes(c: VQVAE.Config, space: Space):
    with double(), torch.no_grad():
        model, world = built(c, space), world_of(space)
        assert {len(codes.flatten(1).unique(dim=0)) > 1 for codes in model.codes(world)} == {True}, "one code for all"
        exact, bound = marginal(model, world), model.log_density(world)
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-9)
    assert bool((bound <= exact + 1e-12).all())
    assert float(bound.exp().sum()) < 1


def test_with_a_single_code_the_bound_is_the_sum():
    with double(), torch.no_grad():
        model, world = built(config((2, FEW.model_copy(update={"codes": 1})))), world_of(BINARY)
        assert torch.allclose(model.log_density(world), marginal(model, world), rtol=0, atol=1e-12)
        assert torch.equal(model.log_p_codes(model.codes(world)), torch.zeros(1, 256))


@pytest.mark.parametrize("given", [(), (testing.LABEL,)], ids=["", "given a label"])
@pytest.mark.parametrize(("c", "space"), [ONE_LEVEL, TWO_LEVELS], ids=["one level", "two levels"])
def test_the_bound_is_what_its_parts_add_up_to(c: VQVAE.Config, space: Space, given: tuple[Space, ...]):
    with double(), torch.no_grad():
        model = built(c, space, given)
        x, y = testing.events(space, 50), testing.condition(given, 50)
        codes = model.codes(x)
        labels = () if y is None else (y,)
        by_hand = [model.priors[l].log_density(codes[l], (*labels, *codes[:l])) for l in range(len(codes))]
        assert torch.equal(model.log_p_codes(codes, y), torch.stack(by_hand))
        expected = model.decode(codes, y).log_prob(x) + sum(by_hand)
        assert torch.allclose(model.log_density(x, y), expected, rtol=0, atol=1e-12)
        assert torch.allclose(model.elbo(x, y), expected, rtol=0, atol=1e-12)


def test_without_trained_priors_codes_are_uniform():
    with double(), torch.no_grad():
        model, x = built(*TWO_LEVELS), testing.events(LARGER, 20)
        codes = model.codes(x)
        trained = model.log_p_codes(codes)
        model.prior_learned[1] = False
        found = model.log_p_codes(codes)
        assert torch.equal(found[0], trained[0])
        assert torch.allclose(found[1], torch.full((20,), -4 * math.log(2)), atol=1e-12)
        model.prior_learned[0] = False
        without = built(TWO_LEVELS[0].model_copy(update={"priors": ()}), LARGER)
        assert not without.can_sample
        without.load_state_dict({k: model.state_dict()[k] for k in without.state_dict() if "prior" not in k}, False)
        assert torch.equal(model.log_density(x), without.log_density(x))
        assert torch.allclose(
            model.log_density(x), model.decode(codes).log_prob(x) - 5 * math.log(2), rtol=0, atol=1e-12
        )
        assert model.density is without.density is Density.BOUND


def test_codes_that_are_uniform_can_not_be_drawn():
    model = built(*TWO_LEVELS)
    model.prior_learned[1] = False
    assert not model.can_sample
    with pytest.raises(ModelError, match=r"prior\.bottom is not trained.*--resume --stage prior\.bottom$"):
        model.sample(2)
    model.prior_learned[0] = False
    with pytest.raises(ModelError, match=r"prior\.top and prior\.bottom are not trained.*--resume$"):
        model.sample_mean(2)
    with pytest.raises(ModelError, match=r"no priors to draw its codes from; train one with model\.priors"):
        built(config(priors=())).sample(2)


@pytest.mark.parametrize("given", [(), (testing.LABEL,)], ids=["", "given a label"])
def test_samples_have_the_frequencies_of_the_sum_over_all_codes(given: tuple[Space, ...]):
    with double(), torch.no_grad(), seeded("frequencies"):
        model, world = built(config(), BINARY, given), world_of(BINARY)
        y = torch.ones(8000, dtype=torch.int64) if given else None
        expect_frequencies(model.sample(8000, y), marginal(model, world, y).exp(), world)


def test_codes_are_drawn_as_the_priors_say():
    """Over all levels together, so that the finer are given the coarser that were drawn."""
    with double(), torch.no_grad(), seeded("codes"):
        model = built(*TWO_LEVELS, shake=1.5)
        codes = all_codes(model)
        p = model.log_p_codes(codes).sum(0).exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-9)
        top = codes[0].flatten()
        assert float(p[top == 0].sum()) != pytest.approx(float(p[top == 1].sum()), rel=0.1)
        flat = lambda parts: torch.cat([part.flatten(1) for part in parts], 1)  # noqa: E731
        expect_frequencies(flat(model.draw_latents(8000)), p, flat(codes))
        kept = torch.ones(4000, 1, 1, dtype=torch.int64)
        drawn = model.draw_latents(4000, coarse=(kept,))
        assert torch.equal(drawn[0], kept)
        expect_frequencies(drawn[1], p[top == 1] / p[top == 1].sum(), codes[1][top == 1])


def test_some_codes_are_drawn_anew_given_all_others():
    """Those of two levels together, where what comes later, and on the finer level, has its say too; the weights of 32
    draws are worth an error of 0.03."""
    with double(), torch.no_grad(), seeded("redrawn"):
        model = built(*TWO_LEVELS)
        codes = all_codes(model)
        p = model.log_p_codes(codes).sum(0).exp()
        own = (codes[0][-1:], codes[1][-1:])  # of all codes the last
        drawn = torch.ones(1, 1, dtype=torch.bool), torch.tensor([[False, True], [False, False]])
        alike = (codes[1] == own[1])[:, ~drawn[1]].all(1)  # in what is kept
        found = model.redrawn(tuple(c.expand(4000, *c.shape[1:]) for c in own), drawn)
        assert torch.equal(found[1][:, ~drawn[1]], own[1][:, ~drawn[1]].expand(4000, -1))
        both = lambda z: torch.stack([z[0].flatten(1)[:, 0], z[1][:, 0, 1]], 1)  # noqa: E731
        few = both(tuple(c[alike] for c in codes))
        exact = p[alike] / p[alike].sum()
        expect_frequencies(both(found), exact, few, error=0.03)
        top, one = codes[0].flatten(), codes[1][:, 0, 1]
        without = torch.stack([p[(top == a) & (one == b)].sum() for a, b in few])
        assert float((without - exact).abs().max()) > 0.05, "what is kept says nothing here"


def test_codes_without_a_prior_are_not_drawn_anew():
    model = built(config(priors=()))
    codes = model.codes(torch.zeros(1, *BINARY.shape, dtype=torch.uint8))
    with pytest.raises(ModelError, match="no priors"):
        model.redrawn(codes, tuple(torch.ones(space.shape, dtype=torch.bool) for space in model.spaces))


def test_temperature_and_truncation_by_level():
    with double(), torch.no_grad(), seeded("temperature"):
        model = built(*TWO_LEVELS, shake=1.5)
        top, bottom = model.draw_latents(500, how=Draw(temperature={"top": 0.0}))
        assert len(top.unique()) == 1
        assert len(bottom.flatten(1).unique(dim=0)) > 1
        top, bottom = model.draw_latents(500, how=Draw(top_k={"bottom": 1}))
        assert len(top.unique()) == 2
        assert len(bottom[top.flatten() == 0].flatten(1).unique(dim=0)) == 1
        for options, named in (({"temperature": {"botom": 1.0}}, "did you mean bottom"), ({"top_k": 0}, "top-k")):
            with pytest.raises(ModelError, match=named):
                model.draw_latents(2, how=Draw(**options))  # pyright: ignore[reportArgumentType]


# --- the autoencoder


def test_a_permuted_codebook_is_the_same_autoencoder():
    with double(), torch.no_grad():
        model, x = built(config(priors=())), world_of(BINARY)
        before, codes, bound = model.decode(model.codes(x)).mean, model.codes(x)[0], model.log_density(x)
        vq = model.quantizers[0]
        assert isinstance(vq, VQ)
        order = torch.tensor([2, 0, 1])
        vq.count.copy_(vq.count[order])
        vq.total.copy_(vq.total[order])
        after = model.codes(x)[0]
        assert torch.equal(order[after], codes)
        assert not torch.equal(after, codes)
        assert torch.equal(model.decode((after,)).mean, before)
        assert torch.equal(model.log_density(x), bound)


@pytest.mark.parametrize("level", [0, 1])
def test_the_gradient_goes_straight_through(level: int):
    """What reaches the encoder's output is the decoder's gradient at the code vectors, by finite differences; that of
    the coarsest reaches the decoder through the finer level too."""
    with double():
        c = config(*((f, VQ.Config(codes=3, dim=2, beta=0, initial=0)) for f in (4, 2)), priors=())
        model, x = built(c, LARGER), testing.events(LARGER, 3)
        inputs: list[Tensor] = []
        for project in model.project:
            project.register_forward_hook(lambda _m, _x, h: inputs.append(h))
        loss = model.loss(x).value
        h = list(inputs)
        (found,) = torch.autograd.grad(loss, [h[level]])

        with torch.no_grad():
            z = [q.z for q in model._quantize(x)]

            def moved(step: Tensor) -> float:
                vectors = list(z)
                vectors[level] = z[level] + step
                if level == 0:
                    maps = model.encoders[1](model.space.features(x))
                    at = [model.project[1](torch.cat([maps, model.between[0](v)], 1)) for v in (vectors[0], z[0])]
                    vectors[1] = z[1] + at[0] - at[1]
                return -float(model.likelihood_head(model._decode(vectors)).log_prob(x).mean())

            expected = torch.zeros_like(found)
            for place in range(found.numel()):
                step = torch.zeros(found.numel())
                step[place] = 1e-6
                step = step.reshape(found.shape)
                expected.view(-1)[place] = (moved(step) - moved(-step)) / 2e-6
        assert float(expected.abs().max()) > 1e-3
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_the_loss_counts_the_commitment_of_an_element_as_one_of_the_image():
    with double():
        model, x = built(*TWO_LEVELS), testing.events(LARGER, 7)
        with torch.no_grad():
            loss, quantized = model.loss(x), model._quantize(x)
            expected = -model.decode(tuple(q.codes for q in quantized)).log_prob(x)
            expected += 16 * torch.stack([q.loss for q in quantized]).sum(0)
        assert float(loss.value) == pytest.approx(float(expected.mean()), abs=1e-12)
        assert list(loss.terms) == ["distortion", "commitment.top", "commitment.bottom"]


def test_the_coarsest_level_is_quantized_first():
    wide = TWO_LEVELS[0].model_copy(update={"width": 16})
    with double(), torch.no_grad():
        model, x = built(wide, LARGER), world_of(LARGER)[::37]
        top, bottom = model.codes(x)
        assert len(top.unique()) == len(bottom.unique()) == 2
        model.project[1].weight.neg_()
        assert torch.equal(model.codes(x)[0], top)
        assert not torch.equal(model.codes(x)[1], bottom)
        model.project[1].weight.neg_()
        vq = model.quantizers[0]
        assert isinstance(vq, VQ)
        vq.total.neg_()  # the finer level is given what the coarser decodes to
        assert not torch.equal(model.codes(x)[1], bottom)
        vq.total.neg_()
        assert torch.equal(model.codes(x)[1], bottom)


def test_the_decoder_sees_all_levels():
    with double(), torch.no_grad():
        model = built(TWO_LEVELS[0].model_copy(update={"width": 32}), LARGER, shake=0.1)
        top, bottom = torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.int64)
        image = model.decode((top, bottom)).mean
        assert bool((model.decode((1 - top, bottom)).mean != image).all())
        for i in range(4):
            other = bottom.clone()
            other.view(-1)[i] = 1
            changed = (model.decode((top, other)).mean != image)[0, 0]
            row, column = divmod(i, 2)
            assert bool(changed[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].all())


def test_three_levels_have_the_sizes_of_their_factors():
    assert level_names(4) == ("top", "middle1", "middle2", "bottom")
    model = built(config((8, FEW), (4, TWO), (2, TWO)), Space((3, 16, 8), levels=2))
    x = testing.events(model.space, 5)
    codes = model.codes(x)
    assert [tuple(c.shape[1:]) for c in codes] == [(2, 1), (4, 2), (8, 4)]
    assert model.decode(codes).mean.shape == x.shape
    assert [s.name for s in model.stages()] == ["autoencoder", "prior.top", "prior.middle", "prior.bottom"]
    assert model.features(x).shape == (5, 2 * (2 + 8 + 32))
    for names in (("top",), ("middle", "bottom"), ("top", "middle", "bottom")):
        assert model.partial(x, names).shape == x.shape
    assert torch.allclose(model.partial(x, model.levels), model.decode(codes).mean, atol=1e-6)
    with pytest.raises(ModelError, match="no level 'midle'; did you mean middle"):
        model.partial(x, ["midle"])


def test_the_label_is_the_priors_alone():
    with double(), torch.no_grad():
        model = built(*TWO_LEVELS, given=(testing.LABEL,))
        x = testing.events(LARGER, 30)
        a, b = torch.zeros(30, dtype=torch.int64), torch.ones(30, dtype=torch.int64)
        codes = model.codes(x)
        assert not torch.allclose(model.log_p_codes(codes, a), model.log_p_codes(codes, b))
        assert torch.equal(model.decode(codes, a).mean, model.decode(codes, b).mean)
        assert torch.equal(model.posteriors(x, a)[0].mean, model.posteriors(x, b)[0].mean)
        assert torch.equal(model.loss(x, a).value, model.loss(x, b).value)
        terms = model.elbo_terms(x, a), model.elbo_terms(x, b)
        assert torch.equal(terms[0].log_px, terms[1].log_px)


def test_codes_that_do_not_fit_are_refused():
    model = built(*TWO_LEVELS)
    top, bottom = model.codes(testing.events(LARGER, 3))
    for codes, named in (
        ((top,), "expected codes of top and bottom, got 1 tensor"),
        ((bottom, top), r"expected codes of \[3, 1, 1\], got \[3, 2, 2\]"),
        ((top, bottom + 2), r"values in \[0, 2\)"),
        ((top, bottom, bottom), "got 3 tensor"),
        ((top.float(), bottom), "whole numbers"),
        ((top, bottom[:2]), r"expected codes of \[3, 2, 2\], got \[2, 2, 2\]"),
        ((top[0], bottom[0]), "expected codes of"),
    ):
        with pytest.raises(ModelError, match=named):
            model.decode(codes)


# --- what its numbers are worth


@pytest.mark.parametrize(
    ("likelihood", "space", "density", "noisy"),
    [
        (Bernoulli(), BINARY, Density.BOUND, False),
        (LogisticMixture(components=2), Space((3, 4, 4), levels=256), Density.BOUND, False),
        (SharedScaleNormal(), Space((1, 4, 4), levels=256), Density.BOUND, True),
        (Noiseless(sigmoid=False), Space((1, 4, 4), levels=256), Density.NONE, True),
        (Bernoulli(), Space((1, 4, 4), levels=256), Density.NONE, True),
    ],
)
def test_what_the_bound_is_worth(likelihood: Any, space: Space, density: Density, noisy: bool):
    model = built(config(likelihood=likelihood), space)
    assert model.density is density
    if density is Density.NONE:
        with pytest.raises(ModelError, match=f"{type(likelihood).__name__} is no probability of 256 levels; reconstr"):
            model.log_density(testing.events(space, 2))
        return
    assert model.noisy is noisy
    with seeded("noise"), torch.no_grad():
        x = testing.events(space, 2).expand(2, *space.shape)
        a, b = (model.log_weights(x)[0] for _ in range(2))
    assert torch.equal(a, b) is not noisy


# --- mistakes


@pytest.mark.parametrize(
    ("c", "space", "message"),
    [
        (config((3, FEW)), BINARY, r"model\.levels\.0\.factor: expected a power of 2, got 3"),
        (config((2, FEW), (4, FEW)), LARGER, r"model\.levels: expected factors that fall, the coarsest .*got \[2, 4\]"),
        (config((2, FEW), (2, FEW)), LARGER, r"expected factors that fall"),
        (config((4, FEW), (2, FEW), priors=(PRIOR,)), LARGER, "expected none or one for each of the 2 levels, got 1"),
        (config((8, FEW)), LARGER, "images of 4x4 can't be halved 3 times: .* multiples of 8 .such as 8x8.*data.size"),
        (config(), Space((8,), levels=2), "a VQVAE takes images"),
        (config(priors=(Flow.Config(),)), BINARY, r"^model\.priors\.0: models\.flow\.Flow is over vectors"),
        (
            config(priors=(PRIOR.model_copy(update={"likelihood": SharedScaleNormal()}),)),
            BINARY,
            r"^model\.priors\.0",
        ),
        (
            config(priors=(VAE.Config(latent=2, posterior=Point(), objective=Reconstruction()),)),
            BINARY,
            r"^model\.priors\.0: expected a model with a density, got models\.vae\.VAE",
        ),
        (
            config(priors=(PRIOR.model_copy(update={"likelihood": LogisticMixture()}),)),
            BINARY,
            r"^model\.priors\.0: families\.LogisticMixture is over numbers",
        ),
        (config(likelihood=Categorical()), Space((1, 4, 4)), r"families\.Categorical is over whole numbers"),
    ],
)
def test_what_does_not_fit_is_said(c: VQVAE.Config, space: Space, message: str):
    with pytest.raises(UserError, match=message):
        c.build(space)


def test_a_prior_of_any_kind():
    """A VAE over the codes: its bound is noisy, and adds to the model's."""
    small = MLP.Config(hidden=(4,))
    prior = VAE.Config(latent=2, encoder=small, decoder=small, likelihood=Categorical())
    model = built(config(priors=(prior,)))
    assert model.density is Density.BOUND
    assert model.noisy
    testing.check_model(config(priors=(prior,)), BINARY)
    with pytest.raises(ModelError, match="does not draw codes one after another"):
        model.draw_latents(2, how=Draw(top_k=1))


def test_a_pixelcnn_with_attention_over_the_coarser_codes():
    network = GatedPixelCNN.Config(width=6, layers=2, first_kernel=3, out_width=6, attention=(2,), heads=2)
    prior = PRIOR.model_copy(update={"network": network})
    model: Model = built(config((4, TWO), (2, TWO), priors=(prior, prior)), LARGER, (testing.LABEL,))
    assert model.sample(3, torch.zeros(3, dtype=torch.int64)).shape == (3, 1, 4, 4)


def test_levels_that_are_dropped_in_training_are_the_finest():
    """Of all images the share `drop`, evenly over how many levels are kept; none in measuring."""
    three = config((8, FEW), (4, FEW), (2, FEW), drop=0.6)
    with double(), torch.no_grad(), seeded("dropped"):
        model = built(three, Space((1, 8, 8), levels=2)).train()
        vectors = [torch.ones(9000, 2, n, n) for n in (1, 2, 4)]
        kept = torch.stack([v.flatten(1).amax(1) for v in model._dropped(vectors)])  # [3, N], ones and zeros
        assert bool((kept[:-1] >= kept[1:]).all())
        shares = torch.bincount(kept.sum(0).long(), minlength=4) / 9000
        assert torch.allclose(shares, torch.tensor([0.0, 0.3, 0.3, 0.4]), atol=5 * math.sqrt(0.25 / 9000))
        assert model.eval()._dropped(vectors) is vectors


def test_the_temperature_of_each_level_from_python():
    levels = (
        Level(factor=4, quantizer=VQ.Config(codes=5, dim=2)),
        Level(factor=2, quantizer=VQ.Config(codes=5, dim=2)),
    )
    prior = Autoregressive.Config(network=GatedPixelCNN.Config(layers=1, width=4))
    model = (
        VQVAE.Config(levels=levels, priors=(prior, prior), width=4, inner=2).build(Space((1, 8, 8), levels=17)).eval()
    )
    tops = [model.draw_latents(20, how=Draw(temperature={"top": t}))[0] for t in (0.0, 1.0)]
    assert (tops[0] == tops[0][:1]).all()
    assert not (tops[1] == tops[1][:1]).all()
    assert model.sample(3, temperature={"top": 0.0}).shape == model.sample_mean(3, temperature={"bottom": 0.5}).shape
