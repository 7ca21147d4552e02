//! Pictures to tensors, as the image processors of `transformers` do it:
//! decode, scale, cut out the middle, scale values, normalise.

use fast_image_resize as fir;
use image::{ImageReader, Limits, RgbImage};
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result, augment::Augmentation};

/// No picture may need more memory than this while it is decoded.
const MAX_DECODED_BYTES: u64 = 256 << 20;
/// No picture may be wider or higher than this.
const MAX_SIDE: u32 = 16_384;

/// How a picture is scaled before its middle is cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Its short side to so many pixels; the sides keep their ratio.
    Shortest(u32),
    /// Both sides to so many pixels.
    Square(u32),
}

/// How pixels between pixels are made, with the numbers of Pillow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// The nearest one: 0.
    Nearest,
    /// A triangle around it: 2.
    Bilinear,
    /// A cubic curve: 3.
    Bicubic,
}

/// The steps from an encoded picture to the input of a model, read from its
/// `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// How it is scaled.
    pub resize: Resize,
    /// The filter for scaling. It widens when it shrinks, as Pillow's.
    pub resample: Resample,
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

/// Channel means of ImageNet.
pub(crate) const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Channel deviations of ImageNet.
pub(crate) const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
/// The side that convolutional networks see pictures at where nothing else is
/// said, as in the Python Finetuner.
const CNN_SIDE: u32 = 224;

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
    #[serde(default, alias = "feature_extractor_type")]
    image_processor_type: String,
    size: Option<Size>,
    crop_size: Option<Size>,
    crop_pct: Option<f64>,
    do_center_crop: Option<bool>,
    resample: Option<u32>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    include_top: Option<bool>,
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::checkpoint(format!("preprocessor_config.json: {reason}"))
}

impl File {
    fn read(json: &Value) -> Result<Self> {
        // `transformers` 5 writes one file for all processors of a model.
        let json = json.get("image_processor").unwrap_or(json);
        serde_json::from_value(json.clone()).map_err(bad)
    }

    fn resample(&self) -> Result<Resample> {
        match self.resample {
            None | Some(3) => Ok(Resample::Bicubic),
            Some(2) => Ok(Resample::Bilinear),
            Some(0) => Ok(Resample::Nearest),
            Some(other) => Err(bad(format!(
                "`resample` is {other}; 0, 2 and 3 are known: nearest, bilinear, bicubic"
            ))),
        }
    }

    fn check(processor: ImageProcessor) -> Result<ImageProcessor> {
        let (Resize::Shortest(side) | Resize::Square(side)) = processor.resize;
        let sides = [side, processor.crop];
        if sides.iter().any(|side| *side == 0 || *side > 4096) {
            return Err(bad(format!(
                "pictures of {} pixels; from 1 to 4096 are possible",
                sides[0].max(sides[1])
            )));
        }
        if processor.std.iter().any(|std| !std.is_normal()) {
            return Err(bad("`image_std` holds a zero"));
        }
        Ok(processor)
    }
}

impl ImageProcessor {
    /// The processor of a CLIP model for pictures of `size` pixels.
    #[must_use]
    pub fn clip(size: u32) -> Self {
        Self {
            resize: Resize::Shortest(size),
            resample: Resample::Bicubic,
            crop: size,
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    /// The processor of convolutional networks in the Python Finetuner: 224x224
    /// pixels, normalised as ImageNet.
    #[must_use]
    pub fn cnn() -> Self {
        Self {
            resize: Resize::Square(CNN_SIDE),
            resample: Resample::Bicubic,
            crop: CNN_SIDE,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// Reads the `preprocessor_config.json` of a CLIP; `size` is the model's
    /// own, for what the file doesn't say.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the file asks for steps that are not known.
    pub fn parse_clip(json: &Value, size: u32) -> Result<Self> {
        let file = File::read(json)?;
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
            Some(_) => return Err(bad("`crop_size` is not a square")),
        };
        if crop != size || resize == 0 {
            return Err(bad(format!(
                "pictures of {crop} pixels do not fit a model for {size}"
            )));
        }
        File::check(Self {
            resize: Resize::Shortest(resize),
            resample: file.resample()?,
            crop,
            mean: file.image_mean.unwrap_or(CLIP_MEAN),
            std: file.image_std.unwrap_or(CLIP_STD),
        })
    }

    /// Reads the `preprocessor_config.json` of a convolutional network.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the file asks for steps that are not known.
    pub fn parse_cnn(json: &Value) -> Result<Self> {
        let file = File::read(json)?;
        let crops = file.do_center_crop.unwrap_or(false);
        let (resize, crop) = match file.size {
            None => (Resize::Square(CNN_SIDE), CNN_SIDE),
            Some(Size::Box { height, width }) if height == width => {
                (Resize::Square(height), height)
            }
            Some(Size::Box { height, width }) => {
                return Err(bad(format!(
                    "`size` is {height}x{width}; a square is wanted"
                )));
            }
            Some(
                Size::Edge(edge)
                | Size::Shortest {
                    shortest_edge: edge,
                },
            ) => {
                // ConvNeXt's processor: small pictures are scaled a little larger
                // than what is cut out, large ones squeezed.
                match file.crop_pct {
                    Some(part) if edge < 384 && part > 0.0 && part <= 1.0 => {
                        let larger = (f64::from(edge) / part) as u32;
                        (Resize::Shortest(larger), edge)
                    }
                    Some(_) => (Resize::Square(edge), edge),
                    None => (Resize::Shortest(edge), edge),
                }
            }
        };
        let crop = match file.crop_size {
            Some(Size::Edge(edge)) if crops => edge,
            Some(Size::Box { height, width }) if crops && height == width => height,
            _ => crop,
        };
        let mut std = file.image_std.unwrap_or(IMAGENET_STD);
        // EfficientNet's processor divides by the deviations twice.
        if file.include_top.unwrap_or(false) && file.image_processor_type.contains("EfficientNet") {
            std = std.map(|std| std * std);
        }
        File::check(Self {
            resize,
            resample: file.resample()?,
            crop,
            mean: file.image_mean.unwrap_or(IMAGENET_MEAN),
            std,
        })
    }

    /// What `transformers` reads back.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (kind, size) = match self.resize {
            Resize::Shortest(edge) => (
                "CLIPImageProcessor",
                serde_json::json!({"shortest_edge": edge}),
            ),
            Resize::Square(side) => (
                "ViTImageProcessor",
                serde_json::json!({"height": side, "width": side}),
            ),
        };
        let resample = match self.resample {
            Resample::Nearest => 0,
            Resample::Bilinear => 2,
            Resample::Bicubic => 3,
        };
        let mut json = serde_json::json!({
            "image_processor_type": kind,
            "do_convert_rgb": true,
            "do_resize": true,
            "size": size,
            "resample": resample,
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "image_mean": self.mean,
            "image_std": self.std,
        });
        if matches!(self.resize, Resize::Shortest(_)) {
            json["do_center_crop"] = true.into();
            json["crop_size"] = serde_json::json!({"height": self.crop, "width": self.crop});
        }
        json
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

    fn scale(&self, picture: RgbImage) -> Result<RgbImage> {
        let (width, height) = picture.dimensions();
        let (new_width, new_height) = match self.resize {
            Resize::Square(side) => (side, side),
            Resize::Shortest(edge) => {
                let (short, long) = (width.min(height), width.max(height));
                let long = u64::from(long) * u64::from(edge) / u64::from(short);
                let long = u32::try_from(long)
                    .ok()
                    .filter(|long| u64::from(*long) * u64::from(edge) * 3 < MAX_DECODED_BYTES)
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
        if (width, height) == (new_width, new_height) {
            return Ok(picture);
        }
        let bad =
            |e: &dyn std::fmt::Display| Error::data(format!("a picture can't be scaled: {e}"));
        let mut picture = fir::images::Image::from_vec_u8(
            width,
            height,
            picture.into_raw(),
            fir::PixelType::U8x3,
        )
        .map_err(|e| bad(&e))?;
        let options = fir::ResizeOptions::new().resize_alg(match self.resample {
            Resample::Nearest => fir::ResizeAlg::Nearest,
            Resample::Bilinear => fir::ResizeAlg::Convolution(fir::FilterType::Bilinear),
            Resample::Bicubic => fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom),
        });
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
