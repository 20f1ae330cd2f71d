"""Drawing of one face with cv2: hair, jaw, brows, wrinkles and grey hair show gender and age.

People can read them, and small networks can learn them. Everything is drawn on a canvas of CANVAS at twice the photo's
size, then turned, shifted, lit, shrunk and made grainy.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from maskcls.data.demo.brush import Colour, Image, Point, blob, curve, mix, oval, ring, shade

WIDTH_PX, HEIGHT_PX = 120, 160
CANVAS = (240, 320)  # width, height
CENTRE_X = 120.0

SKINS: Sequence[Colour] = ((250, 222, 198), (240, 205, 175), (226, 184, 148), (200, 152, 115), (150, 105, 78))
HAIRS: Sequence[Colour] = ((35, 28, 26), (62, 42, 32), (98, 62, 38), (150, 98, 55), (205, 165, 100))
CLOTHES: Sequence[Colour] = (
    (70, 96, 140),
    (160, 70, 78),
    (80, 128, 104),
    (92, 84, 120),
    (196, 160, 92),
    (70, 74, 84),
    (210, 196, 186),
)
BACKGROUNDS: Sequence[Colour] = (
    (206, 218, 226),
    (226, 214, 200),
    (204, 220, 204),
    (220, 208, 222),
    (190, 200, 212),
    (232, 226, 208),
)
MASKS: Sequence[Colour] = (
    (244, 246, 248),
    (158, 200, 226),
    (46, 48, 54),
    (238, 186, 196),
    (150, 196, 170),
    (128, 136, 150),
)
GREY_HAIR: Colour = (216, 216, 220)
WORN, NOSE_OUT, ON_CHIN, NONE = "worn", "nose out", "on the chin", "none"


@dataclass(frozen=True)
class Face:
    """What is the same in all photos of a person."""

    female: bool
    long_hair: bool
    age_group: int  # 0..2
    skin: Colour
    hair: Colour
    clothes: Colour
    background: Colour
    jaw: float  # half width of the jaw, canvas px
    brow: float  # thickness, canvas px
    parting: float  # -1 (left) .. 1 (right)
    bald: bool
    beard: bool
    glasses: bool


@dataclass(frozen=True)
class Shot:
    """What differs from photo to photo."""

    mask: str  # WORN, NOSE_OUT, ON_CHIN or NONE
    mask_colour: Colour
    smile: float  # -1..1
    gaze: float  # -1..1
    turn_degrees: float
    shift_px: Point
    scale: float
    light: float  # 1: as drawn
    warmth: float  # -1 (blue) .. 1 (yellow)


def random_face(rng: np.random.Generator, female: bool, age_group: int) -> Face:
    """Return a person of that gender and age group; one in ten has the hair of the other gender."""
    grey = (0.0, rng.uniform(0.0, 0.35), rng.uniform(0.75, 1.0))[age_group]
    old_man = age_group == 2 and not female
    return Face(
        female=female,
        long_hair=bool(female ^ (rng.random() < 0.1)),
        age_group=age_group,
        skin=_near(rng, SKINS, 6),
        hair=mix(_near(rng, HAIRS, 8), GREY_HAIR, grey),
        clothes=_near(rng, CLOTHES, 14),
        background=_near(rng, BACKGROUNDS, 10),
        jaw=float(rng.uniform(33, 39) if female else rng.uniform(44, 51)),
        brow=float(rng.uniform(2.2, 3.2) if female else rng.uniform(5, 7)),
        parting=float(rng.uniform(-1, 1)),
        bald=bool(old_man and rng.random() < 0.5),
        beard=bool(not female and rng.random() < (0.2, 0.4, 0.4)[age_group]),
        glasses=bool(rng.random() < (0.1, 0.25, 0.45)[age_group]),
    )


def random_shot(rng: np.random.Generator, mask: str) -> Shot:
    """Return the circumstances of a photo with the mask worn in that way."""
    return Shot(
        mask=mask,
        mask_colour=_near(rng, MASKS, 6),
        smile=float(rng.uniform(-0.4, 1)),
        gaze=float(rng.uniform(-1, 1)),
        turn_degrees=float(rng.normal(0, 3)),
        shift_px=(float(rng.normal(0, 5)), float(rng.normal(0, 5))),
        scale=float(rng.uniform(0.92, 1.08)),
        light=float(rng.uniform(0.85, 1.1)),
        warmth=float(rng.uniform(-1, 1)),
    )


def draw(face: Face, shot: Shot, rng: np.random.Generator) -> Image:
    """Return the photo: uint8 RGB (HEIGHT_PX, WIDTH_PX, 3); `rng` draws its grain."""
    canvas = _same_in_all_photos(face).copy()
    _nose_and_mouth(canvas, face, shot)
    _eyes(canvas, face, shot)
    _hair_in_front(canvas, face)
    if face.glasses:
        _glasses(canvas)
    if shot.mask != NONE:
        _mask(canvas, face, shot)
    return _photographed(canvas, shot, rng)


@functools.lru_cache(maxsize=16)  # a person's photos are drawn one after the other
def _same_in_all_photos(face: Face) -> Image:
    """Return the canvas with all that lies behind the nose; not to be changed."""
    canvas = _background(face)
    _hair_behind(canvas, face)
    _body(canvas, face)
    _head(canvas, face)
    _age_lines(canvas, face)
    return canvas


def _background(face: Face) -> Image:
    """Lighter on top, with a soft shadow at one side of the head."""
    width, height = CANVAS
    rows = np.linspace(1.06, 0.86, height)[:, None, None]
    columns = 1 + 0.06 * face.parting * np.linspace(-1, 1, width)[None, :, None]
    return np.ascontiguousarray(np.clip(np.asarray(face.background) * rows * columns, 0, 255).astype(np.uint8))


def _hair_behind(canvas: Image, face: Face) -> None:
    if face.long_hair:
        crown = [(50, 120), (70, 68), (120, 50), (170, 68), (190, 120)]
        blob(canvas, [*crown, (192, 190), (184, 252), (120, 262), (56, 252), (48, 190)], shade(face.hair, 0.82))


def _body(canvas: Image, face: Face) -> None:
    wide = 84 if face.female else 104
    neck = 21 if face.female else 28
    left, right = CENTRE_X - wide, CENTRE_X + wide
    shoulders = [
        (left - 6, 345),
        (left, 300),
        (left + 30, 276),
        (95, 258),
        (145, 258),
        (right - 30, 276),
        (right, 300),
        (right + 6, 345),
    ]
    blob(canvas, shoulders, face.clothes)
    throat = [
        (CENTRE_X - neck, 205),
        (CENTRE_X + neck, 205),
        (CENTRE_X + neck, 256),
        (CENTRE_X, 280),
        (CENTRE_X - neck, 256),
    ]
    blob(canvas, throat, shade(face.skin, 0.84))
    curve(
        canvas, [(CENTRE_X - neck - 3, 257), (CENTRE_X, 283), (CENTRE_X + neck + 3, 257)], shade(face.clothes, 0.75), 4
    )


def _head(canvas: Image, face: Face) -> None:
    for side in (-1, 1):
        oval(canvas, (CENTRE_X + side * 59, 152), (9, 15), shade(face.skin, 0.9))
    blob(canvas, _outline(face), face.skin)
    if face.beard:
        jaw = [(56.0, 172.0), (face.jaw, 206.0), (26.0, 228.0)]
        left, right = ([(CENTRE_X + side * x, y) for x, y in jaw] for side in (-1, 1))
        moustache = [(150, 182), (138, 186), (120, 185), (102, 186), (90, 182)]
        blob(canvas, [*left, (CENTRE_X, 233), *reversed(right), *moustache], mix(face.hair, face.skin, 0.35))
    elif face.female and face.age_group == 0:
        for side in (-1, 1):
            oval(canvas, (CENTRE_X + side * 34, 176), (11, 7), mix(face.skin, (240, 120, 120), 0.22))


def _outline(face: Face) -> list[Point]:
    """The head, clockwise from the left temple; men's jaws are wide and square, women's run to the chin."""
    jaw, chin = face.jaw, 15 if face.female else 26
    right = [(54, 104), (59, 140), (56, 172), (jaw, 206), (chin, 228)]
    return [
        *[(CENTRE_X - x, y) for x, y in reversed(right)],
        (CENTRE_X - 32, 76),
        (CENTRE_X, 68),
        (CENTRE_X + 32, 76),
        *[(CENTRE_X + x, y) for x, y in right],
        (CENTRE_X, 233),
    ]


def _age_lines(canvas: Image, face: Face) -> None:
    """None under 30; later folds from the nose, then the forehead, the eyes' corners and below the eyes."""
    if face.age_group == 0:
        return
    line, thick = shade(face.skin, 0.78 if face.age_group == 1 else 0.66), 1.2 + face.age_group
    for y in (100,) if face.age_group == 1 else (92, 101, 110):
        curve(canvas, [(90, y + 2), (120, y - 1), (150, y + 2)], line, thick)
    for side in (-1, 1):
        curve(
            canvas, [(CENTRE_X + side * 20, 178), (CENTRE_X + side * 30, 190), (CENTRE_X + side * 31, 204)], line, thick
        )
        if face.age_group == 2:
            curve(canvas, [(CENTRE_X + side * x, y) for x, y in ((14, 158), (26, 163), (38, 158))], line, thick)
            for dy in (-7, 0, 7):
                curve(canvas, [(CENTRE_X + side * 43, 145 + dy * 0.4), (CENTRE_X + side * 53, 145 + dy)], line, 1.6)


def _nose_and_mouth(canvas: Image, face: Face, shot: Shot) -> None:
    dark = shade(face.skin, 0.76)
    wide = 9 if face.female else 12
    curve(canvas, [(116, 146), (113, 166), (CENTRE_X - wide, 178), (120, 182), (CENTRE_X + wide, 178)], dark, 2.6)
    lips = (196, 72, 84) if face.female else mix(face.skin, (150, 80, 74), 0.55)
    corner = 203 - 5 * shot.smile
    blob(
        canvas,
        [(99, corner), (112, 199), (120, 201), (128, 199), (141, corner), (120, 208 + 5 * max(shot.smile, 0))],
        lips,
    )
    curve(canvas, [(100, corner), (120, 203 + 3 * shot.smile), (140, corner)], shade(lips, 0.6), 1.8)


def _eyes(canvas: Image, face: Face, shot: Shot) -> None:
    brows = shade(face.hair, 0.8)
    for side in (-1, 1):
        x = CENTRE_X + side * 26
        oval(canvas, (x, 144), (12, 7.5 - face.age_group), (250, 250, 248))
        oval(canvas, (x + 3 * shot.gaze, 144), (5.5, 6.0 - face.age_group * 0.6), (58, 44, 38))
        oval(canvas, (x + 3 * shot.gaze - 2, 142), (1.6, 1.6), (255, 255, 255))
        lash = 3.6 if face.female else 1.8
        curve(canvas, [(x - 13, 143), (x, 136 + face.age_group), (x + 13, 143)], (40, 30, 28), lash)
        if face.female:
            curve(canvas, [(x + side * 12, 142), (x + side * 17, 137)], (40, 30, 28), 2.6)
        arch = 4 if face.female else 1
        curve(canvas, [(x - side * 14, 129), (x + side * 4, 126 - arch), (x + side * 17, 130)], brows, face.brow)


def _hair_in_front(canvas: Image, face: Face) -> None:
    part = CENTRE_X + 22 * face.parting
    if face.long_hair:
        top = [(56, 112), (62, 76), (90, 54), (120, 49), (150, 54), (178, 76), (184, 112)]
        blob(canvas, [*top, (172, 108), (158, 96), (part, 80), (82, 96), (68, 108)], face.hair)
        for side in (-1, 1):
            lock = [(58, 100), (68, 130), (66, 180), (70, 236), (50, 240), (52, 170)]
            blob(canvas, [(CENTRE_X + side * (x - 4), y) for x, y in lock], face.hair)
    elif face.bald:
        for side in (-1, 1):
            rim = [(52, 104), (61, 112), (65, 142), (58, 150), (54, 128)]
            blob(canvas, [(CENTRE_X + side * x, y) for x, y in rim], face.hair)
    else:
        top = [(60, 136), (58, 98), (74, 68), (100, 55), (120, 52), (142, 55), (167, 68), (182, 98), (180, 136)]
        blob(canvas, [*top, (172, 112), (160, 96), (part + 18, 88), (part - 14, 92), (80, 96), (68, 112)], face.hair)
    if not face.bald:
        shine = mix(face.hair, (255, 255, 255), 0.16)
        curve(canvas, [(86, 70), (104, 62), (124, 60)], shine, 4)


def _glasses(canvas: Image) -> None:
    frame = (52, 50, 56)
    for side in (-1, 1):
        ring(canvas, (CENTRE_X + side * 26, 146), (20, 16), frame, 2.6)
        curve(canvas, [(CENTRE_X + side * 46, 144), (CENTRE_X + side * 60, 141)], frame, 2.6)
    curve(canvas, [(114, 144), (120, 141), (126, 144)], frame, 2.6)


def _mask(canvas: Image, face: Face, shot: Shot) -> None:
    """Worn: over nose, mouth and chin. Nose out: from the mouth down. On the chin: below the mouth."""
    top = {WORN: 160.0, NOSE_OUT: 189.0, ON_CHIN: 214.0}[shot.mask]
    bottom = {WORN: 238.0, NOSE_OUT: 243.0, ON_CHIN: 250.0}[shot.mask]
    jaw = face.jaw + {WORN: 4, NOSE_OUT: 4, ON_CHIN: 0}[shot.mask]
    side = 54 - max(0.0, top - 172) * 0.35
    edge = shade(shot.mask_colour, 0.72)
    strap_y = top + 12
    for sign in (-1, 1):
        curve(
            canvas,
            [(CENTRE_X + sign * (side - 2), strap_y), (CENTRE_X + sign * 58, 150)],
            mix(edge, (255, 255, 255), 0.4),
            2,
        )
    right = [(side, top + 10), (side - 3, top + 0.45 * (bottom - top)), (jaw - 6, bottom - 14), (18, bottom)]
    nose = [(CENTRE_X - 22, top), (CENTRE_X, top - 7), (CENTRE_X + 22, top)]
    outline = [*[(CENTRE_X - x, y) for x, y in reversed(right)], *nose, *[(CENTRE_X + x, y) for x, y in right]]
    blob(canvas, outline, shot.mask_colour)
    curve(canvas, [*outline, outline[0]], edge, 1.6)
    for share in (0.35, 0.6, 0.82):
        y = top + share * (bottom - top)
        curve(canvas, [(CENTRE_X - side * 0.62, y - 2), (CENTRE_X, y + 3), (CENTRE_X + side * 0.62, y - 2)], edge, 1.6)


def _photographed(canvas: Image, shot: Shot, rng: np.random.Generator) -> Image:
    """Turn, shift and scale, shrink, then light and grain."""
    matrix = cv2.getRotationMatrix2D((CENTRE_X, CANVAS[1] / 2), shot.turn_degrees, shot.scale)
    matrix[:, 2] += shot.shift_px
    turned = cv2.warpAffine(canvas, matrix, CANVAS, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    small = cv2.resize(turned, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    gain = shot.light * np.array([1 + 0.04 * shot.warmth, 1, 1 - 0.04 * shot.warmth], dtype=np.float32)
    grain = rng.standard_normal(small.shape, dtype=np.float32) * 4
    photo: Image = np.clip(small * gain + grain, 0, 255).astype(np.uint8)
    return photo


def _near(rng: np.random.Generator, colours: Sequence[Colour], spread: float) -> Colour:
    red, green, blue = np.clip(np.asarray(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread, 3), 0, 255)
    return float(red), float(green), float(blue)
