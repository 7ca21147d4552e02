//! Pictures to tensors, as the image processors of `transformers` do it:
//! decode, resize, cut out the middle, scale values, normalise.
//!
//! Pictures are turned upright by their Exif orientation, as `load_image` of
//! `transformers` does; see [`ImageProcessor::process`].

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

/// How a picture is resized before its middle is cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resize {
    /// It keeps its size.
    None,
    /// Its short side to so many pixels; the sides keep their ratio.
    Shortest(u32),
    /// Both sides to so many pixels.
    Exact {
        /// In pixels.
        height: u32,
        /// In pixels.
        width: u32,
    },
}

/// The steps from an encoded picture to the input of a model, read from its
/// `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// How it is resized.
    pub resize: Resize,
    /// The filter for resizing. It widens when it shrinks, as Pillow's.
    pub resample: Resample,
    /// Height and width of the part cut out of the middle.
    pub crop: Option<[u32; 2]>,
    /// Factor of the values, which are from 0 to 255.
    pub scale: f64,
    /// Subtracted from each channel, after scaling.
    pub mean: [f32; 3],
    /// Divisor of each channel after that.
    pub std: [f32; 3],
    /// Height and width of the model's input.
    sides: [u32; 2],
}

/// OpenAI's channel means.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// OpenAI's channel deviations.
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Channel means of ImageNet.
pub(crate) const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Channel deviations of ImageNet.
pub(crate) const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
/// The side that convolutional networks see pictures at where nothing else is
/// said, as in the Python Finetuner.
const CNN_SIDE: u32 = 224;

impl ImageProcessor {
    /// The processor of a CLIP model for pictures of `size` pixels.
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

    /// The processor of convolutional networks in the Python Finetuner: 224x224
    /// pixels, normalised as ImageNet.
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

    /// Height and width of the model's input in pixels.
    #[must_use]
    pub fn sides(&self) -> [u32; 2] {
        self.sides
    }

    /// The number of values of one picture: three channels of its pixels.
    #[must_use]
    pub fn values(&self) -> usize {
        3 * self.sides[0] as usize * self.sides[1] as usize
    }

    /// Decodes a PNG, JPEG, GIF, WebP or BMP and writes the model's input to
    /// `out`, channel by channel.
    ///
    /// A picture is turned upright by its Exif orientation first, in every
    /// format. `load_image` of `transformers` does so, and with it its
    /// pipelines and processors that are given paths or addresses. Python
    /// programs that open files with `PIL.Image.open` have to call
    /// `PIL.ImageOps.exif_transpose` for the same result.
    ///
    /// # Errors
    /// [`Error::Data`] where the bytes are not such a picture, or one that is
    /// larger than 16,384 pixels a side or 256 MiB decoded, or one whose size
    /// the model does not take.
    pub fn process(
        &self,
        encoded: &[u8],
        augmentation: Option<&Augmentation>,
        out: &mut [f32],
    ) -> Result<()> {
        let mut picture = decode::decode(encoded)?;
        if let Some(augmentation) = augmentation {
            picture = augmentation.apply(&picture);
        }
        let picture = self.resize(picture)?;
        let (width, height) = picture.dimensions();
        let [out_height, out_width] = self.sides;
        if self.crop.is_none() && [height, width] != self.sides {
            return Err(Error::data(format!(
                "the picture has {width}x{height} pixels, the model takes {out_width}x{out_height}, \
                 and its preprocessor_config.json neither resizes nor crops to this size: resize \
                 the picture"
            )));
        }
        let values = self.values_of_levels();
        // Pictures with a side shorter than the crop get a black border.
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
                    (Ok(px), Ok(py)) if px < width && py < height => picture.get_pixel(px, py).0,
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

    /// The value that each of 256 levels of a channel becomes.
    fn values_of_levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                let value = (level as f64 * self.scale) as f32;
                (value - self.mean[channel]) / self.std[channel]
            })
        })
    }

    fn resize(&self, picture: RgbImage) -> Result<RgbImage> {
        let (width, height) = picture.dimensions();
        let size = match self.resize {
            Resize::None => return Ok(picture),
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
                            "a picture of {width}x{height} pixels is too oblong"
                        ))
                    })?;
                if width <= height {
                    (edge, long)
                } else {
                    (long, edge)
                }
            }
        };
        resize::resize(picture, size, self.resample)
    }
}
