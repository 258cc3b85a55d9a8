"""Rays and the bodies they meet.

Everything is a structure of arrays: a vector is three tensors that broadcast to [B, P], images by rays. A distance is
infinite where nothing is hit. Bodies stand on the floor z = 0 upon the point (x, y).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-9  # keeps reciprocals finite
NEAR = 1e-4  # a ray that starts at a body does not meet it at once


class Vector(NamedTuple):
    """Three coordinates, [B, P] each or what broadcasts to it."""

    x: Tensor
    y: Tensor
    z: Tensor

    def dot(self, other: "Vector") -> Tensor:
        return self.x * other.x + self.y * other.y + self.z * other.z

    def along(self, other: "Vector", t: Tensor | float) -> "Vector":
        """self + t other."""
        return Vector(self.x + t * other.x, self.y + t * other.y, self.z + t * other.z)

    def minus(self, other: "Vector") -> "Vector":
        return Vector(self.x - other.x, self.y - other.y, self.z - other.z)

    def unit(self) -> "Vector":
        scale = self.dot(self).rsqrt()
        return Vector(self.x * scale, self.y * scale, self.z * scale)

    def rows(self, index: Tensor) -> "Vector":
        return Vector(*(c[index] for c in self))

    def at(self, places: tuple[Tensor, ...], like: "Vector") -> "Vector":
        """The vectors at places (image [M], ray [M]) of a batch like another: [M, 1]."""
        return Vector(*(c.expand_as(like.x)[places][:, None] for c in self))


class Shape(NamedTuple):
    """A body of size 1: `meets(o, d)` is the distance to it along rays that start at o, `normal(p)` points outwards.

    It lies in the ball of radius `within` around (0, 0, middle).
    """

    meets: Callable[[Vector, Vector], Tensor]
    normal: Callable[[Vector], Vector]
    middle: float
    within: float


def _never(t: Tensor, hit: Tensor) -> Tensor:
    return torch.where(hit & (t > NEAR), t, torch.inf)


def _inverse(d: Tensor) -> Tensor:
    return 1 / torch.where(d.abs() < TINY, TINY, d)


def _ball(o: Vector, d: Vector, z: float, r: float) -> Tensor:
    """Distance to a ball of radius r around (0, 0, z): the smaller root of |o + t d|^2 = r^2."""
    q = Vector(o.x, o.y, o.z - z)
    b = q.dot(d)
    h = b * b - (q.dot(q) - r * r)
    return _never(-b - h.clamp_min(0).sqrt(), h > 0)


def _tube(o: Vector, d: Vector, r: float, low: float, high: float) -> Tensor:
    """Distance to the side of an upright cylinder of radius r from z = low to high."""
    a = d.x * d.x + d.y * d.y
    b = o.x * d.x + o.y * d.y
    h = b * b - a * (o.x * o.x + o.y * o.y - r * r)
    t = (-b - h.clamp_min(0).sqrt()) / a.clamp_min(TINY)
    z = o.z + t * d.z
    return _never(t, (h > 0) & (z >= low) & (z <= high))


BALL = 1.0  # radius
HALF = 0.8  # half an edge of the box
TUBE, TALL = 0.75, 1.8  # radius and height of the cylinder
ROUND, STRAIGHT = 0.6, 1.0  # radius of the capsule, and height of its straight part


def _sphere(o: Vector, d: Vector) -> Tensor:
    return _ball(o, d, BALL, BALL)


def _sphere_normal(p: Vector) -> Vector:
    return Vector(p.x, p.y, p.z - BALL)


def _box(o: Vector, d: Vector) -> Tensor:
    near = far = None
    for start, step in ((o.x, d.x), (o.y, d.y), (o.z - HALF, d.z)):
        inverse = _inverse(step)
        middle, half = -start * inverse, inverse.abs() * HALF
        enter, leave = middle - half, middle + half
        near = enter if near is None else torch.maximum(near, enter)
        far = leave if far is None else torch.minimum(far, leave)
    assert near is not None
    assert far is not None
    return _never(near, near < far)


def _box_normal(p: Vector) -> Vector:
    z = p.z - HALF
    x, y, up = p.x.abs(), p.y.abs(), z.abs()
    on_x = (x >= y) & (x >= up)
    on_y = ~on_x & (y >= up)
    zero = torch.zeros_like(x)
    return Vector(
        torch.where(on_x, p.x.sign(), zero),
        torch.where(on_y, p.y.sign(), zero),
        torch.where(on_x | on_y, zero, z.sign()),
    )


def _cylinder(o: Vector, d: Vector) -> Tensor:
    t = (TALL - o.z) * _inverse(d.z)
    x, y = o.x + t * d.x, o.y + t * d.y
    lid = _never(t, (x * x + y * y <= TUBE * TUBE) & (d.z < 0))
    return torch.minimum(lid, _tube(o, d, TUBE, 0.0, TALL))


def _cylinder_normal(p: Vector) -> Vector:
    lid = p.x * p.x + p.y * p.y < TUBE**2 * (1 - 1e-3)
    zero = torch.zeros_like(p.x)
    return Vector(torch.where(lid, zero, p.x), torch.where(lid, zero, p.y), lid.to(p.x.dtype))


def _capsule(o: Vector, d: Vector) -> Tensor:
    low, high = ROUND, ROUND + STRAIGHT
    ends = torch.minimum(_ball(o, d, low, ROUND), _ball(o, d, high, ROUND))
    return torch.minimum(ends, _tube(o, d, ROUND, low, high))


def _capsule_normal(p: Vector) -> Vector:
    return Vector(p.x, p.y, p.z - p.z.clamp(ROUND, ROUND + STRAIGHT))


SHAPES = {
    "sphere": Shape(_sphere, _sphere_normal, BALL, BALL),
    "box": Shape(_box, _box_normal, HALF, HALF * math.sqrt(3)),
    "cylinder": Shape(_cylinder, _cylinder_normal, TALL / 2, math.hypot(TUBE, TALL / 2)),
    "capsule": Shape(_capsule, _capsule_normal, ROUND + STRAIGHT / 2, ROUND + STRAIGHT / 2),
}


class Body(NamedTuple):
    """One object in each image: [B, 1] each; `kind` [B] is a place in SHAPES."""

    kind: Tensor
    size: Tensor
    x: Tensor
    y: Tensor

    def rows(self, index: Tensor) -> "Body":
        return Body(*(values[index] for values in self))

    def own(self, p: Vector) -> Vector:
        """A point as the body of size 1 around the origin sees it."""
        scale = 1 / self.size
        return Vector((p.x - self.x) * scale, (p.y - self.y) * scale, p.z * scale)

    def near(self, o: Vector, d: Vector, spread: float = 0.0) -> tuple[Tensor, ...]:
        """Where unit rays d from o may meet the body: those that pass its ball, places (image [M], ray [M]).

        spread: of a bundle of rays around d, the tangent of its half angle.
        """
        middle, within = (
            torch.tensor([getattr(shape, name) for shape in SHAPES.values()], dtype=self.size.dtype)[self.kind, None]
            * self.size
            for name in ("middle", "within")
        )
        q = Vector(self.x - o.x, self.y - o.y, middle - o.z)
        b = q.dot(d)
        reach = within * (1 + 1e-3) + spread * b.abs() if spread else within * (1 + 1e-3)
        return ((q.dot(q) - b * b <= reach * reach) & (b > -within)).nonzero(as_tuple=True)

    def meets(self, o: Vector, d: Vector) -> Tensor:
        """Distance to the body along unit rays d that start at o: [B, P]."""
        at = self.near(o, d)
        found = torch.full_like(d.x, torch.inf)
        found[at] = self.rows(at[0]).met(o.at(at, d), d.at(at, d))[:, 0]
        return found

    def met(self, o: Vector, d: Vector) -> Tensor:
        """The same of rays that are known to be near: [M, 1]."""
        return self._by_kind(lambda shape, body, p, d: shape.meets(body.own(p), d) * body.size, o, d)

    def normal(self, p: Vector) -> Vector:
        """The unit normal at points of its surface."""

        def of(shape: Shape, body: "Body", p: Vector, _: Vector) -> Tensor:
            return torch.stack(list(shape.normal(body.own(p)).unit()))

        return Vector(*self._by_kind(of, p, p))

    def _by_kind(self, of: Callable[[Shape, "Body", Vector, Vector], Tensor], p: Vector, d: Vector) -> Tensor:
        """Images are grouped by their shape, so that no shape is computed of an image that hasn't got it."""
        found: Tensor | None = None
        if not len(self.kind):
            return of(SHAPES["sphere"], self, p, d)
        for place, shape in enumerate(SHAPES.values()):
            rows = (self.kind == place).nonzero()[:, 0]
            if not len(rows):
                continue
            if len(rows) == len(self.kind):
                return of(shape, self, p, d)
            part = of(shape, self.rows(rows), p.rows(rows), d.rows(rows))
            if found is None:
                found = part.new_empty(*part.shape[:-2], len(self.kind), part.shape[-1])
            found.index_copy_(found.dim() - 2, rows, part)
        assert found is not None
        return found


def direction(azimuth: Tensor, elevation: Tensor) -> Vector:
    """The unit vector of angles in degrees.

    In double precision before it is rounded: the last bit of a sine may depend on the numbers beside it.
    """
    a, e = (angle.double() * (math.pi / 180) for angle in (azimuth, elevation))
    return Vector(*(c.to(azimuth.dtype) for c in (e.cos() * a.cos(), e.cos() * a.sin(), e.sin())))
