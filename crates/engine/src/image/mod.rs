//! Converts images to tensors like the image processors of `transformers`.
//!
//! Steps: decode, rotate by the Exif orientation, resize, crop the centre, scale and
//! normalise; see [`ImageProcessor::process`].

mod config;
mod decode;
mod format;
mod resize;

use image::RgbImage;

pub use self::{
    config::ProcessorClass,
    decode::{check, check_head, size},
    resize::Resample,
};
use crate::{Error, Result, augment::Augmentation};

/// Resizing of an image before the centre crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resize {
    /// Keep the size.
    None,
    /// Resize the short side to this many pixels, and keep the aspect ratio.
    Shortest(u32),
    /// Resize to exactly this size.
    Exact {
        /// Height in pixels.
        height: u32,
        /// Width in pixels.
        width: u32,
    },
}

/// Steps from an encoded image to the model's input.
///
/// They are read from `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// Resizing before the centre crop.
    pub resize: Resize,
    /// Filter for resizing. Like Pillow's, it widens when an image shrinks.
    pub resample: Resample,
    /// Height and width of the centre crop.
    pub crop: Option<[u32; 2]>,
    /// Factor for values from 0 to 255.
    pub scale: f64,
    /// Mean of each channel, subtracted after scaling.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, by which values are divided last.
    pub std: [f32; 3],
    /// Height and width of the model's input.
    sides: [u32; 2],
}

/// CLIP's channel means.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// CLIP's channel standard deviations.
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// ImageNet's channel means.
pub(crate) const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations.
pub(crate) const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Default input size of convolutional networks, as in the Python Finetuner.
const CNN_SIDE: u32 = 224;

impl ImageProcessor {
    /// Returns the processor of a CLIP model for images of `size` pixels.
    #[must_use]
    pub fn clip(size: u32) -> Self {
        Self {
            resize: Resize::Shortest(size),
            resample: Resample::Bicubic,
            crop: Some([size; 2]),
            scale: 1.0 / 255.0,
            mean: CLIP_MEAN,
            std: CLIP_STD,
            sides: [size; 2],
        }
    }

    /// Returns the Python Finetuner's processor of convolutional networks.
    ///
    /// It resizes to 224x224 pixels and applies ImageNet's normalisation.
    #[must_use]
    pub fn cnn() -> Self {
        Self {
            resize: Resize::Exact {
                height: CNN_SIDE,
                width: CNN_SIDE,
            },
            resample: Resample::Bicubic,
            crop: None,
            scale: 1.0 / 255.0,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            sides: [CNN_SIDE; 2],
        }
    }

    /// Returns height and width of the model's input in pixels.
    #[must_use]
    pub fn sides(&self) -> [u32; 2] {
        self.sides
    }

    /// Returns the number of values per image: three channels of its pixels.
    #[must_use]
    pub fn values(&self) -> usize {
        3 * self.sides[0] as usize * self.sides[1] as usize
    }

    /// Decodes a PNG, JPEG, GIF, WebP or BMP and writes the model's input to `out`.
    ///
    /// `out` holds one channel after another. The image is first rotated by its Exif
    /// orientation, as `load_image` of `transformers` does. To get the same result,
    /// Python programs that use `PIL.Image.open` must call
    /// `PIL.ImageOps.exif_transpose`.
    ///
    /// # Errors
    /// [`Error::Data`] if the bytes are not a supported image, if it exceeds 16,384
    /// pixels per side or 256 MiB decoded, or if its size does not fit the model.
    pub fn process(
        &self,
        encoded: &[u8],
        augmentation: Option<&Augmentation>,
        out: &mut [f32],
    ) -> Result<()> {
        let mut image = decode::decode(encoded)?;
        if let Some(augmentation) = augmentation {
            image = augmentation.apply(&image);
        }
        let image = self.resize(image)?;
        let (width, height) = image.dimensions();
        let [out_height, out_width] = self.sides;
        if self.crop.is_none() && [height, width] != self.sides {
            return Err(Error::data(format!(
                "the image has {width}x{height} pixels, but the model takes {out_width}x{out_height}, \
                 and its preprocessor_config.json neither resizes nor crops to this size: resize \
                 the image"
            )));
        }
        let values = self.value_table();
        // If a side is shorter than the crop, the border is black.
        let start = |side: u32, wanted: u32| (i64::from(side) - i64::from(wanted)).div_euclid(2);
        let (top, left) = (start(height, out_height), start(width, out_width));
        let plane = self.values() / 3;
        for y in 0..out_height {
            for x in 0..out_width {
                let (px, py) = (
                    u32::try_from(i64::from(x) + left),
                    u32::try_from(i64::from(y) + top),
                );
                let pixel = match (px, py) {
                    (Ok(px), Ok(py)) if px < width && py < height => image.get_pixel(px, py).0,
                    _ => [0; 3],
                };
                let at = y as usize * out_width as usize + x as usize;
                for channel in 0..3 {
                    out[channel * plane + at] = values[channel][usize::from(pixel[channel])];
                }
            }
        }
        Ok(())
    }

    /// Returns the model input value of each pixel value, per channel.
    fn value_table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                let value = (level as f64 * self.scale) as f32;
                (value - self.mean[channel]) / self.std[channel]
            })
        })
    }

    fn resize(&self, image: RgbImage) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        let size = match self.resize {
            Resize::None => return Ok(image),
            Resize::Exact { height, width } => (width, height),
            Resize::Shortest(edge) => {
                let (short, long) = (width.min(height), width.max(height));
                let long = u64::from(long) * u64::from(edge) / u64::from(short);
                let long = u32::try_from(long)
                    .ok()
                    .filter(|long| {
                        u64::from(*long) * u64::from(edge) * 3 < decode::MAX_DECODED_BYTES
                    })
                    .ok_or_else(|| {
                        Error::data(format!(
                            "an image of {width}x{height} pixels is too elongated to resize: crop it"
                        ))
                    })?;
                if width <= height {
                    (edge, long)
                } else {
                    (long, edge)
                }
            }
        };
        resize::resize(image, size, self.resample)
    }
}
