"""Draw a folder of letters: a data set for which no setting of softmark was chosen.

    python scripts/letters.py --to DIR [--classes 10] [--pictures 6000]

Letters of the fonts that matplotlib brings: turned, moved, of any size and contrast, under noise,
with a bar over them. ``run.py data=imagefolder data.path=DIR`` reads them.
"""

import argparse
import string
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 20  # pixels a side
CHARACTERS = string.ascii_uppercase + string.digits + string.ascii_lowercase
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)


def letter(character: str, random: np.random.Generator) -> Image.Image:
    """Return a picture of ``character``: SIZE x SIZE, gray."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    points = int(random.integers(11, 19))
    font = ImageFont.truetype(folder / f"{random.choice(FONTS)}.ttf", points)
    dark, light = random.integers(0, 80), random.integers(130, 256)
    picture = Image.new("L", (SIZE, SIZE), int(dark))
    draw = ImageDraw.Draw(picture)
    place = SIZE / 2 + random.integers(-2, 3, 2)
    draw.text(tuple(place), character, fill=int(light), font=font, anchor="mm")
    picture = picture.rotate(
        float(random.normal(0, 20)), Image.Resampling.BILINEAR, fillcolor=int(dark)
    )
    ends = random.integers(0, SIZE, 4)
    ImageDraw.Draw(picture).line(tuple(map(int, ends)), int(random.integers(0, 256)), 2)
    noisy = np.asarray(picture, float) + random.normal(0, 25, (SIZE, SIZE))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="a folder that isn't there yet")
    parser.add_argument("--classes", type=int, default=10, help="2 to 62, 10 if not given")
    parser.add_argument(
        "--pictures", type=int, default=6000, help="of all classes, 6000 if not given"
    )
    options = parser.parse_args()
    if not 2 <= options.classes <= len(CHARACTERS):
        sys.exit(f"error: --classes={options.classes}: 2 to {len(CHARACTERS)}")
    if options.to.exists():
        sys.exit(f"error: --to={options.to} is there already")
    if options.pictures < 6 * options.classes:
        sys.exit(f"error: --pictures={options.pictures}: at least six of each class are needed")
    try:
        write(options.to, options.classes, options.pictures)
    except OSError as error:
        sys.exit(f"error: --to={options.to}: {error.strerror}")


def write(to: Path, classes: int, pictures: int) -> None:
    """Write a folder for each class, with as many pictures in each, give or take one."""
    random = np.random.default_rng(0)
    for number in range(pictures):
        place = number % classes
        # Upper and lower case are one name where the file system doesn't tell them apart.
        folder = to / f"{place:02}-{CHARACTERS[place]}"
        folder.mkdir(parents=True, exist_ok=True)
        letter(CHARACTERS[place], random).save(folder / f"{number:05}.png")


if __name__ == "__main__":
    main()
