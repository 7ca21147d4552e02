//! Resizes images, bit for bit like Pillow.
//!
//! An output pixel is a weighted sum of input pixels, in fixed point with 22 fractional
//! bits. Width and height are resized one after the other, in the order of Pillow 13,
//! and rounded to 8 bits in between.

use image::RgbImage;
use pulp::Arch;

use crate::{Error, Result};

/// Fractional bits of a weight.
///
/// These are 32 bits minus 8 of a pixel, minus 2 for sums above 1 and negative weights.
const BITS: u32 = 32 - 8 - 2;
const CHANNELS: usize = 3;

/// Interpolation filter, with Pillow's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resample {
    /// Nearest pixel: 0.
    Nearest,
    /// Sinc windowed over three lobes: 1.
    Lanczos,
    /// Triangle: 2.
    Bilinear,
    /// Cubic: 3.
    Bicubic,
    /// Mean of the covered pixels: 4.
    Box,
    /// Sinc with a Hamming window over one lobe: 5.
    Hamming,
}

impl Resample {
    /// Returns the filter with Pillow's number.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => return None,
        })
    }

    pub(super) fn number(self) -> u64 {
        match self {
            Self::Nearest => 0,
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
            Self::Box => 4,
            Self::Hamming => 5,
        }
    }

    /// Returns the radius of the filter in output pixels.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| match x {
            0.0 => 1.0,
            x => (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI),
        };
        let distance = x.abs();
        match self {
            Self::Nearest => 0.0,
            // Half open, so that no pixel counts twice.
            Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Hamming if distance >= 1.0 => 0.0,
            Self::Hamming => {
                // Pillow's constants have single precision.
                let (a, b) = (f64::from(0.54f32), f64::from(0.46f32));
                sinc(distance) * (a + b * (distance * std::f64::consts::PI).cos())
            }
            Self::Bicubic => {
                const A: f64 = -0.5;
                if distance < 1.0 {
                    ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
                } else if distance < 2.0 {
                    (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// The input pixels of one output pixel, with their weights.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// Returns the windows of `outputs` pixels over `inputs` pixels.
fn windows(inputs: usize, outputs: usize, filter: Resample) -> Vec<Window> {
    let scale = inputs as f64 / outputs as f64;
    // When shrinking, the filter widens by the scale.
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    let window = |output: usize| {
        let center = (output as f64 + 0.5) * scale;
        let start = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(inputs);
        let weights = (start..end).map(|x| filter.weight((x as f64 - center + 0.5) * inverse));
        let weights: Vec<f64> = weights.collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| {
            let weight = if sum == 0.0 { *weight } else { weight / sum };
            let weight = weight * f64::from(1 << BITS);
            // Truncates towards zero, like a cast in C.
            (weight + 0.5f64.copysign(weight)) as i32
        };
        Window {
            start,
            weights: weights.iter().map(fixed).collect(),
        }
    };
    (0..outputs).map(window).collect()
}

/// Rounds a weighted sum to a pixel value.
fn round_to_u8(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (BITS - 1);

fn resize_width(from: &[u8], width: usize, new_width: usize, filter: Resample) -> Vec<u8> {
    let windows = windows(width, new_width, filter);
    let height = from.len() / (width * CHANNELS);
    let mut to = Vec::with_capacity(height * new_width * CHANNELS);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for row in from.chunks_exact(width * CHANNELS) {
                for window in &windows {
                    let mut sums = [HALF; CHANNELS];
                    let pixels = row[window.start * CHANNELS..].as_chunks::<CHANNELS>().0;
                    for (weight, pixel) in window.weights.iter().zip(pixels) {
                        for (sum, value) in sums.iter_mut().zip(pixel) {
                            *sum += i32::from(*value) * weight;
                        }
                    }
                    to.extend(sums.map(round_to_u8));
                }
            }
        },
    );
    to
}

fn resize_height(from: &[u8], width: usize, new_height: usize, filter: Resample) -> Vec<u8> {
    let row = width * CHANNELS;
    let windows = windows(from.len() / row, new_height, filter);
    let mut to = vec![0; new_height * row];
    let mut sums = vec![0; row];
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (window, to) in windows.iter().zip(to.chunks_exact_mut(row)) {
                sums.fill(HALF);
                let rows = from[window.start * row..].chunks_exact(row);
                for (weight, pixels) in window.weights.iter().zip(rows) {
                    for (sum, value) in sums.iter_mut().zip(pixels) {
                        *sum += i32::from(*value) * weight;
                    }
                }
                for (to, sum) in to.iter_mut().zip(&sums) {
                    *to = round_to_u8(*sum);
                }
            }
        },
    );
    to
}

/// Returns the source position of each output pixel, accumulated as in Pillow.
fn nearest(inputs: u32, outputs: u32) -> Vec<u32> {
    let step = f64::from(inputs) / f64::from(outputs);
    let mut at = step * 0.5;
    let positions = (0..outputs).map(|_| {
        let position = (at as u32).min(inputs - 1);
        at += step;
        position
    });
    positions.collect()
}

/// Resizes an image to the given width and height.
pub(super) fn resize(
    image: RgbImage,
    (new_width, new_height): (u32, u32),
    filter: Resample,
) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    if (width, height) == (new_width, new_height) {
        return Ok(image);
    }
    if filter == Resample::Nearest {
        let (xs, ys) = (nearest(width, new_width), nearest(height, new_height));
        return Ok(RgbImage::from_fn(new_width, new_height, |x, y| {
            *image.get_pixel(xs[x as usize], ys[y as usize])
        }));
    }
    let (w, new_w, new_h) = (width as usize, new_width as usize, new_height as usize);
    let mut pixels = image.into_raw();
    // Pillow 13 resizes the height first if it shrinks by more than twice as many
    // pixels as the width.
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let height_first = new_height < height && lost(height, new_height) > 2 * lost(width, new_width);
    if height_first {
        pixels = resize_height(&pixels, w, new_h, filter);
    }
    if width != new_width {
        pixels = resize_width(&pixels, w, new_w, filter);
    }
    if !height_first && height != new_height {
        pixels = resize_height(&pixels, new_w, new_h, filter);
    }
    RgbImage::from_raw(new_width, new_height, pixels)
        .ok_or_else(|| Error::data(format!("an image can't be resized to {new_w}x{new_h}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one() {
        for number in 1..6 {
            let filter = Resample::from_number(number).unwrap();
            assert_eq!(filter.number(), number);
            for (inputs, outputs) in [(7, 3), (3, 7), (1, 5), (1000, 1)] {
                for window in windows(inputs, outputs, filter) {
                    let sum: i32 = window.weights.iter().sum();
                    let off = (sum - (1 << BITS)).unsigned_abs() as usize;
                    assert!(off <= window.weights.len(), "{filter:?} {inputs} {outputs}");
                }
            }
        }
    }

    #[test]
    fn images_of_one_colour_keep_it() {
        for number in 0..6 {
            let filter = Resample::from_number(number).unwrap();
            for size in [(3, 90), (90, 3), (1, 1), (64, 48)] {
                let plain = RgbImage::from_pixel(31, 17, image::Rgb([7, 255, 0]));
                let resized = resize(plain, size, filter).unwrap();
                assert_eq!(resized.dimensions(), size);
                assert!(resized.pixels().all(|p| p.0 == [7, 255, 0]), "{filter:?}");
            }
        }
        assert_eq!(Resample::from_number(6), None);
    }
}
