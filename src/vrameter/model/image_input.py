"""How many patches a vision tower works on, and how many tokens the decoder sees, for an image of a given size.

Towers differ in what they do with a size that is not theirs: one grid for all, a grid that follows the image within
bounds of area or edge, or tiles of one size beside an overview. Bounds stand in a processor's own configuration, not in
a model's; the readers give those of the processor's class, and `bounded` sets others. Counts are those of the processors
of transformers 5.23, marks around an image included where the processor adds them to its count.

References
----------
.. [1] P. Wang et al., "Qwen2-VL", 2024, arXiv:2409.12191 (a grid that follows the image, four patches to a token).
.. [2] H. Liu et al., "LLaVA-NeXT", 2024 (tiles beside an overview, cut to the image, a mark after each row).
.. [3] P. Agrawal et al., "Pixtral 12B", 2024, arXiv:2410.07073 (a mark after each row).
.. [4] Z. Chen et al., "InternVL 1.5", 2024, arXiv:2404.16821 (tiles in the grid of the nearest aspect ratio).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, floor, sqrt
from typing import Any, TypeVar

Size = tuple[int, int]
Rule = TypeVar("Rule", bound="ImageInput")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """One grid for every image, which is scaled to `image_size`; and what all rules have in common.

    Parameters
    ----------
    patch_size
        Height and width of a patch. [pixels]
    image_size
        Height and width that the tower was made for; of one tile where images are cut into tiles. [pixels]
    merge
        Patches along an edge that become one token.
    temporal_patch
        Frames of a video that become one patch. [frames]
    extra_patches
        Positions of the tower besides patches: a class token, registers.
    extra_tokens
        Tokens of the decoder besides those of patches: a class token that is kept, marks around the image.
    num_tokens
        Tokens of the decoder for one grid, where a resampler or pooling fixes them.
    """

    patch_size: Size
    image_size: Size = (0, 0)
    merge: int = 1
    temporal_patch: int = 1
    extra_patches: int = 0
    extra_tokens: int = 0
    num_tokens: int | None = None

    def bounded(self: Rule, **changes: Any) -> Rule:
        """Return the same rule with other bounds."""
        return replace(self, **changes)

    @property
    def grid(self) -> Size:
        """Rows and columns of patches of the tower's own image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def grid_patches(self) -> int:
        """Positions of the tower for one grid."""
        return self.grid[0] * self.grid[1] + self.extra_patches

    @property
    def grid_tokens(self) -> int:
        """Tokens of the decoder for one grid, marks left out."""
        if self.num_tokens is not None:
            return self.num_tokens
        return (self.grid[0] // self.merge) * (self.grid[1] // self.merge)

    def patches_of(self, height: int, width: int) -> int:
        """Return the positions that the tower works on for an image of `height` times `width` pixels.

        Examples
        --------
        CLIP ViT-L/14 at 336 pixels has 24 times 24 patches and a class token:

        >>> ImageInput(patch_size=(14, 14), image_size=(336, 336), extra_patches=1).patches_of(1080, 1920)
        577
        """
        return self.grid_patches

    def tokens_of(self, height: int, width: int) -> int:
        """Return the tokens of the decoder for an image of `height` times `width` pixels.

        Examples
        --------
        LLaVA-1.5 leaves the class token out:

        >>> ImageInput(patch_size=(14, 14), image_size=(336, 336), extra_patches=1).tokens_of(1080, 1920)
        576
        """
        return self.grid_tokens + self.extra_tokens

    @property
    def largest(self) -> Size:
        """Height and width of an image that needs as much as any."""
        return self.image_size

    @property
    def max_patches(self) -> int:
        """Positions of the tower for the largest image."""
        return self.patches_of(*self.largest)

    @property
    def max_tokens(self) -> int:
        """Tokens of the decoder for the largest image."""
        return self.tokens_of(*self.largest)


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaBounded(ImageInput):
    """A grid that follows the image, its area kept within bounds [1]_.

    Parameters
    ----------
    min_pixels, max_pixels
        Bounds of the scaled image's area. [pixels]
    """

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    def scaled(self, height: int, width: int) -> Size:
        """Return the size to which an image is scaled: multiples of `merge` patches, the area within bounds."""
        down, right = self.patch_size[0] * self.merge, self.patch_size[1] * self.merge
        rows, columns = round(height / down) * down, round(width / right) * right
        if rows * columns > self.max_pixels:
            shrink = sqrt(height * width / self.max_pixels)
            return max(down, floor(height / shrink / down) * down), max(right, floor(width / shrink / right) * right)
        if rows * columns < self.min_pixels:
            grow = sqrt(self.min_pixels / (height * width))
            return ceil(height * grow / down) * down, ceil(width * grow / right) * right
        return rows, columns

    def patches_of(self, height: int, width: int) -> int:
        rows, columns = self.scaled(height, width)
        return (rows // self.patch_size[0]) * (columns // self.patch_size[1]) + self.extra_patches

    def tokens_of(self, height: int, width: int) -> int:
        """Return the tokens of the decoder.

        Examples
        --------
        >>> AreaBounded(patch_size=(14, 14), merge=2, max_pixels=12_845_056).tokens_of(3584, 3584)
        16384
        """
        rows, columns = self.scaled(height, width)
        tokens = (rows // self.patch_size[0] // self.merge) * (columns // self.patch_size[1] // self.merge)
        return tokens + self.extra_tokens

    @property
    def largest(self) -> Size:
        unit = self.patch_size[0] * self.merge
        tokens = max(self.max_pixels // unit**2, 1)
        square = floor(sqrt(tokens))
        rows = max(range(square, max(square // 4, 1) - 1, -1), key=lambda rows: rows * (tokens // rows))
        return rows * unit, tokens // rows * unit


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchBudget(ImageInput):
    """A grid that follows the image and fills a budget of patches as well as multiples of `merge` allow (Gemma 4)."""

    budget: int

    def scaled(self, height: int, width: int) -> Size:
        """Return rows and columns of patches."""
        unit = self.patch_size[0] * self.merge
        scale = sqrt(self.budget * self.patch_size[0] ** 2 / (height * width))
        rows, columns = floor(scale * height / unit), floor(scale * width / unit)
        longest = self.budget // self.merge**2
        if rows == 0:
            rows, columns = 1, min(max(width // height, 1), longest)
        elif columns == 0:
            rows, columns = min(max(height // width, 1), longest), 1
        return rows * self.merge, columns * self.merge

    def patches_of(self, height: int, width: int) -> int:
        rows, columns = self.scaled(height, width)
        return rows * columns + self.extra_patches

    def tokens_of(self, height: int, width: int) -> int:
        rows, columns = self.scaled(height, width)
        return rows * columns // self.merge**2 + self.extra_tokens

    @property
    def largest(self) -> Size:
        tokens = self.budget // self.merge**2
        rows = next(rows for rows in range(floor(sqrt(tokens)), 0, -1) if tokens % rows == 0)
        unit = self.patch_size[0] * self.merge
        return rows * unit, tokens // rows * unit


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedGrid(ImageInput):
    """A grid that follows the image, shrunk to at most `budget` patches and `longest` along an edge, then padded (Kimi)."""

    budget: int
    longest: int

    def scaled(self, height: int, width: int) -> Size:
        """Return rows and columns of patches, the padding included."""
        edge, unit = self.patch_size[0], self.patch_size[0] * self.merge
        shrink = min(
            1.0,
            sqrt(self.budget / (max(height // edge, 1) * max(width // edge, 1))),
            self.longest * edge / height,
            self.longest * edge / width,
        )
        rows, columns = (min(max(int(length * shrink), 1), self.longest * edge) for length in (height, width))
        return ceil(rows / unit) * self.merge, ceil(columns / unit) * self.merge

    def patches_of(self, height: int, width: int) -> int:
        rows, columns = self.scaled(height, width)
        return rows * columns + self.extra_patches

    def tokens_of(self, height: int, width: int) -> int:
        """Return the tokens of the decoder.

        Examples
        --------
        >>> PaddedGrid(patch_size=(14, 14), merge=2, budget=16384, longest=512).tokens_of(1792, 1792)
        4096
        """
        rows, columns = self.scaled(height, width)
        return rows * columns // self.merge**2 + self.extra_tokens

    @property
    def largest(self) -> Size:
        edge = self.patch_size[0]  # a strip just short of one more row of patches, whose padding is the most
        rows = max(self.budget // self.longest, 1)
        return (rows + 1) * edge - 1, self.longest * edge


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeBounded(ImageInput):
    """A grid that follows an image no longer than `longest_edge`, with a mark after each row of tokens [3]_."""

    longest_edge: int = 1024

    def scaled(self, height: int, width: int) -> Size:
        """Return rows and columns of tokens."""
        shrink = max(height / self.longest_edge, width / self.longest_edge)
        if shrink > 1:
            height, width = max(floor(height / shrink), 1), max(floor(width / shrink), 1)
        return ceil(height / (self.patch_size[0] * self.merge)), ceil(width / (self.patch_size[1] * self.merge))

    def patches_of(self, height: int, width: int) -> int:
        rows, columns = self.scaled(height, width)
        return rows * columns * self.merge**2 + self.extra_patches

    def tokens_of(self, height: int, width: int) -> int:
        """Return the tokens of the decoder.

        Examples
        --------
        >>> EdgeBounded(patch_size=(16, 16), longest_edge=1024).tokens_of(1024, 1024)
        4160
        """
        rows, columns = self.scaled(height, width)
        return rows * (columns + 1) + self.extra_tokens

    @property
    def largest(self) -> Size:
        return self.longest_edge, self.longest_edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles(ImageInput):
    """Tiles of `image_size`, with an overview beside them where there are several [4]_.

    Parameters
    ----------
    max_tiles
        Most tiles of one image, the overview left out.
    overview
        Whether the whole image is a tile besides.
    fit
        How the grid of tiles is chosen: ``aspect``: the nearest aspect ratio; ``canvas``: the smallest that holds the
        image without shrinking it, else the one that shrinks it least.
    mark_tokens
        Tokens besides for every tile that is not the overview, such as a mark between tiles.
    keeps_empty_tiles
        Whether the tower works on `max_tiles` whatever the image (Llama 3.2 Vision).
    """

    max_tiles: int = 12
    min_tiles: int = 1
    overview: bool = True
    fit: str = "aspect"
    mark_tokens: int = 0
    keeps_empty_tiles: bool = False

    def tiles_of(self, height: int, width: int) -> int:
        """Return the tiles that an image is cut into, the overview included."""
        rows, columns = _arrangement(self.fit, height, width, self.image_size, self.min_tiles, self.max_tiles)
        tiles = rows * columns
        return tiles + 1 if self.overview and tiles > 1 else tiles

    def patches_of(self, height: int, width: int) -> int:
        tiles = self.max_tiles if self.keeps_empty_tiles else self.tiles_of(height, width)
        return tiles * self.grid_patches

    def tokens_of(self, height: int, width: int) -> int:
        """Return the tokens of the decoder.

        Examples
        --------
        InternVL: 256 tokens a tile, twelve tiles and the overview at most, a mark before and after:

        >>> Tiles(patch_size=(14, 14), image_size=(448, 448), merge=2, extra_tokens=2).tokens_of(1344, 1792)
        3330
        """
        tiles = self.tiles_of(height, width)
        marks = self.mark_tokens * (tiles - 1 if self.overview else tiles)
        return tiles * self.grid_tokens + marks + self.extra_tokens

    @property
    def largest(self) -> Size:
        rows = next(rows for rows in range(floor(sqrt(self.max_tiles)), 0, -1) if self.max_tiles % rows == 0)
        return rows * self.image_size[0], self.max_tiles // rows * self.image_size[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class TilesAndOverview(Tiles):
    """Tiles beside an overview of another size, and no tiles where the image is no larger than one (DeepSeek-OCR).

    Parameters
    ----------
    overview_size
        Height and width of the overview. [pixels]
    row_marks
        Tokens at the end of each row of tokens.
    """

    overview_size: Size
    row_marks: int = 0
    overview: bool = False

    def arrangement(self, height: int, width: int) -> Size:
        """Return rows and columns of tiles."""
        if max(height, width) <= self.image_size[0]:
            return 0, 0
        return _arrangement(self.fit, height, width, self.image_size, self.min_tiles, self.max_tiles)

    def patches_of(self, height: int, width: int) -> int:
        rows, columns = self.arrangement(height, width)
        whole = (self.overview_size[0] // self.patch_size[0]) * (self.overview_size[1] // self.patch_size[1])
        return rows * columns * self.grid_patches + whole

    def tokens_of(self, height: int, width: int) -> int:
        """Return the tokens of the decoder.

        Examples
        --------
        Six tiles of 144 tokens, an overview of 256, a mark between them:

        >>> rule = TilesAndOverview(
        ...     patch_size=(16, 16), image_size=(768, 768), overview_size=(1024, 1024), merge=4, min_tiles=2, max_tiles=6,
        ...     extra_tokens=1,
        ... )
        >>> rule.tokens_of(1536, 2304), rule.tokens_of(640, 640)
        (1121, 257)
        """
        rows, columns = self.arrangement(height, width)
        edge = self.patch_size[0] * self.merge
        down, right = rows * (self.image_size[0] // edge), columns * (self.image_size[1] // edge)
        above, beside = self.overview_size[0] // edge, self.overview_size[1] // edge
        marks = self.row_marks
        return down * (right + marks) + above * (beside + marks) + self.extra_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvases(ImageInput):
    """Tiles on one of a list of canvases, the padding cut off, a mark after each row, and an overview [2]_.

    Parameters
    ----------
    canvases
        Height and width of each. [pixels]
    token_budget
        Tiles to whose number of tokens a canvas is shrunk, where there is a bound (LLaVA-OneVision's ``anyres_max_9``).
    """

    canvases: tuple[Size, ...] = ()
    token_budget: int = 0

    def canvas_of(self, height: int, width: int) -> Size:
        """Return the canvas that keeps most of an image and wastes least."""

        def quality(canvas: Size) -> tuple[int, int]:
            scale = min(canvas[0] / height, canvas[1] / width)
            kept = min(int(height * scale) * int(width * scale), height * width)
            return kept, kept - canvas[0] * canvas[1]

        return max(self.canvases, key=quality)

    def patches_of(self, height: int, width: int) -> int:
        rows, columns = self.canvas_of(height, width)
        tiles = (rows // self.image_size[0]) * (columns // self.image_size[1])
        return (1 + tiles) * self.grid_patches

    def tokens_of(self, height: int, width: int) -> int:
        """Return the tokens of the decoder.

        Examples
        --------
        >>> canvases = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
        >>> Canvases(patch_size=(14, 14), image_size=(336, 336), canvases=canvases).tokens_of(672, 672)
        2928
        """
        canvas = self.canvas_of(height, width)
        own_rows, own_columns = self.grid[0] // self.merge, self.grid[1] // self.merge
        rows = own_rows * (canvas[0] // self.image_size[0])
        columns = own_columns * (canvas[1] // self.image_size[1])
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        return self._counted(rows, columns)

    def _counted(self, rows: int, columns: int) -> int:
        """Return the tokens of rows and columns of patches, shrunk to the budget, and of the overview."""
        if self.token_budget:
            shrink = sqrt(rows * columns / (self.token_budget * (self.grid[0] // self.merge) ** 2))
            if shrink > 1.1:
                rows, columns = int(rows // shrink), int(columns // shrink)
        return rows * (columns + 1) + self.grid_tokens + self.extra_tokens

    @property
    def largest(self) -> Size:
        down, right = self.image_size[0] // self.grid[0] * self.merge, self.image_size[1] // self.grid[1] * self.merge
        rows, columns = _fullest(self)
        return rows * down, columns * right

    @property
    def max_patches(self) -> int:
        return max(self.patches_of(*canvas) for canvas in self.canvases)

    @property
    def max_tokens(self) -> int:
        return self._counted(*_fullest(self))


@lru_cache(maxsize=64)
def _fullest(rule: Canvases) -> Size:
    """Return the rows and columns of patches with the most tokens, whatever of a canvas is padding."""
    own_rows, own_columns = rule.grid[0] // rule.merge, rule.grid[1] // rule.merge
    sizes: list[Size] = []
    for height, width in rule.canvases:
        rows, columns = own_rows * (height // rule.image_size[0]), own_columns * (width // rule.image_size[1])
        sizes += [(rows, columns)]
        if rule.token_budget:
            sizes += [(rows - 2 * step, columns) for step in range(1, rows // 2)]
            sizes += [(rows, columns - 2 * step) for step in range(1, columns // 2)]
    return max(sizes, key=lambda size: rule._counted(*size))


@lru_cache(maxsize=4096)
def _arrangement(fit: str, height: int, width: int, tile: Size, least: int, most: int) -> Size:
    """Return rows and columns of tiles."""
    grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
    grids = [grid for grid in grids if grid[0] * grid[1] >= least]
    if fit == "canvas":

        def scale(grid: Size) -> float:
            return min(grid[0] * tile[0] / height, grid[1] * tile[1] / width)

        holding = [grid for grid in grids if scale(grid) >= 1]
        chosen = min(map(scale, holding)) if holding else max(map(scale, grids))
        return min((grid for grid in grids if scale(grid) == chosen), key=lambda grid: grid[0] * grid[1])
    best, smallest = grids[0], float("inf")
    for grid in sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[1])):
        difference = abs(width / height - grid[1] / grid[0])
        larger = width * height > 0.5 * tile[0] * tile[1] * grid[0] * grid[1]
        if difference < smallest or (difference == smallest and larger):
            best, smallest = grid, difference
    return best


__all__ = [
    "AreaBounded",
    "Canvases",
    "EdgeBounded",
    "ImageInput",
    "PaddedGrid",
    "PatchBudget",
    "Tiles",
    "TilesAndOverview",
]
