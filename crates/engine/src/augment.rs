//! Random augmentation of images, so that a small training set yields more.

use image::{Rgb, RgbImage};
use rand_chacha::rand_core::Rng;

use crate::draw::Draw;

/// One random change of an image, reproducible on every machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Augmentation {
    /// Cosine and sine of the rotation, divided by the scale.
    cos: f32,
    sin: f32,
    /// Shift as a fraction of width and height.
    shift: [f32; 2],
    mirrored: bool,
    /// Factor of each colour channel.
    gain: [f32; 3],
}

impl Augmentation {
    /// Draws a light augmentation.
    ///
    /// Rotation is up to 12 degrees, scale 0.8 to 1.2, shift up to 0.1 of a side,
    /// brightness of each channel 0.85 to 1.15. Half of the images are mirrored.
    #[must_use]
    pub fn light(draw: &Draw) -> Self {
        let mut rng = draw.random(0);
        let mut between = |low: f32, high: f32| {
            low + (high - low) * (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
        };
        let angle = between(-12.0, 12.0).to_radians();
        let scale = between(0.8, 1.2);
        let shift = [between(-0.1, 0.1), between(-0.1, 0.1)];
        let mirrored = between(0.0, 1.0) < 0.5;
        let gain = [
            between(0.85, 1.15),
            between(0.85, 1.15),
            between(0.85, 1.15),
        ];
        Self {
            cos: angle.cos() / scale,
            sin: angle.sin() / scale,
            shift,
            mirrored,
            gain,
        }
    }

    /// Returns the changed image, in the same size.
    ///
    /// Pixels from outside repeat the border.
    #[must_use]
    pub fn apply(&self, image: &RgbImage) -> RgbImage {
        let (width, height) = image.dimensions();
        let (w, h) = (width as f32, height as f32);
        RgbImage::from_fn(width, height, |x, y| {
            let mut dx = x as f32 + 0.5 - w / 2.0 - self.shift[0] * w;
            let dy = y as f32 + 0.5 - h / 2.0 - self.shift[1] * h;
            if self.mirrored {
                dx = -dx;
            }
            let from_x = self.cos * dx + self.sin * dy + w / 2.0 - 0.5;
            let from_y = self.cos * dy - self.sin * dx + h / 2.0 - 0.5;
            let pixel = bilinear(image, from_x, from_y);
            Rgb(std::array::from_fn(|c| {
                (pixel[c] * self.gain[c]).round().clamp(0.0, 255.0) as u8
            }))
        })
    }
}

fn bilinear(image: &RgbImage, x: f32, y: f32) -> [f32; 3] {
    let (right, bottom) = (image.width() - 1, image.height() - 1);
    let x = x.clamp(0.0, right as f32);
    let y = y.clamp(0.0, bottom as f32);
    let (x0, y0) = (x as u32, y as u32);
    let (x1, y1) = ((x0 + 1).min(right), (y0 + 1).min(bottom));
    let (fx, fy) = (x - x0 as f32, y - y0 as f32);
    let at = |x, y| image.get_pixel(x, y).0.map(f32::from);
    let (a, b, c, d) = (at(x0, y0), at(x1, y0), at(x0, y1), at(x1, y1));
    std::array::from_fn(|i| {
        let top = a[i] + (b[i] - a[i]) * fx;
        let low = c[i] + (d[i] - c[i]) * fx;
        top + (low - top) * fy
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn light(seed: u64, epoch: usize, example: usize) -> Augmentation {
        Augmentation::light(&Draw {
            seed,
            epoch,
            example,
            augment: true,
        })
    }

    #[test]
    fn changes_depend_on_seed_epoch_and_example_only() {
        let one = light(7, 1, 2);
        assert_eq!(one, light(7, 1, 2));
        assert_ne!(one, light(7, 1, 3));
        assert_ne!(one, light(7, 2, 2));
        assert_ne!(one, light(8, 1, 2));
    }

    #[test]
    fn a_plain_image_only_changes_its_brightness() {
        let image = RgbImage::from_pixel(9, 5, Rgb([100, 100, 100]));
        let change = light(1, 1, 1);
        let changed = change.apply(&image);
        assert_eq!(changed.dimensions(), (9, 5));
        let expected = change.gain.map(|gain| (100.0 * gain).round() as u8);
        assert!(changed.pixels().all(|p| p.0 == expected));
    }

    #[test]
    fn no_change_leaves_an_image_as_it_is() {
        let image = RgbImage::from_fn(8, 6, |x, y| Rgb([x as u8 * 9, y as u8 * 11, 3]));
        let none = Augmentation {
            cos: 1.0,
            sin: 0.0,
            shift: [0.0; 2],
            mirrored: false,
            gain: [1.0; 3],
        };
        assert_eq!(none.apply(&image), image);
    }
}
