"""Rendered images against what geometry and optics say of them."""

import math

import numpy as np
import pytest
import torch

from lowerbound.data.rendered import rays, scenes, sprites
from lowerbound.data.rendered.rays import Body, Vector
from lowerbound.data.rendered.scenes import Scene

SHAPES = tuple(rays.SHAPES)
INSIDE = {  # bodies of size 1, upon the origin
    "sphere": lambda p: p.x**2 + p.y**2 + (p.z - 1) ** 2 < 1,
    "box": lambda p: torch.stack([p.x.abs(), p.y.abs(), (p.z - 0.8).abs()]).amax(0) < 0.8,
    "cylinder": lambda p: (p.x**2 + p.y**2 < 0.75**2) & (p.z > 0) & (p.z < 1.8),
    "capsule": lambda p: p.x**2 + p.y**2 + (p.z - p.z.clamp(0.6, 1.6)) ** 2 < 0.6**2,
}


def values(objects: int = 1, **factors: float) -> torch.Tensor:
    return torch.from_numpy(scenes.rows([factors], objects))


def body(kind: str, size: float = 1.0, x: float = 0.0, y: float = 0.0) -> Body:
    return Body(torch.tensor([SHAPES.index(kind)]), *(torch.tensor([[v]], dtype=torch.float64) for v in (size, x, y)))


def vector(x: object, y: object, z: object) -> Vector:
    return Vector(*(torch.as_tensor(c, dtype=torch.float64).reshape(1, -1) for c in (x, y, z)))


@pytest.mark.parametrize("kind", SHAPES)
def test_rays_meet_a_body_where_it_begins(kind: str):
    generator = torch.Generator().manual_seed(0)
    o = vector(*torch.randn(3, 4000, generator=generator).double() * 3 + torch.tensor([[0.0], [0.0], [4.5]]))
    target = vector(*torch.randn(3, 4000, generator=generator).double() * 0.8 + torch.tensor([[0.5], [0.3], [0.5]]))
    d = target.minus(o).unit()
    size, x, y = 0.7, 0.5, 0.3
    own = body(kind, size, x, y)

    def inside(p: Vector) -> torch.Tensor:
        return INSIDE[kind](Vector((p.x - x) / size, (p.y - y) / size, p.z / size))

    above = (o.z > 0) & ~inside(o)
    o, d = (Vector(*(c[above][None] for c in v)) for v in (o, d))
    t = own.meets(o, d)
    hit = torch.isfinite(t)
    assert 0.2 < hit.double().mean() < 0.9
    steps = torch.linspace(0, 12, 400, dtype=torch.float64)[:, None]
    along = inside(Vector(*(c[0] for c in o.along(d, 0.0))).along(Vector(*(c[0] for c in d)), steps))
    before = steps < torch.where(hit, t, torch.inf)[0] - 1e-9
    assert not (along & before).any()  # nothing is passed through
    assert inside(o.along(d, torch.where(hit, t + 1e-6, 0.0)))[hit].double().mean() > 0.999  # but for grazing rays
    p = Vector(*(c[hit][None] for c in o.along(d, torch.where(hit, t, 0.0))))
    n = own.normal(p)
    assert torch.allclose(n.dot(n), torch.ones_like(n.x))
    assert inside(p.along(n, -1e-5)).double().mean() > 0.995
    assert not inside(p.along(n, 1e-5)).any()


@pytest.mark.parametrize("size", [0.8, 1.0, 0.5])
def test_silhouette_of_a_sphere_is_the_ellipse_of_its_projection(size: float):
    distance, elevation = 5.0, math.radians(20)
    o, d = scenes.rays(values(size=size, camera_distance=distance, camera_elevation=20), 256)
    seen = torch.isfinite(body("sphere", size, 0, 0.7).meets(o, d)).double().mean()
    up, away = size - scenes.AIM, vector(math.cos(elevation), 0, math.sin(elevation))
    centre = vector(-distance * away.x, 0.7, up - distance * away.z)  # as the camera sees it
    far = float(centre.dot(centre).sqrt())
    theta, cos = math.asin(size / far), float(-centre.dot(away)) / far
    scale = cos**2 - math.sin(theta) ** 2
    area = math.pi * (math.sin(theta) * math.cos(theta) / scale) * (math.sin(theta) / math.sqrt(scale))
    assert seen == pytest.approx(area / (2 * scenes.FIELD) ** 2, rel=0.01)


@pytest.mark.parametrize("elevation", [30.0, 70.0])
def test_shadow_of_a_sphere_is_an_ellipse_where_the_light_passes_its_middle(elevation: float):
    size, azimuth = 0.8, 40.0
    scene = Scene.of(values(size=size, light_azimuth=azimuth, light_elevation=elevation), 1)
    light, turns = scene.light, torch.linspace(0, 2 * math.pi, 50, dtype=torch.float64)
    middle = -size / light.z * torch.stack([light.x, light.y])[:, 0, 0, None]
    long, wide = size / math.sin(math.radians(elevation)) * turns.cos(), size * turns.sin()
    a = math.radians(azimuth)
    for scale, visible in ((0.0, 0.0), (0.5, 0.0), (0.99, 0.0), (1.01, 1.0), (2.0, 1.0)):
        x = middle[0] + scale * (long * math.cos(a) - wide * math.sin(a))
        y = middle[1] + scale * (long * math.sin(a) + wide * math.cos(a))
        seen = scenes._visible(scene, vector(x, y, torch.zeros_like(x)), None)
        assert (seen == visible).all(), scale


def test_a_soft_shadow_fades_about_the_hard_one():
    hard, soft = (Scene.of(values(size=0.8, light_elevation=40, light_azimuth=0, shadow=k), 1) for k in (0, 1))
    x = torch.linspace(-6, 3, 400)
    p = vector(x, torch.zeros_like(x), torch.zeros_like(x))
    a, b = (scenes._visible(scene, p, None)[0] for scene in (hard, soft))
    assert set(a.tolist()) == {0.0, 1.0}
    assert ((b > 0) & (b < 1)).any()
    assert b[(x > -1.2) & (x < -0.8)].max() == 0  # under it
    assert abs(float(a.mean() - b.mean())) < 0.03


def test_an_upright_mirror_shows_what_is_seen_from_behind_it():
    shown = values(shape=1, size=1.0, reflectance=1.0, light_azimuth=0, camera_elevation=15, camera_distance=6, sky=1)
    scene = Scene.of(shown, 1)
    o, d = scenes.rays(shown, 64)
    t = scene.bodies[0].meets(o, d)
    p = o.along(d, torch.where(torch.isfinite(t), t, 0.0))
    face = torch.isfinite(t) & ((p.x - 0.8).abs() < 1e-6)
    assert face.sum() > 200
    empty = Scene.of(values(shape=1, size=1e-4, light_azimuth=0, sky=1), 1)
    behind = Vector(1.6 - o.x, o.y, o.z)
    truth = scenes._seen(empty, behind, Vector(-d.x, d.y, d.z))
    for ours, theirs in zip(scenes._seen(scene, o, d), truth, strict=True):
        assert torch.allclose(ours[face], theirs[face])


def test_a_matt_body_takes_the_light_that_its_disc_stops():
    r"""The mean of max(0, n.l) over a sphere is its disc by its surface, 1/4 (Lambert)."""
    n = 20_000
    z = 1 - 2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    turn, flat = torch.arange(n, dtype=torch.float64) * math.pi * (3 - math.sqrt(5)), (1 - z * z).sqrt()
    p = vector(flat * turn.cos(), flat * turn.sin(), z + 1)
    scene = Scene.of(values(size=1.0, reflectance=0.0, light_azimuth=130, light_elevation=35, light_intensity=0.6), 1)
    albedo = scenes.colour(scene.hues[0], 0.8, 0.8)
    light = scenes._surface(scene, 0, p, vector(0, 0, -1), bounces=False)
    for channel, rho in zip(light, albedo, strict=True):
        assert float(channel.mean() / rho) == pytest.approx(scenes.AMBIENT + 0.6 / 4, rel=1e-4)


def test_without_a_lamp_there_is_the_light_from_all_around_alone():
    dark = values(light_intensity=0.0, reflectance=0.0)
    light = scenes.radiance(dark, 32, samples=1)[0]
    o, d = scenes.rays(dark, 32)
    hit = torch.isfinite(body("sphere", 0.75).meets(o, d)).view(32, 32)
    albedo = scenes.colour(torch.zeros(1, 1, dtype=torch.float64), 0.8, 0.8)
    for channel, rho in zip(light, albedo, strict=True):
        assert torch.allclose(channel[hit], scenes.AMBIENT * rho)


@pytest.mark.parametrize("kind", ["sphere", "cylinder", "capsule"])
def test_camera_and_light_turned_together_leave_all_but_the_wall(kind: str):
    one, other = (
        values(shape=SHAPES.index(kind), reflectance=0, camera_azimuth=a, light_azimuth=(a + 50) % 360)
        for a in (0.0, 137.0)
    )
    a, b = (scenes.radiance(v, 48, samples=1)[0] for v in (one, other))
    o, d = scenes.rays(one, 48)
    below = (d.z < 0) & ((o.x - o.z / d.z * d.x) ** 2 + (o.y - o.z / d.z * d.y) ** 2 < scenes.ROOM**2)
    below = below.view(48, 48)
    assert torch.allclose(a[:, below], b[:, below], atol=1e-9)
    assert (a[:, ~below] - b[:, ~below]).abs().max() > 0.1
    light_alone = values(shape=SHAPES.index(kind), reflectance=0, camera_azimuth=137.0, light_azimuth=50)
    assert (a - scenes.radiance(light_alone, 48, samples=1)[0])[:, below].abs().max() > 0.1


def test_bytes_are_srgb():
    light = torch.tensor([0.0, 0.0031308, 0.2158605, 0.5, 1.0, 7.0])
    assert scenes.srgb(light).tolist() == [0, 10, 128, 188, 255, 255]


def test_a_pixel_is_the_mean_light_of_its_rays():
    x = torch.from_numpy(scenes.drawn(2, 1, 0))
    fine = scenes.radiance(x, 64, samples=1)
    assert torch.allclose(torch.nn.functional.avg_pool2d(fine, 2), scenes.radiance(x, 32, samples=2))


def test_pixels_like_their_neighbours_need_one_ray():
    """The picture of few rays is that of all but for details of less than a pixel."""
    x = torch.from_numpy(scenes.drawn(12, 1, 3))
    all_rays, few, one = (
        scenes.srgb(light).double()
        for light in (scenes.radiance(x, 48), scenes.refined(x, 48), scenes.radiance(x, 48, samples=1))
    )
    assert (few - all_rays).abs().mean() < 0.1 < (one - all_rays).abs().mean() / 5
    assert ((few - all_rays).abs() > 3).double().mean() < 0.001


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_a_scene_is_a_function_of_its_factors_alone(objects: int):
    x = scenes.drawn(12, objects, 5)
    whole = scenes.rendered(x, 32, objects=objects)
    assert whole.shape == (12, 3, 32, 32)
    assert whole.dtype == np.uint8
    apart = np.concatenate([scenes.rendered(x[i : i + 5], 32, objects=objects) for i in (0, 5, 10)])
    assert np.array_equal(whole, apart)
    precise = scenes.srgb(scenes.radiance(torch.from_numpy(x), 32, objects=objects)).numpy()
    assert np.abs(whole.astype(float) - precise).mean() < 0.5
    assert np.array_equal(scenes.drawn(5, objects, 5), x[:5])
    assert not np.array_equal(scenes.drawn(5, objects, 6), x[:5])


def test_every_factor_changes_the_picture():
    for objects in (1, 3):
        for factor in scenes.factors(objects):
            changed = scenes.rows([{factor.name: v, "sky": 0.5} | {factor.name: v} for v in factor.grid(3)], objects)
            changed[:, [f.name for f in scenes.factors(objects)].index("camera_elevation")] = 10  # wall and sky show
            if factor.name == "camera_elevation":
                changed = scenes.rows([{factor.name: v} for v in factor.grid(3)], objects)
            x = scenes.rendered(changed, 32, objects=objects, samples=1)
            assert len({row.tobytes() for row in x}) == len(x), factor.name


# ---- sprites


def sprite(shape: int = 0, scale: float = 1.0, orientation: float = 0.0, x: float = 0.5, y: float = 0.5) -> np.ndarray:
    return sprites.rendered(np.array([[shape, scale, orientation, x, y]]))[0, 0].astype(float)


def centroid(image: np.ndarray) -> np.ndarray:
    return np.array([(image.sum(k) * np.arange(sprites.SIZE)).sum() for k in (0, 1)]) / image.sum()


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_position_moves_a_sprite_linearly(shape: int):
    base = centroid(sprite(shape, 0.8, 20, 0, 0))
    for x, y in ((0.25, 0.75), (0.5, 0.5), (1.0, 1.0)):
        moved = centroid(sprite(shape, 0.8, 20, x, y)) - base
        assert moved == pytest.approx(sprites.ROOM * np.array([x, y]), abs=0.15)


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_scale_grows_a_sprite_quadratically(shape: int):
    areas = [sprite(shape, s, 20).sum() for s in (0.5, 0.75, 1.0)]
    assert areas[0] / areas[2] == pytest.approx(0.25, rel=0.05)
    assert areas[1] / areas[2] == pytest.approx(0.5625, rel=0.05)


def test_areas_are_those_of_the_shapes():
    a, b = sprites.AXES
    assert sprite(0, 1.0).sum() == pytest.approx(4 * sprites.EDGE**2, rel=0.02)
    assert sprite(1, 1.0, 33).sum() == pytest.approx(math.pi * a * b, rel=0.02)


@pytest.mark.parametrize(("shape", "period"), [(0, 90), (1, 180), (2, 360)])
def test_orientation_has_the_period_of_the_shape(shape: int, period: int):
    start = sprite(shape, 1.0, 9)
    assert np.abs(sprite(shape, 1.0, 9 + period) - start).sum() <= 4  # pixels on the edge
    for turned in (45, 90, 180):
        assert turned % period == 0 or np.abs(sprite(shape, 1.0, 9 + turned) - start).sum() > 20


def test_every_sprite_lies_within_its_frame():
    largest = np.array([[s, 1.0, o, x, y] for s in range(3) for o in range(0, 360, 45) for x in (0, 1) for y in (0, 1)])
    x = sprites.rendered(largest)
    assert x[:, :, [0, -1]].sum() == 0
    assert x[..., [0, -1]].sum() == 0


def test_combinations_are_all_different_and_no_more():
    assert sprites.COMBINATIONS == 737_280
    assert len(np.unique(sprites.combination(np.arange(0, 737_280, 97)), axis=0)) == len(range(0, 737_280, 97))
    drawn = sprites.drawn(50, 3)
    assert len(np.unique(drawn, axis=0)) == 50
    assert np.array_equal(drawn[:20], sprites.drawn(20, 3))
