//! Reads `preprocessor_config.json` as `transformers` does.
//!
//! A missing field has the default of the processor class, as in `transformers`.
//! Unknown steps are rejected by the name of their field.

use serde_json::{Map, Value};

use super::{CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, ImageProcessor, Resample, Resize};
use crate::{Error, Result};

/// Supported image processor classes of `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessorClass {
    /// `BeitImageProcessor`.
    Beit,
    /// `BitImageProcessor`, which DINOv2 uses too.
    Bit,
    /// `BlipImageProcessor`.
    Blip,
    /// `CLIPImageProcessor`, and `ChineseCLIPImageProcessor`.
    Clip,
    /// `ConvNextImageProcessor`, which ResNet uses too.
    ConvNext,
    /// `DeiTImageProcessor`.
    DeiT,
    /// `EfficientNetImageProcessor`.
    EfficientNet,
    /// `PvtImageProcessor`.
    Pvt,
    /// `SiglipImageProcessor`.
    Siglip,
    /// `ViTImageProcessor`.
    Vit,
}

/// Values of a class for fields that the file omits.
struct Defaults {
    size: Size,
    /// Whether a `size` that is a single number means a square.
    square: bool,
    /// Height and width of the centre crop, and whether it is on.
    crop: Option<([u32; 2], bool)>,
    resample: Resample,
    mean: [f32; 3],
    std: [f32; 3],
}

impl ProcessorClass {
    /// Finds a class by name, ignoring suffixes for backend and version.
    fn find(name: &str) -> Option<Self> {
        let name = ["Pil", "Fast"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        let name = ["ImageProcessor", "FeatureExtractor"]
            .iter()
            .find_map(|end| name.strip_suffix(end))?;
        Some(match name {
            "Beit" => Self::Beit,
            "Bit" => Self::Bit,
            "Blip" => Self::Blip,
            "CLIP" | "ChineseCLIP" => Self::Clip,
            "ConvNext" => Self::ConvNext,
            "DeiT" => Self::DeiT,
            "EfficientNet" => Self::EfficientNet,
            "Pvt" => Self::Pvt,
            "Siglip" => Self::Siglip,
            "ViT" => Self::Vit,
            _ => return None,
        })
    }

    fn defaults(self) -> Defaults {
        const HALVES: [f32; 3] = [0.5; 3];
        let shortest = |edge| (Size::Shortest(edge), false);
        let square = |side| (Size::Exact([side; 2]), true);
        let with = |(size, square), crop, resample, mean, std| Defaults {
            size,
            square,
            crop,
            resample,
            mean,
            std,
        };
        let crop = |side, on| Some(([side; 2], on));
        let bicubic = Resample::Bicubic;
        match self {
            Self::Clip | Self::Bit => {
                with(shortest(224), crop(224, true), bicubic, CLIP_MEAN, CLIP_STD)
            }
            Self::Blip => with(square(384), None, bicubic, CLIP_MEAN, CLIP_STD),
            Self::Siglip => {
                let size = (Size::Exact([224; 2]), false);
                with(size, None, bicubic, HALVES, HALVES)
            }
            Self::Vit => with(square(224), None, Resample::Bilinear, HALVES, HALVES),
            Self::Beit => with(square(224), crop(224, false), bicubic, HALVES, HALVES),
            Self::DeiT => with(square(256), crop(224, true), bicubic, HALVES, HALVES),
            Self::Pvt => with(square(224), None, bicubic, IMAGENET_MEAN, IMAGENET_STD),
            Self::ConvNext => with(shortest(384), None, bicubic, HALVES, HALVES),
            Self::EfficientNet => with(square(346), crop(289, false), bicubic, HALVES, HALVES),
        }
    }
}

/// A value of `size` or `crop_size`.
enum Size {
    Shortest(u32),
    /// Height and width.
    Exact([u32; 2]),
}

/// Maximum side length in pixels to resize to.
const LONGEST: u64 = 4096;

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::checkpoint(format!("preprocessor_config.json: {reason}"))
}

/// Fields of the file.
///
/// As in Python, a `null` flag is off and a `null` value is absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Returns the field's value, unless it is `null`.
    fn value(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|value| !value.is_null())
    }

    fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn wrong(&self, name: &str, wanted: &str) -> Error {
        let value = self.get(name).unwrap_or(&Value::Null);
        bad(format!("`{name}` is {value}; give {wanted}"))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::Null) => Ok(false),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.value(name) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(name, "a number")),
        }
    }

    /// Reads three numbers, one per channel, or one number for all channels.
    fn channels(&self, name: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        let Some(value) = self.value(name) else {
            return Ok(default);
        };
        if let Some(one) = value.as_f64() {
            return Ok([one as f32; 3]);
        }
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let numbers: Vec<f32> = list
            .iter()
            .flat_map(Value::as_f64)
            .map(|n| n as f32)
            .collect();
        <[f32; 3]>::try_from(numbers)
            .ok()
            .filter(|_| list.len() == 3)
            .ok_or_else(|| self.wrong(name, "one number for each of 3 channels"))
    }

    fn resample(&self, default: Resample) -> Result<Resample> {
        let Some(value) = self.value("resample") else {
            return Ok(default);
        };
        let known = value.as_u64().and_then(Resample::from_number);
        known.ok_or_else(|| {
            self.wrong(
                "resample",
                "0 to 5 (nearest, lanczos, bilinear, bicubic, box, hamming)",
            )
        })
    }

    /// Reads a size: a number, a pair, or an object.
    ///
    /// A single number is the side of a square if `square` is set, or else the short
    /// side.
    fn size(&self, name: &str, square: bool) -> Result<Option<Size>> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let side = |value: Option<&Value>| match value.and_then(Value::as_u64) {
            Some(side @ 1..=LONGEST) => Ok(side as u32),
            _ => Err(self.wrong(name, &format!("a size of 1 to {LONGEST} pixels"))),
        };
        let size = match value {
            Value::Number(_) if square => Size::Exact([side(Some(value))?; 2]),
            Value::Number(_) => Size::Shortest(side(Some(value))?),
            Value::Array(pair) if pair.len() == 2 => {
                Size::Exact([side(pair.first())?, side(pair.get(1))?])
            }
            Value::Object(keys) => {
                let keys = Fields(keys);
                let key = |name: &str| keys.value(name);
                let (height, width) = (key("height"), key("width"));
                match (key("shortest_edge"), key("longest_edge")) {
                    (None, None) => Size::Exact([side(height)?, side(width)?]),
                    (edge @ Some(_), None) => Size::Shortest(side(edge)?),
                    _ => return Err(self.wrong(name, "a size without `longest_edge`")),
                }
            }
            _ => return Err(self.wrong(name, "a number, or height and width, or shortest_edge")),
        };
        Ok(Some(size))
    }
}

/// `do_...` fields without effect here.
///
/// They concern label maps of segmentation, and the conversion to RGB, which always
/// happens.
const WITHOUT_EFFECT: [&str; 3] = ["do_reduce_labels", "reduce_labels", "do_convert_rgb"];

impl ImageProcessor {
    /// Parses a `preprocessor_config.json`.
    ///
    /// It also accepts the `processor_config.json` of `transformers` 5. `class` applies
    /// to files that name no class. `model` is the height and width of the model's
    /// input, if it is fixed.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file has unknown steps, or yields a size that does
    /// not fit the model.
    pub fn parse(json: &Value, class: ProcessorClass, model: Option<[u32; 2]>) -> Result<Self> {
        let json = json.get("image_processor").unwrap_or(json);
        let fields = Fields(json.as_object().ok_or_else(|| bad("it is not an object"))?);
        let class = class_of(&fields, class)?;
        refuse_unknown_steps(&fields)?;
        let defaults = class.defaults();
        let crops = defaults.crop.is_some_and(|(_, on)| on);
        let mut crop = None;
        if fields.flag("do_center_crop", crops)? {
            crop = match fields.size("crop_size", true)? {
                Some(Size::Exact(sides)) => Some(sides),
                Some(Size::Shortest(_)) => {
                    return Err(fields.wrong("crop_size", "height and width"));
                }
                None => defaults.crop.map(|(sides, _)| sides),
            };
            if crop.is_none() {
                return Err(bad("`do_center_crop` is true, but there is no `crop_size`"));
            }
        }
        let (mut resize, mut resample) = (Resize::None, defaults.resample);
        if fields.flag("do_resize", true)? {
            let given = match fields.flag("use_square_size", false)? {
                // In this case, `transformers` ignores `size` and uses the class's
                // default square.
                true if class == ProcessorClass::Clip => Some(Size::Exact([224; 2])),
                _ => fields.size("size", defaults.square)?,
            };
            resize = match given.unwrap_or(defaults.size) {
                Size::Shortest(edge) => Resize::Shortest(edge),
                Size::Exact([height, width]) => Resize::Exact { height, width },
            };
            if class == ProcessorClass::ConvNext {
                (resize, crop) = convnext(resize, crop, &fields)?;
            }
            resample = fields.resample(resample)?;
        }
        let scale = match fields.flag("do_rescale", true)? {
            true => fields.number("rescale_factor", 1.0 / 255.0)?,
            false => 1.0,
        };
        let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
        if fields.flag("do_normalize", true)? {
            mean = fields.channels("image_mean", defaults.mean)?;
            std = fields.channels("image_std", defaults.std)?;
        }
        if class == ProcessorClass::EfficientNet {
            if fields.flag("rescale_offset", false)? && scale != 1.0 {
                mean = mean.map(|mean| mean + 1.0);
            }
            // The class divides by the standard deviation twice.
            if fields.flag("include_top", true)? {
                let again = fields.channels("image_std", defaults.std)?;
                std = [0, 1, 2].map(|channel| std[channel] * again[channel]);
            }
        }
        if !scale.is_normal() || std.iter().any(|std| !std.is_normal()) {
            return Err(bad("`rescale_factor` or `image_std` holds a zero"));
        }
        Ok(Self {
            sides: sides(resize, crop, model)?,
            resize,
            resample,
            crop,
            scale,
            mean,
            std,
        })
    }

    /// Returns all settings as a file that `transformers` can read.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let size = match self.resize {
            Resize::Shortest(edge) => Some(serde_json::json!({"shortest_edge": edge})),
            Resize::Exact { height, width } => {
                Some(serde_json::json!({"height": height, "width": width}))
            }
            Resize::None => None,
        };
        // Of these two classes, only CLIP's can crop.
        let kind = match (self.resize, self.crop) {
            (Resize::Exact { .. }, None) => "ViTImageProcessor",
            _ => "CLIPImageProcessor",
        };
        let mut json = serde_json::json!({
            "image_processor_type": kind,
            "do_convert_rgb": true,
            "do_resize": size.is_some(),
            "resample": self.resample.number(),
            "do_rescale": true,
            "rescale_factor": self.scale,
            "do_normalize": true,
            "image_mean": self.mean,
            "image_std": self.std,
        });
        if let Some(size) = size {
            json["size"] = size;
        }
        if kind == "CLIPImageProcessor" {
            json["do_center_crop"] = self.crop.is_some().into();
        }
        if let Some([height, width]) = self.crop {
            json["crop_size"] = serde_json::json!({"height": height, "width": width});
        }
        json
    }
}

/// Returns height and width of the model's input.
fn sides(resize: Resize, crop: Option<[u32; 2]>, model: Option<[u32; 2]>) -> Result<[u32; 2]> {
    let sides = match (crop, resize) {
        (Some(sides), _) => sides,
        (None, Resize::Exact { height, width }) => [height, width],
        // The processed size depends on the image. `process` compares it with the
        // model's.
        (None, Resize::Shortest(edge)) => return Ok(model.unwrap_or([edge; 2])),
        (None, Resize::None) => {
            return model.ok_or_else(|| {
                bad("`do_resize` is false, but the model needs a fixed size: set `do_resize` and `size`")
            });
        }
    };
    match model {
        Some(model) if model != sides => Err(bad(format!(
            "images are resized to {} pixels, but the model takes {}",
            side_by_side(sides),
            side_by_side(model)
        ))),
        _ => Ok(sides),
    }
}

fn side_by_side([height, width]: [u32; 2]) -> String {
    match height == width {
        true => height.to_string(),
        false => format!("{height}x{width} (height x width)"),
    }
}

/// Returns the class that the file names.
fn class_of(fields: &Fields<'_>, default: ProcessorClass) -> Result<ProcessorClass> {
    // Until 2023, processors were called feature extractors.
    let name = ["image_processor_type", "feature_extractor_type"]
        .iter()
        .find(|name| fields.has(name));
    let Some(name) = name else {
        return Ok(default);
    };
    let value = fields.get(name).and_then(Value::as_str).unwrap_or_default();
    ProcessorClass::find(value).ok_or_else(|| {
        fields.wrong(
            name,
            "the processor of a Beit, Bit, Blip, CLIP, ConvNext, DeiT, EfficientNet, Pvt, Siglip \
             or ViT",
        )
    })
}

/// Rejects unknown steps that are enabled.
fn refuse_unknown_steps(fields: &Fields<'_>) -> Result<()> {
    let known = [
        "do_resize",
        "do_center_crop",
        "do_rescale",
        "do_normalize",
        "do_pad",
    ];
    for (name, value) in fields.0 {
        let on = *value == Value::Bool(true);
        let known = known.contains(&name.as_str()) || WITHOUT_EFFECT.contains(&name.as_str());
        if on && !known && name.starts_with("do_") {
            return Err(bad(format!(
                "`{name}` is true, but this step is not supported"
            )));
        }
    }
    // Without `pad_size`, padding has no effect: all images have the same size.
    if fields.flag("do_pad", false)? && fields.has("pad_size") {
        return Err(fields.wrong("pad_size", "a processor that does not pad"));
    }
    Ok(())
}

/// Returns the resize and crop of a ConvNeXT processor.
///
/// Below 384 pixels, it resizes to `size / crop_pct` and crops the centre. From 384
/// pixels on, it stretches images to a square.
fn convnext(
    resize: Resize,
    crop: Option<[u32; 2]>,
    fields: &Fields<'_>,
) -> Result<(Resize, Option<[u32; 2]>)> {
    let Resize::Shortest(edge) = resize else {
        return Err(bad("`size` of a ConvNext processor has no `shortest_edge`"));
    };
    if edge >= 384 {
        let (height, width) = (edge, edge);
        return Ok((Resize::Exact { height, width }, crop));
    }
    let part = fields.number("crop_pct", 224.0 / 256.0)?;
    let larger = (f64::from(edge) / part) as u64;
    if !(1..=LONGEST).contains(&larger) {
        return Err(fields.wrong("crop_pct", "a fraction from 0.1 to 1"));
    }
    if crop.is_some_and(|crop| crop != [edge; 2]) {
        return Err(bad(
            "`crop_size` differs from the `size` of a ConvNext processor",
        ));
    }
    Ok((Resize::Shortest(larger as u32), Some([edge; 2])))
}
