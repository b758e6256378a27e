"""Factors in, pictures out: a portrait as a stack of soft-edged shapes, drawn for a whole batch at once."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds.canvas import Canvas
from lorasynth.worlds.colours import BACKGROUND_RGB, choose, hsl
from lorasynth.worlds.factors import Factors
from lorasynth.worlds.portraits.factors import IDENTITY, NUISANCE
from lorasynth.worlds.shapes import ellipse

SHIRT_RGB = BACKGROUND_RGB * 0.80
EYE_RGB = torch.tensor(
    [[0.30, 0.17, 0.07], [0.50, 0.34, 0.12], [0.25, 0.50, 0.25], [0.22, 0.47, 0.72], [0.50, 0.56, 0.60]]
)


def draw(
    identity: Float[Tensor, "B identity"], nuisance: Float[Tensor, "B nuisance"], size: int
) -> Float[Tensor, "B 3 H W"]:
    """Draw portraits.

    Args:
        identity: factors in [0, 1], columns as in `IDENTITY`.
        nuisance: factors in [0, 1], columns as in `NUISANCE`.
        size: pixels a side.

    Returns:
        RGB in [0, 1].
    """
    p, n = Factors(identity, IDENTITY), Factors(nuisance, NUISANCE)

    # Colours.
    tone, hue = p["skin_tone"], p["skin_hue"]
    skin = hsl(0.035 + 0.05 * hue, 0.62 - 0.2 * tone, 0.82 - 0.52 * tone)
    shade = skin * torch.tensor([0.80, 0.72, 0.70])
    hair_light = p["hair_lightness"]
    hair = hsl(0.02 + 0.11 * p["hair_hue"], 0.62 - 0.35 * (hair_light - 0.5).abs() * 2, 0.07 + 0.60 * hair_light**1.3)
    lips = torch.lerp(
        shade, torch.tensor([0.80, 0.16, 0.26]).expand_as(shade), (0.15 + 0.75 * p["lip_colour"])[:, None]
    )
    dark = torch.tensor([0.10, 0.07, 0.07]).expand_as(skin)
    white = torch.tensor([0.97, 0.97, 0.95]).expand_as(skin)
    background = choose(BACKGROUND_RGB, n["background"]) * (0.85 + 0.3 * n["background_shade"])[:, None]
    shirt = choose(SHIRT_RGB, n["shirt"]) * (0.85 + 0.3 * n["shirt_shade"])[:, None]

    canvas = Canvas(background.clamp(0, 1), size)
    # Picture -> head coordinates: shift, roll, zoom. Small ranges: portraits come aligned, as face data sets do.
    angle = n("roll", -0.05, 0.05)
    zoom = n("zoom", 1.13, 1.22)
    px, py = canvas.x - n("shift_x", -0.03, 0.03), canvas.y - n("shift_y", 0.02, 0.07)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    x, y = px * cos + py * sin, py * cos - px * sin
    yaw = n("yaw", -1.0, 1.0)

    width, height = p("face_width", 0.38, 0.54), p("face_height", 0.50, 0.66)
    volume = p("hair_volume", 0.03, 0.19)
    curl = p("hair_curl", -0.02, 0.035).clamp(min=0)
    waves = curl * torch.sin(26 * y) * torch.cos(26 * x)

    # Hair behind the head: a cap, and a curtain whose length is the hair's.
    cap = ellipse(x, y + 0.08, width + volume, height * 0.93 + volume)
    length = p("hair_length", -0.25, 0.95)
    curtain = torch.maximum(x.abs() - (width + volume * 0.75), torch.maximum(-0.1 - y, y - length))
    canvas.paint(canvas.opacity(torch.minimum(cap, curtain) + waves), hair * 0.82)

    # Shirt, neck.
    canvas.paint(
        canvas.opacity(ellipse(x, y - 1.18, torch.full_like(width, 0.86), torch.full_like(width, 0.42))), shirt
    )
    neck = torch.maximum(x.abs() - width * 0.48, torch.maximum(-y, y - height * 1.28))
    canvas.paint(canvas.opacity(neck), shade)

    # Head: an ellipse whose lower half tapers (pointed chin) or widens (square jaw); ears.
    ear = p("ear_size", 0.05, 0.125)
    canvas.paint(canvas.opacity(ellipse((x + yaw * 0.03).abs() - width * 0.98, y - 0.02, ear * 0.8, ear * 1.25)), shade)
    taper = 1 - p("jaw", -0.22, 0.34) * (y / height).clamp(min=0) ** 2
    head = ellipse(x / taper, y, width, height)
    face = canvas.opacity(head)
    light = 1 + n("light_side", -0.22, 0.22) * (x / width).clamp(-1, 1)
    canvas.paint(face, (skin[:, :, None, None] * light[:, None]).clamp(0, 1))

    # Everything on the face moves with the yaw.
    fx = x - yaw * 0.075
    ax, side = fx.abs(), torch.sign(fx)
    blush = torch.exp(-((ax - width * 0.58) ** 2 + (y - 0.19) ** 2) / 0.014)
    rose = torch.tensor([0.92, 0.36, 0.36]).expand_as(skin)
    canvas.paint(blush * p("blush", -0.3, 0.55).clamp(min=0) * face, rose)
    dots = (torch.sin(fx * 44) * torch.sin(y * 44 + 1.0) - 0.25).clamp(0, 0.5) * 2
    cheeks = torch.exp(-((ax - 0.20) ** 2) / 0.018 - (y - 0.12) ** 2 / 0.012)
    canvas.paint(dots * cheeks * (p("freckles", -2.2, 1.0).clamp(min=0) * 0.9) * face, shade * 0.7)

    # Beard: the lower face in the hair's colour, around the mouth.
    mouth_y = height * p("mouth_height", 0.46, 0.60)
    beard = p("beard", -1.3, 1.0).clamp(min=0)
    chin = canvas.opacity(torch.maximum(head + 0.008, (mouth_y - 0.17 + 0.35 * (width - ax).clamp(min=0)) - y))
    canvas.paint(chin * (beard * 2.5).clamp(max=0.92), hair * 0.75)

    # Eyes: white, iris, pupil, glint, upper lid.
    eye_x, eye_y = p("eye_gap", 0.165, 0.255), p("eye_height", -0.13, 0.0)
    eye_r = p("eye_size", 0.072, 0.118)
    ex = ax - eye_x
    ey = y - eye_y + ex * p("eye_tilt", -0.28, 0.38)
    opening = eye_r * p("eye_openness", 0.48, 0.88)
    lids = ellipse(ex, ey, eye_r, opening)
    whites = canvas.opacity(lids)
    canvas.paint(whites, white)
    iris = ellipse(ex - side * n("gaze", -0.022, 0.022), ey, eye_r * 0.56, eye_r * 0.56)
    canvas.paint(canvas.opacity(iris) * whites, choose(EYE_RGB, p["eye_colour"], smooth=True))
    canvas.paint(canvas.opacity(iris + eye_r * 0.30) * whites, dark)
    canvas.paint(
        canvas.opacity(ellipse(fx - side * eye_x + 0.02, ey + 0.025, eye_r * 0.18, eye_r * 0.18)) * whites, white
    )
    canvas.paint(canvas.opacity(torch.maximum(lids.abs() - 0.010, ey + opening * 0.25)), dark)

    # Brows: a bar along a slanted line over each eye.
    by = y - (eye_y - p("brow_height", 0.115, 0.195)) - ex * p("brow_angle", -0.55, 0.40) + 1.6 * ex**2
    brow = torch.maximum(ex.abs() - 0.115, by.abs() - p("brow_thickness", 0.010, 0.040))
    canvas.paint(canvas.opacity(brow), hair * 0.6)

    # Nose: wings and a ridge on the shadow side.
    nose_y = eye_y + p("nose_length", 0.16, 0.32)
    nose_w = p("nose_width", 0.045, 0.115)
    canvas.paint(canvas.opacity(ellipse(fx - yaw * 0.02, y - nose_y, nose_w, nose_w * 0.55)) * 0.85, shade)
    ridge = torch.maximum((fx - yaw * 0.03 - nose_w * 0.35).abs() - 0.012, torch.maximum(eye_y - y, y - nose_y))
    canvas.paint(canvas.opacity(ridge) * 0.5, shade)

    # Mouth: a parabola that smiles or frowns, two lips, and teeth when it is open, as a smile's is.
    mood = n("expression", -1.0, 1.0)
    smile = 0.02 + 0.125 * mood
    mouth_w = p("mouth_width", 0.11, 0.22) * (1 + 0.15 * mood)
    u = (fx / mouth_w).clamp(-1.3, 1.3)
    my = y - mouth_y - smile * (0.5 - u**2)
    open_ = torch.maximum(n("mouth_open", -0.045, 0.05) * (1 + mood).clamp(max=1), 0.16 * (mood - 0.3))
    open_ = open_.clamp(min=0, max=0.062) * (1 - u**2)
    lip = (p("lip_thickness", 0.014, 0.048) + open_) * (1 - u**2).clamp(min=0) + 0.006
    ends = fx.abs() - mouth_w
    moustache = p("moustache", -1.3, 1.0).clamp(min=0)
    bar = torch.maximum((my + 0.065).abs() - 0.034 * (1.2 - u**2), ends - 0.05)
    canvas.paint(canvas.opacity(bar) * (moustache * 3).clamp(max=0.95), hair * 0.7)
    canvas.paint(canvas.opacity(torch.maximum(my.abs() - lip, ends)), lips)
    canvas.paint(canvas.opacity(torch.maximum(my.abs() - 0.007, ends)), dark)
    canvas.paint(canvas.opacity(torch.maximum(my.abs() - open_ * 0.9, ends + 0.03)), white * 0.96)

    # Mole.
    turn = p("mole_place", 0.0, 2 * math.pi)
    mole = ellipse(
        fx - 0.24 * torch.cos(turn), y - 0.20 - 0.15 * torch.sin(turn), *(torch.full_like(width, 0.026),) * 2
    )
    canvas.paint(canvas.opacity(mole) * (p("mole", -2.0, 2.0).clamp(0, 0.9)), dark)

    # Hair in front: from the crown down to a hairline that drops away from the parting.
    parting = p("hair_parting", -0.28, 0.28)
    hairline = -height * p("hair_fringe", 0.86, 0.42) + (0.25 + p("hair_curl", 0.25, 0.0)) * (x - parting).abs() ** 1.5
    crown = torch.maximum(ellipse(x, y + 0.05, width + volume * 0.8, height * 0.96 + volume * 0.9), y - hairline)
    sides = torch.maximum(torch.maximum(width * 0.90 - x.abs(), x.abs() - width - volume * 0.7),
                          torch.maximum(-0.45 - y, y - length.clamp(max=0.75)))  # fmt: skip
    canvas.paint(
        canvas.opacity(torch.minimum(crown, sides) + waves), (hair[:, :, None, None] * light[:, None]).clamp(0, 1)
    )

    # Glasses last: rims, bridge, temples.
    worn = (p("glasses", -1.3, 0.7) * 20).clamp(0, 1)
    rim_r = p("glasses_size", 0.125, 0.165)
    rims = (ellipse(ax - eye_x, y - eye_y, rim_r, rim_r * 0.86)).abs() - 0.014
    bridge = torch.maximum((y - eye_y + 0.02).abs() - 0.012, ax - (eye_x - rim_r))
    frame = hsl(p["glasses_size"] * 3 % 1, torch.full_like(tone, 0.6), 0.10 + 0.30 * (p["glasses_size"] * 7 % 1))
    canvas.paint(canvas.opacity(torch.minimum(rims, bridge)) * worn, frame)

    exposure = n("brightness", 0.86, 1.10)[:, None]
    return (canvas.rgb * exposure).clamp(0, 1)
