//! Pictures to tensors, as the CLIP image processor of `transformers` does it:
//! decode, scale the short side, cut out the middle, scale values, normalise.

use fast_image_resize as fir;
use image::{ImageReader, Limits, RgbImage};
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result, augment::Augmentation};

/// No picture may need more memory than this while it is decoded.
const MAX_DECODED_BYTES: u64 = 256 << 20;
/// No picture may be wider or higher than this.
const MAX_SIDE: u32 = 16_384;

/// The steps from an encoded picture to the input of a model, read from its
/// `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// What the short side is scaled to, in pixels.
    pub resize: u32,
    /// Height and width of the part cut out of the middle.
    pub crop: u32,
    /// What is taken from each channel, after scaling to 0..1.
    pub mean: [f32; 3],
    /// What each channel is divided by then.
    pub std: [f32; 3],
}

/// OpenAI's channel means.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// OpenAI's channel deviations.
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Sizes are written as a number or as an object, depending on the version.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Edge(u32),
    Shortest { shortest_edge: u32 },
    Box { height: u32, width: u32 },
}

#[derive(Deserialize)]
struct File {
    size: Option<Size>,
    crop_size: Option<Size>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

impl ImageProcessor {
    /// The processor of a CLIP model for pictures of `size` pixels.
    #[must_use]
    pub fn clip(size: u32) -> Self {
        Self {
            resize: size,
            crop: size,
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    /// Reads a `preprocessor_config.json`; `size` is the model's own, for what
    /// the file doesn't say.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the file asks for steps that are not known.
    pub fn parse(json: &Value, size: u32) -> Result<Self> {
        let bad = |reason: String| Error::checkpoint(format!("preprocessor_config.json: {reason}"));
        // `transformers` 5 writes one file for all processors of a model.
        let json = json.get("image_processor").unwrap_or(json);
        let file: File = serde_json::from_value(json.clone()).map_err(|e| bad(e.to_string()))?;
        let resize = match file.size {
            None => size,
            Some(
                Size::Edge(edge)
                | Size::Shortest {
                    shortest_edge: edge,
                },
            ) => edge,
            Some(Size::Box { height, width }) => {
                return Err(bad(format!(
                    "`size` is {height}x{width}; a `shortest_edge` is wanted"
                )));
            }
        };
        let crop = match file.crop_size {
            None => size,
            Some(Size::Edge(edge)) => edge,
            Some(Size::Box { height, width }) if height == width => height,
            Some(_) => return Err(bad("`crop_size` is not a square".to_owned())),
        };
        if crop != size || resize == 0 {
            return Err(bad(format!(
                "pictures of {crop} pixels do not fit a model for {size}"
            )));
        }
        Ok(Self {
            resize,
            crop,
            mean: file.image_mean.unwrap_or(CLIP_MEAN),
            std: file.image_std.unwrap_or(CLIP_STD),
        })
    }

    /// What `transformers` reads back.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": true,
            "do_resize": true,
            "size": {"shortest_edge": self.resize},
            "resample": 3,
            "do_center_crop": true,
            "crop_size": {"height": self.crop, "width": self.crop},
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "image_mean": self.mean,
            "image_std": self.std,
        })
    }

    /// The number of values of one picture: three channels of `crop * crop`.
    #[must_use]
    pub fn values(&self) -> usize {
        3 * (self.crop * self.crop) as usize
    }

    /// Decodes a PNG, JPEG, GIF, WebP or BMP and writes the model's input to
    /// `out`, channel by channel.
    ///
    /// # Errors
    /// [`Error::Data`] where the bytes are not such a picture, or one that is
    /// larger than 16,384 pixels a side or 256 MiB decoded.
    pub fn process(
        &self,
        encoded: &[u8],
        augmentation: Option<&Augmentation>,
        out: &mut [f32],
    ) -> Result<()> {
        let mut picture = decode(encoded)?;
        if let Some(augmentation) = augmentation {
            picture = augmentation.apply(&picture);
        }
        let picture = self.scale(picture)?;
        let (width, height) = picture.dimensions();
        // Pictures with one side shorter than the crop get a black border, as
        // `transformers` gives them.
        let top = (i64::from(height) - i64::from(self.crop)).div_euclid(2);
        let left = (i64::from(width) - i64::from(self.crop)).div_euclid(2);
        let side = i64::from(self.crop);
        let plane = (side * side) as usize;
        for y in 0..side {
            for x in 0..side {
                let (px, py) = (u32::try_from(x + left), u32::try_from(y + top));
                let pixel = match (px, py) {
                    (Ok(px), Ok(py)) if px < width && py < height => picture.get_pixel(px, py).0,
                    _ => [0; 3],
                };
                let at = (y * side + x) as usize;
                for channel in 0..3 {
                    let value = f32::from(pixel[channel]) / 255.0;
                    out[channel * plane + at] = (value - self.mean[channel]) / self.std[channel];
                }
            }
        }
        Ok(())
    }

    /// Scales the short side to `resize` with a bicubic filter that widens
    /// when it shrinks, as Pillow's.
    fn scale(&self, picture: RgbImage) -> Result<RgbImage> {
        let (width, height) = picture.dimensions();
        let (short, long) = (width.min(height), width.max(height));
        if short == self.resize {
            return Ok(picture);
        }
        let long = u64::from(long) * u64::from(self.resize) / u64::from(short);
        let long = u32::try_from(long)
            .ok()
            .filter(|long| u64::from(*long) * u64::from(self.resize) * 3 < MAX_DECODED_BYTES)
            .ok_or_else(|| {
                Error::data(format!(
                    "a picture of {width}x{height} pixels is too oblong"
                ))
            })?;
        let (new_width, new_height) = if width <= height {
            (self.resize, long)
        } else {
            (long, self.resize)
        };
        let bad =
            |e: &dyn std::fmt::Display| Error::data(format!("a picture can't be scaled: {e}"));
        let mut picture = fir::images::Image::from_vec_u8(
            width,
            height,
            picture.into_raw(),
            fir::PixelType::U8x3,
        )
        .map_err(|e| bad(&e))?;
        let options = fir::ResizeOptions::new()
            .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom));
        // Across first, then down: Pillow rounds to whole levels in between.
        for (width, height) in [(new_width, height), (new_width, new_height)] {
            let mut scaled = fir::images::Image::new(width, height, fir::PixelType::U8x3);
            fir::Resizer::new()
                .resize(&picture, &mut scaled, &options)
                .map_err(|e| bad(&e))?;
            picture = scaled;
        }
        RgbImage::from_raw(new_width, new_height, picture.into_vec())
            .ok_or_else(|| bad(&"wrong size"))
    }
}

/// Whether a picture can be decoded, to its last pixel.
///
/// # Errors
/// [`Error::Data`] where it can't, or where it is too large.
pub fn check(encoded: &[u8]) -> Result<()> {
    decode(encoded).map(drop)
}

/// As [`check`], by the picture's head alone.
///
/// # Errors
/// [`Error::Data`] where the format is unknown or the size is not allowed.
pub fn check_head(encoded: &[u8]) -> Result<()> {
    let (width, height) = reader(encoded)?
        .into_dimensions()
        .map_err(|e| unreadable(&e))?;
    if width == 0 || height == 0 {
        return Err(unreadable(&"it has no pixels"));
    }
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::data(format!(
            "a picture of {width}x{height} pixels; {MAX_SIDE} a side are allowed"
        )));
    }
    Ok(())
}

/// Decodes a picture to RGB. What is transparent lies on white, as the CLIP
/// processor of `transformers` has it since version 5.
fn decode(encoded: &[u8]) -> Result<RgbImage> {
    let picture = reader(encoded)?.decode().map_err(|e| unreadable(&e))?;
    if picture.width() == 0 || picture.height() == 0 {
        return Err(unreadable(&"it has no pixels"));
    }
    if !picture.color().has_alpha() {
        return Ok(picture.into_rgb8());
    }
    let picture = picture.into_rgba8();
    let mut opaque = RgbImage::new(picture.width(), picture.height());
    for (to, from) in opaque.pixels_mut().zip(picture.pixels()) {
        let alpha = u32::from(from[3]);
        let on_white = |channel: u8| {
            let sum = u32::from(channel) * alpha + 255 * (255 - alpha);
            ((sum + 127) / 255) as u8
        };
        to.0 = [on_white(from[0]), on_white(from[1]), on_white(from[2])];
    }
    Ok(opaque)
}

fn reader(encoded: &[u8]) -> Result<ImageReader<std::io::Cursor<&[u8]>>> {
    let mut reader = ImageReader::new(std::io::Cursor::new(encoded))
        .with_guessed_format()
        .map_err(|e| unreadable(&e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    Ok(reader)
}

fn unreadable(reason: &dyn std::fmt::Display) -> Error {
    Error::data(format!("not a readable picture: {reason}"))
}
