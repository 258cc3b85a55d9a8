r"""Scenes: bodies on the floor of a round room, cast by rays. A picture is a function of its factors alone.

Light of one direction falls on floor and bodies (Lambert), beside that of all around:

.. math:: L = \rho (a + I \max(0, n \cdot l) v), \qquad L_r = (1 - r) L + r L(\text{mirrored ray})

with v the share of the light that is not hidden and r the body's reflectance; a mirrored ray bounces no further. The
floor and the bodies know the room's directions by the light alone: turned with the camera, they stay as they are, but
for a box. The wall is brighter where x is large.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound.data.attributes import Factor
from lowerbound.data.rendered.rays import SHAPES, Body, Vector, direction
from lowerbound.noise import key

AMBIENT = 0.2
ROOM, WALL = 10.0, 2.5  # radius of the room, and height of its wall
AIM = 0.8  # the height that the camera looks at
FIELD = math.tan(math.radians(22.5))  # half the picture, one away from the camera
RING = 1.5  # how far several bodies stand from the middle
SOFT = 0.15  # radius of a soft light, one away
SPREAD = 1.1 * SOFT  # what rays to it pass at most beside its middle, one away
SEEN = 12  # points of it
MOST = 3  # bodies
BLOCK = 2**19  # rays cast together
ROUGH = 0.02  # difference of square roots of light between neighbours, above which a pixel is looked at more closely


def factors(objects: int = 1) -> tuple[Factor, ...]:
    """What a scene of 1 to 3 bodies is made from; of several, their names begin with object1_, object2_, object3_."""
    names = ["object"] if objects == 1 else [f"object{k + 1}" for k in range(objects)]
    return (
        *(factor for name in names for factor in _of_body(name)),
        *([_degrees("arrangement")] if objects > 1 else []),
        _degrees("light_azimuth"),
        Factor(name="light_elevation", low=25, high=80, unit="deg"),
        Factor(name="light_intensity", low=0.3, high=1.0),
        Factor(name="shadow", kind="categorical", values=("hard", "soft")),
        _hue("wall_hue"),
        _hue("floor_hue"),
        Factor(name="sky"),
        _degrees("camera_azimuth"),
        Factor(name="camera_elevation", low=10, high=60, unit="deg"),
        Factor(name="camera_distance", low=4, high=8),
    )


def _of_body(name: str) -> tuple[Factor, ...]:
    begins = "" if name == "object" else f"{name}_"
    return (
        Factor(name=f"{begins}shape", kind="categorical", values=tuple(SHAPES)),
        Factor(name=f"{begins}size", low=0.5, high=1.0),
        _hue(f"{name}_hue"),
        Factor(name=f"{begins}reflectance"),
    )


def _degrees(name: str) -> Factor:
    return Factor(name=name, kind="circular", low=0, high=360, unit="deg")


def _hue(name: str) -> Factor:
    return Factor(name=name, kind="circular", low=0, high=1, unit="turns")


def usual(objects: int = 1) -> dict[str, float]:
    """A scene in the middle of the ranges, to change one factor of."""
    found = {f.name: (f.low + f.high) / 2 if f.kind == "continuous" else 0.0 for f in factors(objects)}
    shown = {
        "light_azimuth": 60.0,
        "camera_azimuth": 0.0,
        "wall_hue": 0.6,
        "floor_hue": 0.1,
        "camera_elevation": 14.0,
        "camera_distance": 5.0,
    }
    hues = {n: k / 3 for k, n in enumerate(n for n in found if n.startswith("object") and n.endswith("hue"))}
    return found | shown | hues | {n: 0.1 for n in found if n.endswith("reflectance")}


def drawn(n: int, objects: int, seed: int, views: int = 1) -> np.ndarray:
    """Factors of n scenes, uniform in their ranges: float64 [n, F]. The first rows are the same for every n.

    views: of each scene so many rows, one after another, which differ by the camera alone: float64 [n * views, F].
    """
    known = factors(objects)
    u = np.random.default_rng(key(seed, "scenes")).random((n, len(known))).repeat(views, 0)
    if views > 1:
        camera = [i for i, f in enumerate(known) if f.name.startswith("camera_")]
        u[:, camera] = np.random.default_rng(key(seed, "cameras")).random((n * views, len(camera)))
    for i, f in enumerate(known):
        u[:, i] = np.floor(u[:, i] * len(f.values)) if f.values else f.low + u[:, i] * (f.high - f.low)
    return u


def rendered(values: np.ndarray, size: int, *, objects: int = 1, samples: int = 2) -> np.ndarray:
    """Pictures of scenes, of their factors [n, F] in the order of `factors`: uint8 [n, 3, size, size], sRGB.

    samples: rays of a pixel in each direction, where it differs from its neighbours; else there is one in its middle.
    """
    n = max(1, BLOCK // size**2)
    parts = [torch.from_numpy(np.ascontiguousarray(values[i : i + n], np.float32)) for i in range(0, len(values), n)]
    return np.concatenate([srgb(refined(part, size, objects=objects, samples=samples)).numpy() for part in parts])


def srgb(light: Tensor) -> Tensor:
    """Light in [0, 1], and what is brighter as 1, as the bytes of sRGB (IEC 61966-2-1): uint8, of the same shape.

    It is compared with the light at which each byte begins: a power's last bit may depend on the numbers beside it.
    """
    x = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    begins = torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055).pow(2.4))
    return torch.bucketize(light, begins.to(light.dtype), right=True, out_int32=True).to(torch.uint8)


def refined(values: Tensor, size: int, *, objects: int = 1, samples: int = 2) -> Tensor:
    """Nearly `radiance`, for less than half of the rays: one for a pixel whose neighbours are like it."""
    whole = radiance(values, size, objects=objects, samples=1)
    if samples == 1:
        return whole
    image, row, column = (contrast(whole) > ROUGH).nonzero(as_tuple=True)
    part = (torch.arange(samples).repeat(samples), torch.arange(samples).repeat_interleave(samples))
    across, down = (samples * at[:, None] + k for at, k in zip((column, row), part, strict=True))  # [M, samples^2]
    eye = Eye.of(values, objects).rows(image)
    light = _seen(Scene.of(values, objects).rows(image), eye.place, eye.towards(across, down, size * samples))
    for k, channel in enumerate(light):
        whole[image, k, row, column] = sum(channel.unbind(1)) / samples**2
    return whole


def contrast(light: Tensor) -> Tensor:
    """The most that a channel differs within the 3 x 3 pixels around each, in square roots, which eyes see by:
    [B, 3, H, W] -> [B, H, W]."""
    x = F.pad(light.clamp(0, 1).sqrt(), (1, 1, 1, 1), mode="replicate")
    return (_of_three_by_three(torch.maximum, x) - _of_three_by_three(torch.minimum, x)).amax(1)


def _of_three_by_three(best: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """The largest, or the smallest, around each inner pixel of [..., H, W]; four times as fast as max_pool2d."""
    x = best(best(x[..., :-2], x[..., 2:]), x[..., 1:-1])
    return best(best(x[..., :-2, :], x[..., 2:, :]), x[..., 1:-1, :])


def radiance(values: Tensor, size: int, *, objects: int = 1, samples: int = 2) -> Tensor:
    """The light that reaches each pixel, linear, mean of its rays: [B, 3, size, size] in the dtype of values [B, F]."""
    scene = Scene.of(values, objects)
    o, d = rays(values, size * samples, objects)
    light = torch.stack([c.expand_as(d.x) for c in _seen(scene, o, d)], 1)
    whole = light.view(len(values), 3, size, samples, size, samples)
    return whole.mean((3, 5)) if samples > 1 else whole[:, :, :, 0, :, 0]


def rays(values: Tensor, side: int, objects: int = 1) -> tuple[Vector, Vector]:
    """Where the camera is, [B, 1], and the directions that side x side pixels look in, [B, side^2]; the first row of
    pixels is the highest."""
    eye, each = Eye.of(values, objects), torch.arange(side)
    return eye.place, eye.towards(each.repeat(side)[None], each.repeat_interleave(side)[None], side)


class Eye(NamedTuple):
    """The cameras of B scenes: where they are, and which way is away from the scene, right and up, [B, 1] each."""

    place: Vector
    away: Vector
    right: Vector
    up: Vector

    @staticmethod
    def of(values: Tensor, objects: int) -> "Eye":
        column = {f.name: values[:, [i]] for i, f in enumerate(factors(objects))}
        azimuth, elevation = column["camera_azimuth"], column["camera_elevation"]
        zero, away = torch.zeros_like(azimuth), direction(azimuth, elevation)
        place = Vector(zero, zero, zero + AIM).along(away, column["camera_distance"])
        return Eye(place, away, direction(azimuth + 90, zero), direction(azimuth + 180, 90 - elevation))

    def rows(self, index: Tensor) -> "Eye":
        return Eye(*(vector.rows(index) for vector in self))

    def towards(self, across: Tensor, down: Tensor, side: int) -> Vector:
        """The unit directions of pixels in these columns and rows of side x side: [B, P]."""
        u, v = (((at.to(self.up.z.dtype) + 0.5) * (2 / side) - 1) * FIELD for at in (across, down))
        return Vector(*(-c for c in self.away)).along(self.right, u).along(self.up, -v).unit()


class Scene(NamedTuple):
    """The factors of B scenes: [B, 1] each, of bodies a tuple."""

    bodies: tuple[Body, ...]
    hues: tuple[Tensor, ...]
    reflectances: tuple[Tensor, ...]
    light: Vector
    intensity: Tensor
    soft: Tensor  # bool
    wall: Tensor
    floor: Tensor
    sky: Tensor

    @staticmethod
    def of(values: Tensor, objects: int) -> "Scene":
        column = {f.name: values[:, [i]] for i, f in enumerate(factors(objects))}
        bodies, hues, reflectances, zero = [], [], [], torch.zeros_like(column["sky"])
        for k in range(objects):
            shape, size, hue, reflectance = (values[:, [i]] for i in range(4 * k, 4 * k + 4))  # as in `factors`
            place = direction(column.get("arrangement", zero) + 360 * k / objects, zero)
            ring = RING if objects > 1 else 0.0
            bodies.append(Body(shape[:, 0].long(), size, ring * place.x, ring * place.y))
            hues.append(hue)
            reflectances.append(reflectance)
        return Scene(
            tuple(bodies),
            tuple(hues),
            tuple(reflectances),
            direction(column["light_azimuth"], column["light_elevation"]),
            column["light_intensity"],
            column["shadow"] > 0.5,
            column["wall_hue"],
            column["floor_hue"],
            column["sky"],
        )

    def rows(self, index: Tensor) -> "Scene":
        """The scenes of these images [M]."""
        return Scene(
            tuple(body.rows(index) for body in self.bodies),
            tuple(hue[index] for hue in self.hues),
            tuple(r[index] for r in self.reflectances),
            self.light.rows(index),
            *(values[index] for values in self[4:]),  # type: ignore[union-attr]
        )


def colour(hue: Tensor, saturation: float, value: float) -> Vector:
    """The colour of a hue in [0, 1), red at 0, green at 1/3: its red, green and blue, linear."""
    whole = [((hue * 6 + k) % 6 - 3).abs() - 1 for k in (0.0, 4.0, 2.0)]
    return Vector(*(value * (1 - saturation * (1 - c.clamp(0, 1))) for c in whole))


def _seen(scene: Scene, o: Vector, d: Vector, leaves: int | None = None) -> Vector:
    """What comes along unit rays d from o: the room, and bodies before it.

    leaves: the body that the rays start at, which is convex and can't be met again; such rays bounce no further.
    """
    found = _room(scene, o, d)
    others = [k for k in range(len(scene.bodies)) if k != leaves]
    if not others:
        return found
    t, which = torch.stack([scene.bodies[k].meets(o, d) for k in others]).min(0)
    for place, k in enumerate(others):
        at = (torch.isfinite(t) & (which == place)).nonzero(as_tuple=True)
        if not len(at[0]):
            continue
        own, step = scene.rows(at[0]), d.at(at, d)
        p = o.at(at, d).along(step, t[at][:, None])
        for channel, light in zip(found, _surface(own, k, p, step, bounces=leaves is None), strict=True):
            channel[at] = light[:, 0]
    return found


def _surface(scene: Scene, k: int, p: Vector, d: Vector, *, bounces: bool) -> Vector:
    """The light that leaves points p of body k against d."""
    n = scene.bodies[k].normal(p)
    facing = n.dot(scene.light).clamp_min(0)
    own = _lit(scene, colour(scene.hues[k], 0.8, 0.8), facing, p, k)
    if not bounces:
        return own
    mirrored, r = _seen(scene, p, d.along(n, -2 * d.dot(n)), leaves=k), scene.reflectances[k]
    return Vector(*((1 - r) * a + r * b for a, b in zip(own, mirrored, strict=True)))


def _lit(scene: Scene, albedo: Vector, facing: Tensor, p: Vector, leaves: int | None) -> Vector:
    """A matt surface: what it makes of the light from all around and from the lamp."""
    light = AMBIENT + scene.intensity * facing * _visible(scene, p, leaves)
    return Vector(*(c * light for c in albedo))


def _visible(scene: Scene, p: Vector, leaves: int | None) -> Tensor:
    """The share of the lamp that points p see past all bodies but the one that they lie on: [B, P]."""
    seen = torch.ones_like(p.x)
    hidden = [(body, body.near(p, scene.light, SPREAD)) for k, body in enumerate(scene.bodies) if k != leaves]
    if not sum(len(at[0]) for _, at in hidden):
        return seen
    where = torch.zeros_like(p.x, dtype=torch.bool)
    for _, at in hidden:
        where[at] = True
    at = where.nonzero(as_tuple=True)
    seen[at] = _past([body.rows(at[0]) for body, _ in hidden], p.at(at, p), scene.light.rows(at[0]), scene.soft[at[0]])
    return seen


def _past(bodies: list[Body], p: Vector, light: Vector, soft: Tensor) -> Tensor:
    """The share of the lamp that points p [M, 1] see past bodies: [M]."""
    seen = torch.ones_like(p.x[:, 0])
    for rows, points in (((~soft[:, 0]).nonzero()[:, 0], _point), (soft[:, 0].nonzero()[:, 0], _lamp)):
        at, own = p.rows(rows), [body.rows(rows) for body in bodies]
        free = [torch.stack([body.met(at, l) for body in own]).amin(0).isinf() for l in points(light.rows(rows))]
        seen[rows] = torch.stack(free).to(seen.dtype).mean(0)[:, 0]
    return seen


def _point(light: Vector) -> list[Vector]:
    return [light]


def _lamp(light: Vector) -> list[Vector]:
    """Directions to the points of a round lamp, spread by the golden angle."""
    flat = (light.x * light.x + light.y * light.y).sqrt()
    zero = torch.zeros_like(flat)
    side = Vector(-light.y / flat, light.x / flat, zero)
    over = Vector(-light.x * light.z / flat, -light.y * light.z / flat, flat)
    found = []
    for k in range(SEEN):
        r, turn = SOFT * math.sqrt((k + 0.5) / SEEN), k * math.pi * (3 - math.sqrt(5))
        found.append(light.along(side, r * math.cos(turn)).along(over, r * math.sin(turn)).unit())
    return found


def _room(scene: Scene, o: Vector, d: Vector) -> Vector:
    """Floor, wall and sky, as a ray from inside the room sees them."""
    a, b = (d.x * d.x + d.y * d.y).clamp_min(1e-9), o.x * d.x + o.y * d.y
    to_wall = (-b + (b * b + a * (ROOM * ROOM - o.x * o.x - o.y * o.y)).sqrt()) / a
    height = o.z + to_wall * d.z
    to_floor = torch.where(height < 0, -o.z / torch.where(height < 0, d.z, -1.0), 0.0)
    floor = _lit(scene, colour(scene.floor, 0.5, 0.7), scene.light.z, o.along(d, to_floor), None)
    bright = 0.5 + 0.35 * (o.x + to_wall * d.x) / ROOM
    wall = colour(scene.wall, 0.6, 0.8)
    up = d.z.clamp_min(0)
    dusk, day = (0.04, 0.03, 0.08), (0.55, 0.7, 0.95)
    found = []
    for ground, paint, low, high in zip(floor, wall, dusk, day, strict=True):
        air = (low + scene.sky * (high - low)) * (1 - 0.5 * up)
        found.append(torch.where(height < 0, ground, torch.where(height < WALL, paint * bright, air)))
    return Vector(*found)


def one(values: dict[str, float], size: int, *, objects: int = 1) -> np.ndarray:
    """The picture of one scene, of factors by name; those that aren't named are usual: uint8 [3, size, size]."""
    return rendered(rows([values], objects), size, objects=objects)[0]


def rows(scenes: Sequence[dict[str, float]], objects: int = 1) -> np.ndarray:
    """Factors by name as numbers in the order of `factors`: float64 [n, F]."""
    standard = usual(objects)
    return np.array([[(standard | scene)[f.name] for f in factors(objects)] for scene in scenes])
