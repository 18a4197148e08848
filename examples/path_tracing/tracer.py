"""A path tracer in numpy: all rays of a tile at once, vectors in arrays of shape (3, rays).

It uses only operations whose result IEEE 754 fixes to the last bit (no sines, powers or matrix
products), so that a tile is the same on whatever machine it was computed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]
Bools = NDArray[np.bool_]

TINY, FAR = 1e-4, 1e6
MAX_BOUNCES = 9
BRIGHTEST = 8.0  # of what comes from a later bounce: else a few paths show as white dots for long
GLASS_INDEX = 1.5
GLASS_MIRROR = 0.04  # what glass of this index reflects when seen from straight above


class Tile(NamedTuple):
    """A rectangle of the picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Sphere(NamedTuple):
    center: tuple[float, float, float]
    radius: float
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mirror: float = 0.0  # the share of light that it reflects when seen from straight above
    glass: bool = False


LAMP, LAMP_LIGHT = 0, np.array([[44.0], [34.0], [22.0]])
SCENE = (
    Sphere((-4.0, 5.5, 3.2), 1.2),
    Sphere((0.0, 1.0, 0.0), 1.0, glass=True),
    Sphere((-2.2, 1.0, -1.2), 1.0, (0.95, 0.76, 0.42), mirror=1.0),
    Sphere((2.15, 0.9, -0.9), 0.9, (0.7, 0.09, 0.07), mirror=0.05),
    Sphere((4.1, 1.3, -4.6), 1.3, (0.85, 0.83, 0.78)),
    Sphere((1.2, 0.4, 1.5), 0.4, (0.08, 0.25, 0.6), mirror=0.05),
    Sphere((-1.25, 0.42, 1.5), 0.42, (0.15, 0.45, 0.2)),
    Sphere((-0.3, 0.25, 2.1), 0.25, (0.92, 0.92, 0.95), mirror=1.0),
    Sphere((0.5, 0.2, 2.6), 0.2, (0.95, 0.5, 0.06), mirror=0.05),
    Sphere((2.3, 0.3, 1.2), 0.3, glass=True),
    Sphere((-2.6, 0.3, 0.8), 0.3, (0.5, 0.14, 0.5)),
)
FLOOR, SKY = len(SCENE), len(SCENE) + 1
COLOURS = np.array([sphere.colour for sphere in SCENE] + 2 * [(1.0, 1.0, 1.0)]).T
MIRRORS = np.array([sphere.mirror for sphere in SCENE] + 2 * [0.0])
GLASS = np.array([sphere.glass for sphere in SCENE] + 2 * [False])
CENTERS = np.array([sphere.center for sphere in SCENE] + 2 * [(0.0, 0.0, 0.0)]).T


def render(tile: Tile, picture: tuple[int, int], samples: int, seed: int) -> Array:
    """Give the light of each pixel, the sum over so many paths; shape (height, width, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
    light = np.zeros((3, rows.size))
    for _ in range(samples):
        x, y = columns.ravel() + rng.random(rows.size), rows.ravel() + rng.random(rows.size)
        light += trace(*camera(x, y, picture, rng), rng)
    return light.T.reshape(tile.height, tile.width, 3)


def camera(
    x: Array, y: Array, picture: tuple[int, int], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Give rays through these points of the picture, from a lens that is sharp at the front."""
    width, height = picture
    eye, target, lens, sharp = column(0.4, 2.1, 8.0), column(0.0, 0.75, 0.0), 0.06, 7.2
    forward = unit(target - eye)
    right = unit(cross(forward, column(0, 1, 0)))
    up = cross(right, forward)
    aside, above = 0.66 * (x - width / 2) / height, 0.66 * (height / 2 - y) / height
    dx, dy, _ = lens * random_units(x.size, rng)
    start = eye + dx * right + dy * up
    return start, unit(eye + sharp * (forward + aside * right + above * up) - start)


def trace(start: Array, direction: Array, rng: np.random.Generator) -> Array:
    """Follow rays through the scene; give the light that comes back along each of them."""
    light, weight = np.zeros(start.shape), np.ones(start.shape)
    rays = np.arange(start.shape[1])
    sees_lamp = np.ones(rays.size, bool)  # matt surfaces have asked the lamp by themselves
    for bounce in range(MAX_BOUNCES):
        what, distance = nearest(start, direction)
        shine = weight * np.where(what == SKY, sky(direction), 0)
        shine += weight * np.where((what == LAMP) & sees_lamp, LAMP_LIGHT, 0)
        light[:, rays] += np.minimum(shine, BRIGHTEST if bounce else FAR)

        goes_on = (what != SKY) & (what != LAMP)
        if bounce > 2:  # most of the dark ones end, and those that are left stand for them
            chance = np.minimum(weight.max(axis=0), 1)
            goes_on &= rng.random(rays.size) < chance
            weight = weight / np.maximum(chance, TINY)
        rays, what = rays[goes_on], what[goes_on]
        weight, direction = weight[:, goes_on], direction[:, goes_on]
        if not rays.size:
            break
        point = start[:, goes_on] + distance[goes_on] * direction
        normal = np.where(what == FLOOR, column(0, 1, 0), unit(point - CENTERS[:, what]))
        entering = dot(normal, direction) < 0
        normal = np.where(entering, normal, -normal)

        mirror, glass = MIRRORS[what], GLASS[what]
        edge = 1 + dot(normal, direction)  # 0 seen from straight above, 1 from the side
        fresnel = (1 - mirror) * edge * edge * edge * edge * edge
        shiny = ~glass & (mirror > 0) & (rng.random(rays.size) < mirror + fresnel)
        matt = ~glass & ~shiny
        weight = np.where(matt | (mirror == 1), weight * colour(what, point), weight)
        asked = weight[:, matt] * from_lamp(point[:, matt], normal[:, matt], rng)
        light[:, rays[matt]] += np.minimum(asked, BRIGHTEST)

        onward = unit(normal + random_units(rays.size, rng))
        onward = np.where(shiny, reflect(direction, normal), onward)
        onward = np.where(glass, through_glass(direction, normal, entering, rng), onward)
        side = np.where(dot(onward, normal) < 0, -TINY, TINY)
        start, direction, sees_lamp = point + side * normal, onward, ~matt
    return light


def nearest(start: Array, direction: Array) -> tuple[Numbers, Array]:
    """Say what each ray meets first, as a number in the tables above, and how far away that is."""
    down = np.minimum(direction[1], -1 / FAR)
    distance = np.minimum(np.where(direction[1] < 0, -start[1] / down, FAR), FAR)
    what = np.where(distance < FAR, FLOOR, SKY)
    for number in range(len(SCENE)):
        found = distance_to(number, start, direction)
        closer = found < distance
        distance = np.where(closer, found, distance)
        what = np.where(closer, number, what)
    return what, distance


def distance_to(number: int, start: Array, direction: Array) -> Array:
    """Solve the quadratic equation of a ray and a sphere; FAR where they do not meet."""
    sphere = SCENE[number]
    offset = start - column(*sphere.center)
    half = dot(offset, direction)
    root2 = half * half - dot(offset, offset) + sphere.radius * sphere.radius
    root = np.sqrt(np.maximum(root2, 0))
    first, second = -half - root, -half + root
    found = np.where(first > TINY, first, second)
    return np.where((root2 > 0) & (found > TINY), found, FAR)


def from_lamp(point: Array, normal: Array, rng: np.random.Generator) -> Array:
    """Give the light that a point of the lamp, chosen at random, sends to a matt surface."""
    lamp = SCENE[LAMP]
    across = random_units(point.shape[1], rng)
    toward = point - column(*lamp.center)
    across = np.where(dot(across, toward) < 0, -across, across)
    way = column(*lamp.center) + lamp.radius * across - point
    distance = np.sqrt(dot(way, way))
    way = way / distance
    cosines = np.maximum(dot(normal, way), 0) * np.maximum(-dot(across, way), 0)
    lit = cosines > 0
    start = point + TINY * normal
    for number in range(LAMP + 1, len(SCENE)):
        lit[lit] = distance_to(number, start[:, lit], way[:, lit]) > distance[lit]
    share = lit * cosines * 2 * lamp.radius * lamp.radius / (distance * distance)
    found: Array = share * LAMP_LIGHT
    return found


def through_glass(
    direction: Array, normal: Array, entering: Bools, rng: np.random.Generator
) -> Array:
    """Refract or, as often as Schlick's approximation says, reflect; normals face the rays."""
    ratio = np.where(entering, 1 / GLASS_INDEX, GLASS_INDEX)
    cosine = -dot(direction, normal)
    root2 = 1 - ratio * ratio * (1 - cosine * cosine)
    root = np.sqrt(np.maximum(root2, 0))
    edge = 1 - np.where(entering, cosine, root)
    share = GLASS_MIRROR + (1 - GLASS_MIRROR) * edge * edge * edge * edge * edge
    reflects = (root2 < 0) | (rng.random(cosine.size) < share)
    refracted = unit(ratio * direction + (ratio * cosine - root) * normal)
    return np.where(reflects, reflect(direction, normal), refracted)


def colour(what: Numbers, point: Array) -> Array:
    squares = (np.floor(point[0] / 1.2) + np.floor(point[2] / 1.2)) % 2 == 0
    floor = np.where(squares, column(0.66, 0.6, 0.52), column(0.2, 0.19, 0.2))
    return np.where(what == FLOOR, floor, COLOURS[:, what])


def sky(direction: Array) -> Array:
    height = np.minimum(2 * np.maximum(direction[1], 0), 1)
    height = height * (2 - height)
    shown: Array = column(0.95, 0.66, 0.45) * (1 - height) + column(0.17, 0.3, 0.6) * height
    return shown


def reflect(direction: Array, normal: Array) -> Array:
    return direction - 2 * dot(direction, normal) * normal


def random_units(count: int, rng: np.random.Generator) -> Array:
    """Give vectors of length 1 in all directions alike: a cube's points that are in its sphere."""
    found = np.empty((3, 0))
    while found.shape[1] < count:
        cube = 2 * rng.random((3, 2 * count + 8)) - 1
        length2 = dot(cube, cube)
        found = np.concatenate((found, cube[:, (length2 < 1) & (length2 > TINY)]), axis=1)
    return unit(found[:, :count])


def dot(one: Array, other: Array) -> Array:
    products = one * other
    total: Array = products[0] + products[1] + products[2]
    return total


def cross(one: Array, other: Array) -> Array:
    (a, b, c), (x, y, z) = one, other
    return np.array([b * z - c * y, c * x - a * z, a * y - b * x])


def unit(vectors: Array) -> Array:
    return vectors / np.sqrt(dot(vectors, vectors))


def column(x: float, y: float, z: float) -> Array:
    return np.array([[x], [y], [z]])
