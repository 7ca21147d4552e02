//! Transforms of Winograd's minimal filtering F(2x2, 3x3), channel by channel.
//!
//! See [Lavin and Gray 2016](https://arxiv.org/abs/1509.09308), equation 5 and the
//! matrices below it.

use pulp::{Arch, Simd, WithSimd};

/// Side of an input tile, in pixels, and of the grid of points.
pub(crate) const SIDE: usize = 4;
/// Number of points of a tile.
pub(crate) const POINTS: usize = SIDE * SIDE;
/// Side of an output tile, in pixels.
pub(crate) const TILE: usize = 2;
/// Number of pixels of an output tile.
pub(crate) const PIXELS: usize = TILE * TILE;

/// A line of output tiles, with the input image.
#[derive(Clone, Copy)]
pub(crate) struct TileLine<'a> {
    pub(crate) image: &'a [f32],
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Zero padding above and left.
    pub(crate) pad: usize,
    /// Index of the line in its image.
    pub(crate) line: usize,
    /// Zeros for padded pixels, one per channel. Their number is a multiple of 16.
    pub(crate) zeros: &'a [f32],
}

impl TileLine<'_> {
    /// Returns the channels of a pixel of the padded image.
    #[inline(always)]
    fn place(&self, y: usize, x: usize) -> &[f32] {
        let (y, x) = (y.wrapping_sub(self.pad), x.wrapping_sub(self.pad));
        if y < self.height && x < self.width {
            let channels = self.zeros.len();
            &self.image[(y * self.width + x) * channels..][..channels]
        } else {
            self.zeros
        }
    }
}

/// Transforms the input tiles of a line to `B' d B`.
///
/// The result has the channels of each of 16 points.
///
/// Tiles start `stride` elements apart.
pub(crate) fn winograd_input(line: TileLine<'_>, stride: usize, out: &mut [f32]) {
    Arch::new().dispatch(Input { line, stride, out });
}

struct Input<'a> {
    line: TileLine<'a>,
    stride: usize,
    out: &'a mut [f32],
}

impl WithSimd for Input<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // `map` would compile its closure without the instructions of `S`.
        let Self { line, stride, out } = self;
        let channels = line.zeros.len();
        let zero = simd.splat_f32s(0.0);
        for (tile, out) in out.chunks_exact_mut(stride).enumerate() {
            let (out, _) = S::as_mut_simd_f32s(&mut out[..POINTS * channels]);
            let n = out.len() / POINTS;
            let mut places: [[&[S::f32s]; SIDE]; SIDE] = [[&[]; SIDE]; SIDE];
            for (y, places) in places.iter_mut().enumerate() {
                for (x, values) in places.iter_mut().enumerate() {
                    let place = line.place(TILE * line.line + y, TILE * tile + x);
                    *values = &S::as_simd_f32s(place).0[..n];
                }
            }
            for i in 0..n {
                let mut lines = [[zero; SIDE]; SIDE];
                for (line, [a, b, c, d]) in lines.iter_mut().zip(&places) {
                    *line = transform(simd, [a[i], b[i], c[i], d[i]]);
                }
                for x in 0..SIDE {
                    let column = [lines[0][x], lines[1][x], lines[2][x], lines[3][x]];
                    let column = transform(simd, column);
                    for (y, value) in column.iter().enumerate() {
                        out[(y * SIDE + x) * n + i] = *value;
                    }
                }
            }
        }
    }
}

/// Multiplies one dimension by `B'`.
#[inline(always)]
fn transform<S: Simd>(simd: S, d: [S::f32s; SIDE]) -> [S::f32s; SIDE] {
    [
        simd.sub_f32s(d[0], d[2]),
        simd.add_f32s(d[1], d[2]),
        simd.sub_f32s(d[2], d[1]),
        simd.sub_f32s(d[1], d[3]),
    ]
}

/// Writes `scale * A' m A + shift` for each tile, as four pixels.
///
/// For each of 16 points, `sums` has one row per tile with the length of `scale`. The
/// points are `distance` elements apart.
pub(crate) fn winograd_output(
    sums: &[f32],
    distance: usize,
    tiles: usize,
    [scale, shift]: [&[f32]; 2],
    pixels: &mut [f32],
) {
    Arch::new().dispatch(Output {
        sums,
        distance,
        tiles,
        scale,
        shift,
        pixels,
    });
}

struct Output<'a> {
    sums: &'a [f32],
    distance: usize,
    tiles: usize,
    scale: &'a [f32],
    shift: &'a [f32],
    pixels: &'a mut [f32],
}

impl WithSimd for Output<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            sums,
            distance,
            tiles,
            scale,
            shift,
            pixels,
        } = self;
        let columns = scale.len();
        let ((scale, _), (shift, _)) = (S::as_simd_f32s(scale), S::as_simd_f32s(shift));
        let n = scale.len();
        let mut points: [[&[S::f32s]; SIDE]; SIDE] = [[&[]; SIDE]; SIDE];
        for (point, values) in points.as_flattened_mut().iter_mut().enumerate() {
            let sums = &sums[point * distance..][..tiles * columns];
            *values = &S::as_simd_f32s(sums).0[..tiles * n];
        }
        let (pixels, _) = S::as_mut_simd_f32s(&mut pixels[..tiles * PIXELS * columns]);
        let zero = simd.splat_f32s(0.0);
        for tile in 0..tiles {
            for i in 0..n {
                let at = tile * n + i;
                let mut lines = [[zero; TILE]; SIDE];
                for (line, [a, b, c, d]) in lines.iter_mut().zip(&points) {
                    *line = gather(simd, [a[at], b[at], c[at], d[at]]);
                }
                for x in 0..TILE {
                    let column = [lines[0][x], lines[1][x], lines[2][x], lines[3][x]];
                    let column = gather(simd, column);
                    for (y, value) in column.iter().enumerate() {
                        let value = simd.mul_add_e_f32s(*value, scale[i], shift[i]);
                        pixels[(tile * PIXELS + y * TILE + x) * n + i] = value;
                    }
                }
            }
        }
    }
}

/// Multiplies one dimension by `A'`.
#[inline(always)]
fn gather<S: Simd>(simd: S, m: [S::f32s; SIDE]) -> [S::f32s; TILE] {
    [
        simd.add_f32s(simd.add_f32s(m[0], m[1]), m[2]),
        simd.sub_f32s(simd.sub_f32s(m[1], m[2]), m[3]),
    ]
}
